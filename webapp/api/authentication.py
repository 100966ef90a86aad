"""Authentication: API tokens for programs, sessions for browsers.

Both become `request.user`, so the API uses the same permission checks as the pages.
"""

import contextlib
from datetime import timedelta
from typing import Final

from django.contrib.auth.models import User
from django.db import OperationalError
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import APIKeyCookie, HttpBearer

from webapp.accounts.credentials import match_generation
from webapp.api.models import ApiToken, hash_token

_NOTED_EVERY: Final = timedelta(minutes=1)


class TokenAuth(HttpBearer):
    """`Authorization: Bearer TOKEN`."""

    openapi_bearerFormat = "a token created on the Tokens page"  # noqa: N815 OpenAPI's name

    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        """Find the owner of a valid token."""
        now = timezone.now()
        row = (
            ApiToken.objects.filter(
                Q(expires__isnull=True) | Q(expires__gt=now),
                match_generation("owner", "generation"),
                digest=hash_token(token),
                owner__is_active=True,
            )
            .select_related("owner")
            .first()
        )
        if row is None:
            return None
        _record_use(row)
        request.user = row.owner
        request.token_scope = row.scope  # type: ignore[attr-defined]
        return row.owner


class SignedIn(APIKeyCookie):
    """A browser session, with a CSRF token for requests that change something."""

    param_name = "sessionid"

    def __call__(self, request: HttpRequest) -> User | None:
        """Report a missing sign-in before a missing CSRF token."""
        if not request.user.is_authenticated:
            return None
        found: User | None = super().__call__(request)
        return found

    def authenticate(self, request: HttpRequest, key: str | None) -> User | None:  # noqa: ARG002
        """Return the user of the session, which the middleware has loaded."""
        return request.user if isinstance(request.user, User) else None


def _record_use(row: ApiToken) -> None:
    """Record the last use of a token, but not on every request."""
    now = timezone.now()
    stale = Q(last_used__isnull=True) | Q(last_used__lt=now - _NOTED_EVERY)
    with contextlib.suppress(OperationalError):  # reading must also work on a full disk
        ApiToken.objects.filter(stale, pk=row.pk).update(last_used=now)
