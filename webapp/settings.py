"""Django's settings. What differs between installations comes from the environment.

`meta_reward_core.system.settings` declares and validates the variables; docs/settings.md lists
them.
"""

import dj_database_url

from meta_reward_core.system.settings import read_settings
from webapp.logging_config import build_log_settings
from webapp.paths import STATIC_SOURCES, TEMPLATE_ROOT, get_runtime_folder
from webapp.secret_key import make_lazy_key

_given = read_settings()

DEBUG = _given.debug
SECRET_KEY = _given.secret_key.get_secret_value() or make_lazy_key(_given.var / "secret_key")
ALLOWED_HOSTS = list(_given.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(_given.csrf_origins)

META_REWARD_ARTIFACT_ROOT = _given.artifact_root
META_REWARD_MODEL_ROOT = str(_given.model_root)
META_REWARD_SCRATCH_ROOT = str(_given.scratch_root)
META_REWARD_LOG_ROOT = str(_given.log_root)

# Maximum age of a page's region for users who only watch: one rendering serves all of them.
META_REWARD_REGION_SECONDS = _given.region_seconds
META_REWARD_WEB_CONCURRENCY = _given.web_concurrency

# Prompts that users submitted in a form, each stored under the hash of its content.
META_REWARD_UPLOAD_ROOT = str(_given.var / "uploads")
META_REWARD_EVALUATION_ROOT = str(_given.evaluation_root)
META_REWARD_UPLOAD_BYTES = int(_given.upload_mb * 1_000_000)
META_REWARD_UPLOAD_DAYS = 30
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o755  # only used for static files
DATA_UPLOAD_MAX_MEMORY_SIZE = 8_000_000  # pasted prompts, which a form's encoding makes longer
FILE_UPLOAD_HANDLERS = [
    "webapp.experiment_form.uploads.LimitedUploads",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

# The embedded broker. It is not started if CELERY_BROKER_URL names a server.
META_REWARD_BROKER_ROOT = str(_given.var / "broker")
META_REWARD_BROKER_SOCKET = str(get_runtime_folder() / "broker.sock")
META_REWARD_BROKER_EMBEDDED = _given.broker_url is None
CELERY_BROKER_URL = (
    f"redis+socket://{META_REWARD_BROKER_SOCKET}"
    if _given.broker_url is None
    else _given.broker_url.get_secret_value()
)

# Celery only carries messages: the database is the source of truth. Each value is explained in
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
# Nothing uses remote control, by which anyone with access to the broker could silence a worker.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
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
    "socket_timeout": 15,  # otherwise, reads wait forever on a connection that a router dropped
    "health_check_interval": 25,
    "global_keyprefix": "meta-reward:",
}

META_REWARD_LEASE_SECONDS = _given.lease_seconds
META_REWARD_TURN_SECONDS = _given.turn_seconds
META_REWARD_ENGINE_PROCESSES = _given.engine_processes
META_REWARD_MAX_ATTEMPTS = _given.max_attempts

META_REWARD_PUBLISH_ROOT = str(_given.publish_root)
META_REWARD_HF_TOKEN = _given.hf_token.get_secret_value()

# Notifications. Email needs a mail server, webhooks need allowed hosts.
EMAIL_HOST = _given.email_host
EMAIL_USE_SSL = _given.email_security == "tls"
EMAIL_USE_TLS = _given.email_security == "starttls"
EMAIL_PORT = _given.email_port
EMAIL_HOST_USER = _given.email_user
EMAIL_HOST_PASSWORD = _given.email_password.get_secret_value()
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = _given.email_from
META_REWARD_WEBHOOK_HOSTS = list(_given.webhook_hosts)
META_REWARD_SITE_URL = _given.site_url or ""

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
                "webapp.paths.add_documentation_url",
            ],
        },
    },
]

DATABASES = {
    "default": dj_database_url.parse(
        f"sqlite:///{_given.var / 'db.sqlite3'}"
        if _given.database_url is None
        else _given.database_url.get_secret_value(),
        conn_health_checks=True,
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # One connection per thread, kept between requests and checked before reuse. No pool: a pool's
    # threads do not survive the fork of a worker. Code outside a request must call
    # `close_old_connections` before each piece of work, or a connection that the server has closed
    # fails permanently.
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    # A server that disappears silently is detected within 30 seconds instead of 15 minutes: a
    # worker must know that it may have lost its shard.
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

# Length and novelty matter; rules about character classes do not help.
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
META_REWARD_PROXIES = _given.proxies
META_REWARD_METRICS_TOKEN = _given.metrics_token.get_secret_value()

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "index"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [STATIC_SOURCES]
STATIC_ROOT = _given.static_root
WHITENOISE_USE_FINDERS = STATIC_ROOT is None
# `make docs` builds the documentation into var/public/docs; it is served at /docs/ without sign-in.
PUBLIC_ROOT = _given.var / "public"
WHITENOISE_ROOT = str(PUBLIC_ROOT) if PUBLIC_ROOT.is_dir() else None
WHITENOISE_INDEX_FILE = True
DOCUMENTATION_URL = "/docs/" if (PUBLIC_ROOT / "docs" / "index.html").is_file() else ""

SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 7 * 24 * 3600
CSRF_COOKIE_HTTPONLY = True  # pages contain the token

if _given.https:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Monitoring requests come from inside the network, without the proxy.
    SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^healthz$", r"^healthz/report$", r"^metrics$"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    # Only the owner of the domain can decide about its other host names.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

LOGGING = build_log_settings(form=_given.log, level=_given.log_level)
DEFAULT_EXCEPTION_REPORTER_FILTER = "webapp.logging_config.SettingsFilter"

# Pages load everything from this site and contain no inline scripts or styles.
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
