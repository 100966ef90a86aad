"""The settings of an installation: environment variables, files of secrets, and `.env`.

Every variable of this project is declared once, in `Settings`: its name, type, default and meaning.
`read_settings` validates all of them together; `meta_reward_core.system.settings_reference`
writes docs/settings.md from the same declarations.
"""

import difflib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from meta_reward_core.errors import SettingsError
from meta_reward_core.system.command_hint import IN_CHECKOUT

PREFIX: Final = "META_REWARD_"
ENDPOINTS_VARIABLE: Final = "META_REWARD_ENDPOINTS"
ENV_FILE: Final = ".env"
_CHOOSES_CODE: Final = re.compile(
    "LD_.*|DYLD_.*|PYTHON.*|PATH|BASH_ENV|GCONV_PATH|DJANGO_SETTINGS_MODULE"
)
"""Variables that would let a downloaded folder run its own code in a command."""

_BROKER_SCHEMES: Final = frozenset({"redis", "rediss", "redis+socket", "sentinel"})
_DATABASE_SCHEMES: Final = frozenset({"sqlite", "postgres", "postgresql"})
_EMAIL_PORTS: Final = {"tls": 465, "starttls": 587, "none": 25}
_HOST: Final = re.compile(r"\*|\.?[\w*-]+(?:\.[\w-]+)*\.?|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_HOST_AND_PORT: Final = re.compile(rf"(?:{_HOST.pattern})(?::\d{{1,5}})?|[0-9A-Fa-f:]+", re.ASCII)
_LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CREDENTIALS: Final = re.compile(r"://[^/\s]*@")
_MAX_VALUE_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Expected:
    """Description of accepted values in error messages and the reference."""

    text: str


@dataclass(frozen=True, slots=True)
class _UnreadableSecret:
    """Placeholder for a secret that cannot be read from its file."""

    reason: str


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _require_match(pattern: re.Pattern[str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(pattern.fullmatch(name) for name in names):
            raise ValueError("malformed name")
        return names

    return check


def _check_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1:
        raise ValueError("not an address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("more than an address")
    return url.rstrip("/")


def _check_origins(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if urlsplit(_check_address(url)).path:
            raise ValueError("not an origin")
    return tuple(url.rstrip("/") for url in urls)


def _require_readable_secret(value: object) -> object:
    if isinstance(value, _UnreadableSecret):
        raise ValueError(value.reason)
    return value


def _require_scheme(schemes: frozenset[str]) -> Callable[[SecretStr], SecretStr]:
    def check(secret: SecretStr) -> SecretStr:
        parts = urlsplit(secret.get_secret_value())
        if parts.scheme not in schemes or (parts.port or 1) < 1:
            raise ValueError("unknown kind of address")
        return secret

    return check


def _make_absolute_root(root: str) -> str:
    """Make a folder absolute; keep an address such as s3://bucket/folder."""
    return root if "://" in root else str(Path(root).absolute())


Switch = Annotated[bool, Expected("1 or 0")]
Count = Annotated[int, Field(ge=1), Expected("a whole number, at least 1")]
CountOrZero = Annotated[int, Field(ge=0), Expected("a whole number, at least 0")]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number above 0")]
Port = Annotated[int, Field(ge=1, le=65_535), Expected("a port, 1 to 65535")]
Folder = Annotated[Path, AfterValidator(Path.absolute), Expected("a folder")]
Root = Annotated[
    str,
    AfterValidator(_make_absolute_root),
    Expected("a folder, or an address such as s3://bucket/folder"),
]
Text = Annotated[str, Field(pattern=r"^[^\r\n]*$"), Expected("one line of text")]
Address = Annotated[
    str, AfterValidator(_check_address), Expected("an address such as https://example.org")
]
Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_require_match(_HOST)),
    Expected("host names without scheme and port, separated by commas"),
]
HostsAndPorts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_require_match(_HOST_AND_PORT)),
    Expected("hosts, or host:port, separated by commas"),
]
Origins = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_check_origins),
    Expected("origins such as https://example.org, separated by commas"),
]
Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow"], ...],
    NoDecode,
    BeforeValidator(_split),
    Expected("tensorboard, wandb and mlflow, separated by commas"),
]
Secret = Annotated[SecretStr, BeforeValidator(_require_readable_secret), Expected("a secret")]
DatabaseUrl = Annotated[
    Secret,
    AfterValidator(_require_scheme(_DATABASE_SCHEMES)),
    Expected("sqlite:///path or postgres://user:password@host/name"),
]
BrokerUrl = Annotated[
    Secret,
    AfterValidator(_require_scheme(_BROKER_SCHEMES)),
    Expected("an address such as redis://:password@host:6379/0 or rediss://..."),
]


def _read_log_level(level: str) -> str:
    if level.upper() not in _LOG_LEVELS:
        raise ValueError("unknown level")
    return level.upper()


def _get_default_var() -> Path:
    """In a checkout next to the code; otherwise in the current folder, never next to a package."""
    home = Path(__file__).resolve().parents[2] if IN_CHECKOUT else Path.cwd()
    return home / "var"


def _in_var(name: str) -> Callable[[dict[str, Any]], Path]:
    return lambda given: given["var"] / name


def _declare(
    name: str, meaning: str, *, default: Any, section: str, shown: str | None = None
) -> Any:
    """Declare one variable.

    Args:
        default: a value, or a function that computes it (from the values before it).
        shown: the default as shown in the reference.
    """
    given = {"default_factory": default} if callable(default) else {"default": default}
    return Field(
        validation_alias=name,
        description=meaning,
        json_schema_extra={"section": section, "shown": shown},
        **given,
    )


_FILES: Final = "Files"
_SITE: Final = "Site"
_SERVICES: Final = "Database and broker"
_WORKERS: Final = "Workers"
_MODELS: Final = "Models and servers"
_NOTIFICATIONS: Final = "Notifications"


class Settings(BaseSettings):
    """All variables that this project reads; docs/settings.md lists them with their meaning."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        validate_default=False,
    )

    var: Folder = _declare(
        "META_REWARD_VAR",
        "Folder for all data of this installation.",
        default=_get_default_var,
        section=_FILES,
        shown="`var` in the checkout, or in the current folder for a package",
    )
    artifact_root: Root = _declare(
        "META_REWARD_ARTIFACT_ROOT",
        "Folder or bucket for the files of experiments, shared by all machines.",
        default=lambda given: str(given["var"] / "artifacts"),
        section=_FILES,
        shown="`artifacts` in `META_REWARD_VAR`",
    )
    s3_endpoint: Address | None = _declare(
        "META_REWARD_S3_ENDPOINT",
        "Server for `s3://` addresses. Credentials are read from the variables of AWS tools.",
        default=None,
        section=_FILES,
        shown="AWS",
    )
    cache_root: Folder = _declare(
        "META_REWARD_CACHE_ROOT",
        "Folder for local copies of models that are stored in a bucket. Private to each machine.",
        default=_in_var("cache"),
        section=_FILES,
        shown="`cache` in `META_REWARD_VAR`",
    )
    model_root: Folder = _declare(
        "META_REWARD_MODEL_ROOT",
        "The only folder from which models are loaded (safetensors only).",
        default=_in_var("models"),
        section=_FILES,
        shown="`models` in `META_REWARD_VAR`",
    )
    evaluation_root: Folder = _declare(
        "META_REWARD_EVALUATION_ROOT",
        "The only folder from which the form and the API accept files in `evaluation.tasks` and "
        "`development.tasks`.",
        default=_in_var("evaluation"),
        section=_FILES,
        shown="`evaluation` in `META_REWARD_VAR`",
    )
    scratch_root: Folder = _declare(
        "META_REWARD_SCRATCH_ROOT",
        "Folder for work files, which are deleted when they are no longer needed. Private to each "
        "machine.",
        default=_in_var("scratch"),
        section=_FILES,
        shown="`scratch` in `META_REWARD_VAR`",
    )
    log_root: Folder = _declare(
        "META_REWARD_LOG_ROOT",
        "Folder for the console output of attempts. If all machines share it, the site shows the "
        "output of all of them.",
        default=_in_var("logs"),
        section=_FILES,
        shown="`logs` in `META_REWARD_VAR`",
    )
    tracking_root: Folder = _declare(
        "META_REWARD_TRACKING_ROOT",
        "Folder for local files of the trackers in `META_REWARD_TRACKERS`.",
        default=_in_var("tracking"),
        section=_FILES,
        shown="`tracking` in `META_REWARD_VAR`",
    )
    publish_root: Folder = _declare(
        "META_REWARD_PUBLISH_ROOT",
        "Folder for published models.",
        default=_in_var("published"),
        section=_FILES,
        shown="`published` in `META_REWARD_VAR`",
    )
    static_root: Folder | None = _declare(
        "META_REWARD_STATIC_ROOT",
        "Folder to which `collectstatic` writes files.",
        default=None,
        section=_FILES,
        shown="none: the site serves static files from the package",
    )

    secret_key: Secret = _declare(
        "META_REWARD_SECRET_KEY",
        "Key that signs sessions.",
        default=SecretStr(""),
        section=_SITE,
        shown="created once, kept in `secret_key` in `META_REWARD_VAR`",
    )
    debug: Switch = _declare(
        "META_REWARD_DEBUG",
        "Whether to show Django's debug pages. Never enable them on a machine that others can "
        "reach.",
        default=False,
        section=_SITE,
    )
    allowed_hosts: Hosts = _declare(
        "META_REWARD_ALLOWED_HOSTS",
        "Host names for which the site answers requests.",
        default=("localhost", "127.0.0.1", "[::1]"),
        section=_SITE,
    )
    csrf_origins: Origins = _declare(
        "META_REWARD_CSRF_ORIGINS",
        "Additional origins that may submit forms; the site's own is always allowed.",
        default=(),
        section=_SITE,
    )
    site_url: Address | None = _declare(
        "META_REWARD_SITE_URL",
        "Address of the site for links in notifications.",
        default=None,
        section=_SITE,
        shown="none: no links",
    )
    https: Switch = _declare(
        "META_REWARD_HTTPS",
        "1 if the site is reached only over HTTPS, through a proxy that sets `X-Forwarded-Proto` "
        "itself and never forwards a client's. Cookies and links are then secure.",
        default=False,
        section=_SITE,
    )
    proxies: CountOrZero = _declare(
        "META_REWARD_PROXIES",
        "Number of proxies in front of the site that add to `X-Forwarded-For`.",
        default=0,
        section=_SITE,
    )
    web_concurrency: Count = _declare(
        "WEB_CONCURRENCY",
        "Number of web processes that `serve` starts, each with 4 threads.",
        default=2,
        section=_SITE,
    )
    region_seconds: Amount = _declare(
        "META_REWARD_REGION_SECONDS",
        "Number of seconds for which all viewers share a rendered part of a page.",
        default=1.0,
        section=_SITE,
    )
    upload_mb: Amount = _declare(
        "META_REWARD_UPLOAD_MB",
        "Maximum size of an uploaded file, in MB.",
        default=32.0,
        section=_SITE,
    )
    metrics_token: Secret = _declare(
        "META_REWARD_METRICS_TOKEN",
        "Bearer token that allows programs to read `/metrics` and `/healthz/report`.",
        default=SecretStr(""),
        section=_SITE,
        shown="none: admins only",
    )
    log: Annotated[Literal["text", "json"], Expected("text or json")] = _declare(
        "META_REWARD_LOG",
        "Format of log lines. json: one JSON object per line.",
        default="text",
        section=_SITE,
    )
    log_level: Annotated[str, AfterValidator(_read_log_level), Expected(", ".join(_LOG_LEVELS))] = (
        _declare(
            "META_REWARD_LOG_LEVEL",
            "Minimum level of log lines.",
            default="INFO",
            section=_SITE,
        )
    )

    database_url: DatabaseUrl | None = _declare(
        "DATABASE_URL",
        "Address of the database.",
        default=None,
        section=_SERVICES,
        shown="SQLite, `db.sqlite3` in `META_REWARD_VAR`",
    )
    broker_url: BrokerUrl | None = _declare(
        "CELERY_BROKER_URL",
        "Address of a Redis or Valkey server, used as the broker.",
        default=None,
        section=_SERVICES,
        shown="the broker that `serve` starts",
    )

    lease_seconds: Amount = _declare(
        "META_REWARD_LEASE_SECONDS",
        "Number of seconds without a heartbeat after which a worker loses its shard.",
        default=30.0,
        section=_WORKERS,
    )
    max_attempts: Count = _declare(
        "META_REWARD_MAX_ATTEMPTS",
        "Number of failures after which a shard is not retried until a user resumes the iteration.",
        default=5,
        section=_WORKERS,
    )
    turn_seconds: Amount = _declare(
        "META_REWARD_TURN_SECONDS",
        "Number of seconds for which a worker stays with one experiment while others wait.",
        default=60.0,
        section=_WORKERS,
    )
    engine_processes: CountOrZero = _declare(
        "META_REWARD_ENGINE_PROCESSES",
        "Number of engine processes of a worker, and of `run_iteration` without a queue, each with "
        "its own share of the GPUs or CPU cores.",
        default=0,
        section=_WORKERS,
        shown="0: one per GPU, or one if there are no GPUs",
    )
    engine_memory_mb: Count | None = _declare(
        "META_REWARD_ENGINE_MEMORY_MB",
        "Memory limit of an engine process, in MB.",
        default=None,
        section=_WORKERS,
        shown="none",
    )

    endpoints: Annotated[str, Expected("a file, or YAML")] = _declare(
        ENDPOINTS_VARIABLE,
        "YAML file that lists OpenAI-compatible servers, or the YAML text itself "
        "([engines.md](engines.md)).",
        default="",
        section=_MODELS,
        shown="none",
    )
    trackers: Trackers = _declare(
        "META_REWARD_TRACKERS",
        "Experiment trackers for training. They need `pip install "
        "'meta-reward[tracking]'` and read their own variables, such as `WANDB_API_KEY` and "
        "`MLFLOW_TRACKING_URI`.",
        default=(),
        section=_MODELS,
    )
    hf_token: Secret = _declare(
        "HF_TOKEN",
        "Token of the Hugging Face Hub, for gated models and for publishing.",
        default=SecretStr(""),
        section=_MODELS,
        shown="none",
    )
    hf_endpoint: Address | None = _declare(
        "HF_ENDPOINT",
        "Address of a mirror of the Hub.",
        default=None,
        section=_MODELS,
        shown="the Hub",
    )

    email_host: Text = _declare(
        "META_REWARD_EMAIL_HOST",
        "Host name of the mail server.",
        default="",
        section=_NOTIFICATIONS,
        shown="none: no email is sent",
    )
    email_security: Annotated[
        Literal["tls", "starttls", "none"], Expected("tls, starttls or none")
    ] = _declare(
        "META_REWARD_EMAIL_SECURITY",
        "Encryption of the connection to the mail server.",
        default="starttls",
        section=_NOTIFICATIONS,
    )
    email_port: Port = _declare(
        "META_REWARD_EMAIL_PORT",
        "Port of the mail server.",
        default=lambda given: _EMAIL_PORTS[given["email_security"]],
        section=_NOTIFICATIONS,
        shown="465 with tls, 587 with starttls, otherwise 25",
    )
    email_user: Text = _declare(
        "META_REWARD_EMAIL_USER",
        "User name for the mail server.",
        default="",
        section=_NOTIFICATIONS,
        shown="none",
    )
    email_password: Secret = _declare(
        "META_REWARD_EMAIL_PASSWORD",
        "Password for the mail server.",
        default=SecretStr(""),
        section=_NOTIFICATIONS,
        shown="none",
    )
    email_from: Text = _declare(
        "META_REWARD_EMAIL_FROM",
        "Sender address of emails.",
        default="meta-reward@localhost",
        section=_NOTIFICATIONS,
    )
    webhook_hosts: HostsAndPorts = _declare(
        "META_REWARD_WEBHOOK_HOSTS",
        "Hosts to which webhooks may be sent, with the port if it is not the default.",
        default=(),
        section=_NOTIFICATIONS,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003 only the environment counts
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 is in the environment already
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 files have names here
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from their files first, then from the environment."""
        return _SecretFiles(settings_cls), env_settings


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads secrets from the files in NAME_FILE variables."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Read one secret; None without such a variable."""
        name = get_variable_name(field)
        file = os.environ.get(f"{name}_FILE", "") if is_secret(field) else ""
        return _read_secret_file(name, file) if file else None, name, False

    def __call__(self) -> dict[str, Any]:
        """Read all secrets that are in files."""
        found = (
            self.get_field_value(field, name)
            for name, field in self.settings_cls.model_fields.items()
        )
        return {name: value for value, name, _ in found if value is not None}


def _read_secret_file(name: str, file: str) -> str | _UnreadableSecret:
    if os.environ.get(name):
        return _UnreadableSecret(f"{name} and {name}_FILE are both set: keep one of them")
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        return _UnreadableSecret(f"{name}_FILE specifies a file that is unreadable: {error}")
    return found or _UnreadableSecret(f"{name}_FILE specifies {file}, which is empty")


def read_settings() -> Settings:
    """Read and validate all settings; `.env` in the current folder supplies missing ones.

    Raises:
        SettingsError: a value is wrong; the message has a line for each wrong value, and never
            contains secrets.
    """
    _load_env_file()
    try:
        return Settings()
    except ValidationError as error:
        problems = _explain_errors(error.errors(include_url=False))
    raise SettingsError("invalid settings (see docs/settings.md):\n" + "\n".join(problems))


def check_settings() -> None:
    """Validate all settings when a command starts; warn about unknown settings on standard error.

    Raises:
        SettingsError: see `read_settings`.
    """
    read_settings()
    for warning in list_unknown_variables():
        sys.stderr.write(f"{warning}\n")


def read_variable(name: str) -> str | None:
    """Read a variable of a library, or a variable to which a setting refers."""
    return os.environ.get(name)


TRACKER_SECRETS: Final = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Variables of the tools in `META_REWARD_TRACKERS`, which only a training reads."""


@contextmanager
def set_default_variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Context manager that sets unset or empty variables to these values, for libraries."""
    missing = {name: value for name, value in defaults.items() if not os.environ.get(name)}
    before = {name: os.environ[name] for name in missing if name in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
        os.environ.update(before)


def build_environment_without_secrets(*, trains: bool = False) -> dict[str, str]:
    """Return the environment of a child that needs no secrets, such as one that runs a model.

    Secrets are empty instead of absent, so that the child does not read them from `.env`.

    Args:
        trains: whether the child trains, and therefore needs the keys of the trackers in use.
    """
    secrets = [get_variable_name(one) for one in Settings.model_fields.values() if is_secret(one)]
    names = [*secrets, *(f"{name}_FILE" for name in secrets), *(() if trains else TRACKER_SECRETS)]
    return {**os.environ, **dict.fromkeys(names, "")}


def list_unknown_variables() -> list[str]:
    """List unknown variables with this project's prefix, each with the most similar known name."""
    known = set(iter_known_names())
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return [f"{name} is not a setting and is ignored{_suggest(name, known)}" for name in unknown]


def _suggest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest else "; see docs/settings.md"


def iter_known_names() -> Iterator[str]:
    """List all variables: those of this project, of secret files, and of the files in `docker/`."""
    for field in Settings.model_fields.values():
        yield get_variable_name(field)
        if is_secret(field):
            yield f"{get_variable_name(field)}_FILE"
    yield from DEPLOYMENT_VARIABLES


DEPLOYMENT_VARIABLES: Final = {
    "META_REWARD_SITE": "Host name of the site, from which the proxy's certificate, the allowed "
    "host, the allowed origin and the links are derived.",
    "META_REWARD_ENGINE": "Package to add to the worker's image, such as `vllm==0.32.0`.",
    "META_REWARD_PRIVATE_ADDRESS": "Address of the server in the network of the workers.",
    "META_REWARD_NFS_SERVER": "Machine that exports artifacts and models.",
    "META_REWARD_HOME": "Slurm: folder of the checkout.",
    "META_REWARD_ENVIRONMENT": "Slurm: file with the settings that the job reads.",
}
"""Variables that only the Compose files and the Slurm script read."""


def get_variable_name(field: FieldInfo) -> str:
    """Return the variable of a field."""
    return str(field.validation_alias)


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value is never shown."""
    return "SecretStr" in str(field.annotation)


def get_expected(field: FieldInfo) -> str:
    """Describe the values that a field accepts."""
    found = [*field.metadata, *_iter_nested_metadata(field.annotation)]
    return next(entry.text for entry in reversed(found) if isinstance(entry, Expected))


def _iter_nested_metadata(annotation: Any) -> Iterator[Any]:
    """Return the metadata of `Annotated[...] | None`."""
    for part in getattr(annotation, "__args__", ()):
        yield from getattr(part, "__metadata__", ())


def _explain_errors(errors: Iterable[ErrorDetails]) -> list[str]:
    fields = {get_variable_name(field): field for field in Settings.model_fields.values()}
    return [
        f"  {_explain_error(error, fields[str(error['loc'][0])])}"
        for error in errors
        if error["type"] != "default_factory_not_called"  # the value that it needs is reported
    ]


def _explain_error(error: ErrorDetails, field: FieldInfo) -> str:
    name, value = get_variable_name(field), error["input"]
    if isinstance(value, _UnreadableSecret):
        return value.reason
    if is_secret(field) or _CREDENTIALS.search(str(value)):
        return f"{name} is not valid (its value is not shown): expected {get_expected(field)}"
    return f"{name} is {value!r:.{_MAX_VALUE_CHARS}}: expected {get_expected(field)}"


@cache
def _load_env_file() -> None:
    """Put the variables of `.env` into the environment, also for libraries and child processes.

    Raises:
        SettingsError: the file cannot be read, or users other than its owner can change it.
    """
    path = Path(ENV_FILE)
    try:
        found = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise SettingsError(
            f"{path.absolute()} belongs to another user or is writable by others, so its "
            f"settings are not used: check it, then run chown and chmod 600, or remove it"
        )
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path.absolute()} is unreadable: {error}") from error
    for name, value in values.items():
        if value is None:
            raise SettingsError(f"{path.absolute()}: {name} has no value; write {name}=VALUE")
        if _CHOOSES_CODE.fullmatch(name):
            raise SettingsError(
                f"{path.absolute()}: {name} decides which code runs and must not be set in a "
                "file in the current folder: remove it from the file, or set it in the shell"
            )
        os.environ.setdefault(name, value)
