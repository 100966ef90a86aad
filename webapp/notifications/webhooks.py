"""Webhooks: rules for allowed addresses, and a signed POST to an allowed address.

An address is allowed if the settings list its host. It must use HTTPS, except on this
machine. Redirects are not followed: they could lead to a host that is not allowed. A host name is
resolved once, and the checked address is used for the connection, so that the owner of the domain
cannot redirect it to this machine after the check. One deadline covers the whole exchange, from the
lookup to the response headers, so that a server that sends bytes slowly does not block other
deliveries. The client rejects headers above 100 kB, and the response body is not read.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from django.conf import settings

DEADLINE_SECONDS: Final = 10.0
"""From the name lookup to the response status; the response body is not read."""

_RESOLVER: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")
"""A separate pool: a lookup that exceeds the deadline is abandoned."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"https": 443, "http": 80}


class WebhookError(Exception):
    """An address is not allowed, or delivery to it failed."""


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
        WebhookError: it is malformed or not allowed; the message gives the reason.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise WebhookError(f"not a valid URL: {error}") from error
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
            f"{address.host}:{address.port} is not among the allowed hosts "
            f"(META_REWARD_WEBHOOK_HOSTS)"
        )
    if address.scheme != "https" and address.host not in _LOOPBACK:
        raise WebhookError("HTTPS is required because payloads contain experiment names.")


async def post_signed(url: str, values: dict[str, Any], *, secret: str) -> None:
    """Send values as JSON, signed; ends within `DEADLINE_SECONDS`.

    The header `X-Meta-Reward-Signature` is `t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA256, under
    the secret, of SECONDS, a period, and the body.

    Raises:
        WebhookError: the address is not allowed, or did not respond with success in time.
    """
    address = parse_address(url)
    body = json.dumps(values, ensure_ascii=False).encode()
    has_port = address.port != _PORTS[address.scheme]
    headers = {
        "Host": _bracket(address.host) + (f":{address.port}" if has_port else ""),
        "Content-Type": "application/json",
        "User-Agent": "meta-reward",
        "X-Meta-Reward-Signature": sign(body, secret=secret, seconds=int(time.time())),
        "Connection": "close",
    }
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            status = await _post(address, body, headers)
    except (TimeoutError, httpx2.TimeoutException):
        raise WebhookError(f"no response within {DEADLINE_SECONDS:g} seconds") from None
    except httpx2.RemoteProtocolError:
        raise WebhookError("the server did not respond with HTTP") from None
    except (OSError, httpx2.RequestError) as error:
        cause = _find_first_cause(error)
        raise WebhookError(f"{type(cause).__name__}: {cause}") from error
    if not 200 <= status < 300:
        redirected = " (a redirect, which is not followed)" if 300 <= status < 400 else ""
        raise WebhookError(f"the server responded with status {status}{redirected}")


async def _post(address: Address, body: bytes, headers: dict[str, str]) -> int:
    """Send a body to the checked IP address; return the status, and do not read the body.

    The certificate is checked against the host name, which is also sent to the server.
    """
    place = _bracket(await _resolve(address))
    # The client closes a connection if it aborts the handshake itself, but not if it is cancelled.
    timeout = httpx2.Timeout(DEADLINE_SECONDS, connect=0.4 * DEADLINE_SECONDS)
    async with (
        httpx2.AsyncClient(
            verify=_load_trusted_certificates(), trust_env=False, timeout=timeout
        ) as client,
        client.stream(
            "POST",
            f"{address.scheme}://{place}:{address.port}{address.path}",
            content=body,
            headers=headers,
            extensions={"sni_hostname": address.host},
        ) as response,
    ):
        return response.status_code


def _find_first_cause(error: BaseException) -> BaseException:
    """Return the innermost error that the client's layers wrapped, which is the most specific."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _bracket(host: str) -> str:
    """Format a host for a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


async def _resolve(address: Address) -> str:
    """Resolve an address to the first IP address that is allowed.

    Raises:
        WebhookError: no IP address is allowed.
        OSError: the host name is unknown.
    """
    if _parse_ip(address.host) is not None:
        return address.host
    found = await asyncio.get_running_loop().run_in_executor(
        _RESOLVER, _list_ips, address.host, address.port
    )
    for ip in found:
        if _may_connect(address.host, ip):
            return ip
    raise WebhookError(
        f"{address.host} resolves to {found[0] if found else 'nothing'}, which is not the address "
        "of a remote server (loopback, link-local, multicast or unspecified)"
    )


def _list_ips(host: str, port: int) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _may_connect(host: str, ip: str) -> bool:
    """Whether a name may resolve to an IP address; private networks contain internal servers."""
    place = _parse_ip(ip)
    if place is None:
        return False
    place = getattr(place, "ipv4_mapped", None) or place
    if host in _LOOPBACK:
        return place.is_loopback
    return not (
        place.is_loopback or place.is_link_local or place.is_multicast or place.is_unspecified
    )


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@cache
def _load_trusted_certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def sign(body: bytes, *, secret: str, seconds: int) -> str:
    """Sign a body with the time at which it is sent, in seconds since 1970."""
    signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={signed.hexdigest()}"
