"""Permanent redirects from the addresses of earlier versions to the current ones.

A redirect keeps the query string and, if a body was posted (308), the method and the body. It only
leads to addresses of this site and reveals nothing about them: the new address checks permissions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponsePermanentRedirect
from django.urls import URLPattern, path, reverse

_EXPERIMENT: Final = "experiments/<str:name>"

RENAMED: Final[Mapping[str, str]] = {
    "people/login": "login",
    "people/logout": "logout",
    "people/password": "password_change",
    "people/second-factor": "two_factor",
    "people/second-factor/begin": "start_two_factor",
    "people/second-factor/confirm": "confirm_two_factor",
    "people/second-factor/remove": "remove_two_factor",
    "people/tokens": "tokens",
    "people/tokens/<int:pk>/revoke": "revoke_token",
    "people/notices": "notifications",
    "people/notices/secret": "renew_webhook_secret",
    "people/notices/test": "send_test_notification",
    "log": "activity",
    "experiments/new/orders/<int:pk>": "job",
    f"{_EXPERIMENT}/steer": "request_action",
    f"{_EXPERIMENT}/try": "playground",
    f"{_EXPERIMENT}/try/<int:number>": "conversation",
    f"{_EXPERIMENT}/try/<int:number>/cancel": "cancel_turn",
    f"{_EXPERIMENT}/prompts/<str:prompt_id>/ask": "compare_models",
    "audits/<int:pk>/desk": "annotate",
}
"""Earlier routes, and the URL names of their targets."""

PUBLIC: Final = frozenset({"login"})
"""URL names of addresses that do not require sign-in."""


def redirect_renamed(
    request: HttpRequest, url_name: str, **kwargs: object
) -> HttpResponsePermanentRedirect:
    """Redirect from an earlier address: 301, or 308 if a body may have been sent."""
    target = reverse(url_name, kwargs=kwargs)
    query = request.META.get("QUERY_STRING", "")
    return HttpResponsePermanentRedirect(
        f"{target}?{query}" if query else target,
        preserve_request=request.method not in {"GET", "HEAD"},
    )


def _make_pattern(route: str, url_name: str) -> URLPattern:
    view = partial(redirect_renamed, url_name=url_name)
    return path(route, login_not_required(view) if url_name in PUBLIC else view)


urlpatterns = [_make_pattern(route, url_name) for route, url_name in RENAMED.items()]
