"""Webhooks: which addresses are allowed, and one signed POST to such an address.

An address is allowed by its host, which the settings list. It is https, unless it is this very
machine's. No redirect is followed: it would lead to a host that nobody has allowed.
"""

import hashlib
import hmac
import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings

TIMEOUT_SECONDS: Final = 10.0

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"https": 443, "http": 80}


class WebhookError(Exception):
    """An address is not allowed, or did not take what was sent."""


@dataclass(frozen=True, slots=True)
class Address:
    """An allowed address."""

    scheme: str
    host: str
    port: int
    path: str


def parse_address(url: str) -> Address:
    """Read the address of a webhook.

    Raises:
        WebhookError: it is malformed or not allowed; the message says why.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise WebhookError(f"this is not an address: {error}") from error
    if parts.scheme not in _PORTS or not host:
        raise WebhookError("Enter a full URL, e.g. https://example.org/hook.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise WebhookError("Remove user names, passwords and fragments (#) from the URL.")
    if not url.isascii() or any(character <= " " for character in url):
        raise WebhookError("The URL contains characters that must be percent-encoded.")
    address = Address(
        scheme=parts.scheme,
        host=host,
        port=port or _PORTS[parts.scheme],
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    _require_allowed(address)
    return address


def _require_allowed(address: Address) -> None:
    default = address.port == _PORTS[address.scheme]
    names = {f"{address.host}:{address.port}", *([address.host] if default else [])}
    if names.isdisjoint(settings.META_REWARD_WEBHOOK_HOSTS):
        raise WebhookError(
            f"{address.host}:{address.port} is not among the hosts that this installation allows "
            "(META_REWARD_WEBHOOK_HOSTS)"
        )
    if address.scheme != "https" and address.host not in _LOOPBACK:
        raise WebhookError("HTTPS is required because payloads contain experiment names.")


def post_signed(url: str, values: dict[str, Any], *, secret: str) -> None:
    """Send values as JSON, signed.

    The header `X-Meta-Reward-Signature` is `t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA256, under
    the secret, of SECONDS, a full stop, and the body.

    Raises:
        WebhookError: the address is not allowed, or did not answer with success.
    """
    address = parse_address(url)
    body = json.dumps(values, ensure_ascii=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "meta-reward",
        "X-Meta-Reward-Signature": sign(body, secret=secret, seconds=int(time.time())),
    }
    connection = _connect(address)
    try:
        connection.request("POST", address.path, body=body, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise WebhookError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        redirected = " (a redirect, which is not followed)" if 300 <= status < 400 else ""
        raise WebhookError(f"the server answered {status}{redirected}")


def sign(body: bytes, *, secret: str, seconds: int) -> str:
    """Sign a body that is sent at a time, in seconds since 1970."""
    signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={signed.hexdigest()}"


def _connect(address: Address) -> http.client.HTTPConnection:
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_SECONDS)
    return http.client.HTTPSConnection(
        address.host,
        address.port,
        timeout=TIMEOUT_SECONDS,
        context=ssl.create_default_context(),
    )
