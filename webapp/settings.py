"""Settings, from the environment, with defaults for one machine.

META_REWARD_SECRET_KEY      signs sessions; default: made once, kept in var/secret_key
META_REWARD_DEBUG           1: Django's debug pages; never on a machine that others can reach
META_REWARD_ALLOWED_HOSTS   host names, separated by commas; default: this machine alone
META_REWARD_CSRF_ORIGINS    such as https://example.org, separated by commas
META_REWARD_VAR             folder of all that is made here; default: var/ in the checkout, or in
                            the current folder where the package is installed without one
DATABASE_URL                default: SQLite in var/db.sqlite3; postgres://user:password@host/name
CELERY_BROKER_URL           a Redis server; default: the one that `manage.py serve` brings up
META_REWARD_ARTIFACT_ROOT   files of experiments: a folder that all machines share, or an address
                            such as s3://bucket/folder; default: var/artifacts
META_REWARD_S3_ENDPOINT     the server of s3:// addresses; default: AWS. Credentials: as AWS tools
                            read them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a file that
                            AWS_SHARED_CREDENTIALS_FILE names; AWS_DEFAULT_REGION)
META_REWARD_CACHE_ROOT      copies of models that lie in a remote root; default: var/cache
META_REWARD_MODEL_ROOT      folder from which models may be loaded; default: var/models
META_REWARD_SCRATCH_ROOT    private folder for work in progress; default: var/scratch
META_REWARD_UPLOAD_MB       largest file of prompts that a form takes, in MB; default: 32
META_REWARD_LEASE_SECONDS   a worker that is silent for so long loses its shard; default: 30
META_REWARD_MAX_ATTEMPTS    a shard that failed so often waits for a person; default: 5
META_REWARD_TURN_SECONDS    a worker stays with one experiment for so long while others wait: 60
META_REWARD_ENGINE_PROCESSES  engine processes of a worker, and of run_iteration without a queue,
                            each on its own share of the GPUs or CPU cores; default: one for each
                            GPU, or one without GPUs
META_REWARD_ENGINE_MEMORY_MB  limit of an engine process's memory; default: none
META_REWARD_PUBLISH_ROOT    where published models are put; default: var/published
HF_TOKEN                    lets models be published on the Hugging Face hub, and gated or private
                            ones be fetched; default: not there
HF_ENDPOINT                 a mirror of the hub, for both; HF_HUB_DISABLE_XET=1 if it knows no Xet
HF_HUB_OFFLINE              1: the hub is never asked; models lie in META_REWARD_MODEL_ROOT
META_REWARD_EMAIL_HOST      mail server for notifications; default: no email is sent
META_REWARD_EMAIL_PORT      default: 465 with tls, else 587 with starttls, else 25
META_REWARD_EMAIL_SECURITY  tls, starttls or none; default: starttls
META_REWARD_EMAIL_USER, META_REWARD_EMAIL_PASSWORD, META_REWARD_EMAIL_FROM
META_REWARD_WEBHOOK_HOSTS   hosts (or host:port) that webhooks may use, separated by commas
META_REWARD_SITE_URL        such as https://example.org, for links in notifications; default: none
META_REWARD_STATIC_ROOT     where collectstatic puts files; default: they are served as they lie
META_REWARD_HTTPS           1: the site is reached by https alone, through a proxy that sets (and
                            never passes on) X-Forwarded-Proto; cookies and links are then secure
META_REWARD_PROXIES         how many proxies stand before the site and add to X-Forwarded-For
META_REWARD_METRICS_TOKEN   what a program shows to read /metrics and /healthz/report
META_REWARD_LOG             json: one object a line, for collectors; default: text
META_REWARD_LOG_LEVEL       default: INFO

A secret may lie in a file instead, which a variable with _FILE at its end names: SECRET_KEY,
METRICS_TOKEN and EMAIL_PASSWORD (after META_REWARD_), DATABASE_URL, CELERY_BROKER_URL, HF_TOKEN.
"""

import os
from pathlib import Path

import dj_database_url

from webapp.environment import is_enabled, make_lazy_key, read_list, read_secret
from webapp.logging_config import build_log_settings
from webapp.paths import (
    STATIC_SOURCES,
    TEMPLATE_ROOT,
    VAR_ROOT,
    get_runtime_folder,
    read_root,
)

DEBUG = is_enabled("META_REWARD_DEBUG")
SECRET_KEY = read_secret("META_REWARD_SECRET_KEY") or make_lazy_key(VAR_ROOT / "secret_key")
ALLOWED_HOSTS = read_list("META_REWARD_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = read_list("META_REWARD_CSRF_ORIGINS")

META_REWARD_ARTIFACT_ROOT = read_root("META_REWARD_ARTIFACT_ROOT", "artifacts")
META_REWARD_MODEL_ROOT = read_root("META_REWARD_MODEL_ROOT", "models")
META_REWARD_SCRATCH_ROOT = read_root("META_REWARD_SCRATCH_ROOT", "scratch")

# How old a page's region may be for those who only watch: it is drawn once for all of them.
META_REWARD_REGION_SECONDS = 1.0

# Prompts that people sent by a form, each under the hash of its content.
META_REWARD_UPLOAD_ROOT = str(VAR_ROOT / "uploads")
META_REWARD_EVALUATION_ROOT = os.environ.get(
    "META_REWARD_EVALUATION_ROOT", str(VAR_ROOT / "evaluation")
)
META_REWARD_UPLOAD_BYTES = int(float(os.environ.get("META_REWARD_UPLOAD_MB", "32")) * 1_000_000)
META_REWARD_UPLOAD_DAYS = 30
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o755  # of static files alone: nothing else uses them
DATA_UPLOAD_MAX_MEMORY_SIZE = 8_000_000  # pasted prompts, which a form's encoding makes longer
FILE_UPLOAD_HANDLERS = [
    "webapp.experiment_form.uploads.LimitedUploads",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

# The embedded broker. Where CELERY_BROKER_URL names a server, nobody starts it.
META_REWARD_BROKER_ROOT = str(VAR_ROOT / "broker")
META_REWARD_BROKER_SOCKET = str(get_runtime_folder() / "broker.sock")
_BROKER_GIVEN = read_secret("CELERY_BROKER_URL")
META_REWARD_BROKER_EMBEDDED = not _BROKER_GIVEN
CELERY_BROKER_URL = _BROKER_GIVEN or f"redis+socket://{META_REWARD_BROKER_SOCKET}"

# Celery carries messages and nothing else: rows are the truth. Why each value is as it is stands in
# docs/decisions/0004-rows-are-the-truth.md.
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "cpu"
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.2}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30.0
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 43_200,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_keepalive": True,
    "socket_connect_timeout": 5,
    "socket_timeout": 15,  # or whoever waits on a connection that a router forgot waits for ever
    "health_check_interval": 25,
    "global_keyprefix": "meta-reward:",
}

META_REWARD_LEASE_SECONDS = float(os.environ.get("META_REWARD_LEASE_SECONDS", "30"))
META_REWARD_TURN_SECONDS = float(os.environ.get("META_REWARD_TURN_SECONDS", "60"))
META_REWARD_ENGINE_PROCESSES = int(os.environ.get("META_REWARD_ENGINE_PROCESSES", "0"))
META_REWARD_MAX_ATTEMPTS = int(os.environ.get("META_REWARD_MAX_ATTEMPTS", "5"))

META_REWARD_PUBLISH_ROOT = str(
    Path(os.environ.get("META_REWARD_PUBLISH_ROOT", VAR_ROOT / "published")).absolute()
)
META_REWARD_HF_TOKEN = read_secret("HF_TOKEN")

# Notifications. Email needs a mail server, webhooks need allowed hosts.
EMAIL_HOST = os.environ.get("META_REWARD_EMAIL_HOST", "")
_EMAIL_SECURITY = os.environ.get("META_REWARD_EMAIL_SECURITY", "starttls")
EMAIL_USE_SSL = _EMAIL_SECURITY == "tls"
EMAIL_USE_TLS = _EMAIL_SECURITY == "starttls"
_EMAIL_PORTS = {"tls": "465", "starttls": "587"}
EMAIL_PORT = int(os.environ.get("META_REWARD_EMAIL_PORT", _EMAIL_PORTS.get(_EMAIL_SECURITY, "25")))
EMAIL_HOST_USER = os.environ.get("META_REWARD_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = read_secret("META_REWARD_EMAIL_PASSWORD")
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = os.environ.get("META_REWARD_EMAIL_FROM", "meta-reward@localhost")
META_REWARD_WEBHOOK_HOSTS = read_list("META_REWARD_WEBHOOK_HOSTS")
META_REWARD_SITE_URL = os.environ.get("META_REWARD_SITE_URL", "").rstrip("/")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_htmx",
    "csp",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "webapp.activity",
    "webapp.experiments",
    "webapp.dashboard",
    "webapp.accounts",
    "webapp.audit",
    "webapp.api",
    "webapp.notifications",
    "workers",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "webapp.logging_config.name_requests",
    "csp.middleware.CSPMiddleware",
    "webapp.bad_requests.refuse_malformed_addresses",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "webapp.cache_policy.forbid_caching",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.accounts.middleware.end_outdated_sessions",
    "webapp.bad_requests.refuse_malformed_fields",
    "webapp.accounts.middleware.SignInMiddleware",
    "webapp.activity.request_tracking.track_request",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "webapp.urls"
WSGI_APPLICATION = "webapp.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [TEMPLATE_ROOT],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": dj_database_url.parse(
        read_secret("DATABASE_URL") or f"sqlite:///{VAR_ROOT / 'db.sqlite3'}",
        conn_health_checks=True,
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # One connection for each thread, kept between requests and checked before it is used again. No
    # pool: a pool's threads do not survive the fork of a worker. Who works outside of a request
    # calls `close_old_connections` before each piece of work, or a connection that the server
    # has closed fails for ever.
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    # A server that has gone without a word is noticed within half a minute, not after a quarter of
    # an hour: a worker must know that it may have lost its shard.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        **DATABASES["default"].get("OPTIONS", {}),
    }
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Writers queue up at BEGIN instead of failing half-way through; readers never wait for them.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Length and novelty are what counts; rules about kinds of characters do not help.
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {"NAME": "webapp.accounts.security_log.PasswordChangeLogger"},
]

AUTHENTICATION_BACKENDS = ["webapp.accounts.login_throttle.ThrottledModelBackend"]
OTP_TOTP_ISSUER = "Meta-Reward"
META_REWARD_PROXIES = int(os.environ.get("META_REWARD_PROXIES", "0"))
META_REWARD_METRICS_TOKEN = read_secret("META_REWARD_METRICS_TOKEN")

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "index"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [STATIC_SOURCES]
STATIC_ROOT = os.environ.get("META_REWARD_STATIC_ROOT")
WHITENOISE_USE_FINDERS = STATIC_ROOT is None

SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 7 * 24 * 3600
CSRF_COOKIE_HTTPONLY = True  # pages carry the token themselves

if is_enabled("META_REWARD_HTTPS"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Whoever watches over the site asks it from within, without the proxy.
    SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^healthz$", r"^healthz/report$", r"^metrics$"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    # About the names beside this one only the owner of the domain can decide.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

LOGGING = build_log_settings(
    form=os.environ.get("META_REWARD_LOG", "text"),
    level=os.environ.get("META_REWARD_LOG_LEVEL", "INFO").upper(),
)

# Everything a page needs comes from this site; no script or style stands in a page itself.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
