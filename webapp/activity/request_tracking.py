"""The current request, and how the current action was requested."""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse

API_PREFIX: Final = "/api/"

_current_request: ContextVar[HttpRequest | None] = ContextVar("current_request", default=None)
_command_source: ContextVar[str] = ContextVar("command_source", default="system")


def track_request(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: record what a request changes under its user's name."""

    def answer(request: HttpRequest) -> HttpResponse:
        token = _current_request.set(request)
        try:
            return get_response(request)
        finally:
            _current_request.reset(token)

    return answer


def get_current_request() -> HttpRequest | None:
    """Return the current request; None in commands and workers."""
    return _current_request.get()


@contextlib.contextmanager
def use_source(source: str) -> Iterator[None]:
    """Record actions without a request in this context as coming from `source`."""
    token = _command_source.set(source)
    try:
        yield
    finally:
        _command_source.reset(token)


def get_source(request: HttpRequest | None) -> str:
    """Return the `Source`, determined by the request's URL or, without a request, `use_source`."""
    if request is None:
        return _command_source.get()
    return "api" if request.path.startswith(API_PREFIX) else "ui"


def get_client_address(request: HttpRequest | None) -> str | None:
    """Return the client address of a request.

    Each trusted proxy appends the address that it saw to X-Forwarded-For; earlier entries come
    from the client and are not trusted.
    """
    if request is None:
        return None
    found = request.META.get("REMOTE_ADDR", "")
    if settings.META_REWARD_PROXIES:
        seen = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
        found = (
            seen[-settings.META_REWARD_PROXIES] if len(seen) >= settings.META_REWARD_PROXIES else ""
        )
    try:
        return str(ipaddress.ip_address(found.strip()))
    except ValueError:
        return None
