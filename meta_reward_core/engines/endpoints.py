"""Named servers with the OpenAI protocol: addresses and keys.

Recipes name an endpoint; the administrator of the workers defines the name in
META_REWARD_ENDPOINTS: a YAML or JSON file, or its text. Users who may only write recipes can
    therefore not send requests, or a key, to arbitrary servers. Does not import an HTTP library.
"""

from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from meta_reward_core.errors import EndpointError, MalformedInputError
from meta_reward_core.system.settings import ENDPOINTS_VARIABLE, read_settings, read_variable
from meta_reward_core.system.untrusted_input import parse_yaml

WEIGHTS_PLACEHOLDER: Final = "{weights}"


class Endpoint(BaseModel):
    """An entry of META_REWARD_ENDPOINTS.

    Attributes:
        base_url: the URL before `/chat/completions`, such as `http://localhost:8000/v1`.
        model: the model's name on the server. `{weights}` stands for the first 12 hexadecimal
            digits of the model folder's hash, so that a server with other weights does not respond.
        key_env: the environment variable that holds the key.
        key_file: the file that holds the key.
        concurrency: maximum concurrent requests.
        timeout_seconds: maximum duration of one request, including its response.
        attempts: maximum attempts per request; four times as many while the server only wants
            fewer requests (429).
        context_tokens: maximum length of prompt and reply together. Some servers shorten a reply
            that does not fit instead of refusing the prompt; with this setting the prompt is
            refused.
        max_choices: maximum choices per request; None: no limit.
        send_seed: whether requests contain a seed.
        limit_field: the server's name for the token limit of a reply.
        extra: additional fields of every request.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True
    )

    base_url: str
    model: str = Field(min_length=1)
    key_env: str | None = None
    key_file: Path | None = None
    concurrency: int = Field(32, ge=1, le=4096)
    timeout_seconds: float = Field(600.0, gt=0, le=86_400)
    attempts: int = Field(8, ge=1, le=100)
    context_tokens: int | None = Field(None, ge=1)
    max_choices: int | None = Field(None, ge=1)
    send_seed: bool = True
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_address_and_key(self) -> Self:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url must be an http or https address")
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("base_url must not contain a user, password, query or fragment")
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("set key_env or key_file, not both")
        return self

    def resolve_model_name(self, weights_sha256: str) -> str:
        """Return the model name on the server for weights with this hash."""
        return self.model.replace(WEIGHTS_PLACEHOLDER, weights_sha256[:12])

    @property
    def follows_weights(self) -> bool:
        """Whether the model name identifies the weights."""
        return WEIGHTS_PLACEHOLDER in self.model

    def read_key(self) -> SecretStr | None:
        """Read the endpoint's key; None if it needs none.

        Raises:
            EndpointError: the variable or file that the entry specifies does not contain a key.
        """
        if self.key_env is not None:
            key, place = read_variable(self.key_env) or "", f"the variable {self.key_env}"
        elif self.key_file is not None:
            key, place = _read_key_file(self.key_file), f"the file {self.key_file}"
        else:
            return None
        if not key.strip():
            raise EndpointError(f"the endpoint's key was not found: {place} is missing or empty")
        if not key.strip().isascii():
            raise EndpointError(
                f"the endpoint's key is invalid: {place} contains characters that are not ASCII"
            )
        return SecretStr(key.strip())


def find_endpoint(name: str) -> Endpoint:
    """Find an endpoint by its name in recipes.

    Raises:
        EndpointError: no endpoint has this name, or the settings are wrong.
    """
    known = read_endpoints()
    if name not in known:
        named = ", ".join(sorted(known)) or "none"
        raise EndpointError(
            f"unknown endpoint {name!r}: {ENDPOINTS_VARIABLE} defines {named}. See docs/engines.md"
        )
    return known[name]


def read_endpoints(setting: str | None = None) -> dict[str, Endpoint]:
    """Read all endpoints of META_REWARD_ENDPOINTS.

    Args:
        setting: value of META_REWARD_ENDPOINTS; None: the value of this installation.

    Raises:
        EndpointError: the settings cannot be read or are wrong. The message does not repeat their
            contents.
    """
    setting = read_settings().endpoints if setting is None else setting
    if not setting.strip():
        return {}
    entries = _parse(_read_setting(setting))
    return {str(name): _validate_endpoint(str(name), fields) for name, fields in entries.items()}


def _read_setting(setting: str) -> str:
    """A one-line setting without `{` is a file name."""
    if "\n" in setting.strip() or setting.lstrip().startswith("{"):
        return setting
    try:
        return Path(setting).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EndpointError(f"{ENDPOINTS_VARIABLE} specifies {setting:.200}: {error}") from error


def _parse(text: str) -> dict[Any, Any]:
    try:
        entries = parse_yaml(text, allow_aliases=True)
    except MalformedInputError:
        raise EndpointError(f"{ENDPOINTS_VARIABLE} is not readable YAML or JSON") from None
    if not isinstance(entries, dict):
        raise EndpointError(
            f"{ENDPOINTS_VARIABLE} must contain `name: {{base_url: ..., model: ...}}`"
        )
    return entries


def _validate_endpoint(name: str, fields: Any) -> Endpoint:
    try:
        return Endpoint.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'entry'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise EndpointError(f"endpoint {name!r} is not valid: {problems}") from None


def _read_key_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
