"""API tokens."""

import hashlib
import secrets
from datetime import datetime
from typing import ClassVar, Final

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models

from webapp.accounts.credentials import get_generation

_MARK: Final = "mr_"
_SECRET_BYTES: Final = 32
_PREFIX_CHARS: Final = 10


class TokenScope(models.TextChoices):
    """What a token can be used for, within the permissions of its owner."""

    READ = "read", "read"
    RUN = "run", "read, and start and control experiments"
    PUBLISH = "publish", "everything, including publishing models to the hub"


class ApiToken(models.Model):
    """An API token. Only its hash is stored.

    Attributes:
        name: a label chosen by its owner.
        prefix: first characters of the token, to identify it.
        digest: sha256 of the whole token. It is long and random, so a slow hash would gain nothing.
        scope: what the token can be used for.
        generation: the owner's credential generation when the token was created; the token is
            valid only in this generation.
        expires: expiry time; None (never) for tokens created by earlier versions.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    name = models.CharField(max_length=64)
    prefix = models.CharField(max_length=16)
    digest = models.CharField(max_length=64, unique=True)
    created = models.DateTimeField(auto_now_add=True)
    last_used = models.DateTimeField(null=True, blank=True)
    expires = models.DateTimeField(null=True, blank=True)
    scope = models.CharField(max_length=8, choices=TokenScope, default=TokenScope.PUBLISH)
    generation = models.PositiveBigIntegerField(default=0)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


def make_token(
    owner: User,
    *,
    name: str,
    expires: datetime | None,
    scope: TokenScope = TokenScope.PUBLISH,
) -> tuple[ApiToken, str]:
    """Create a token.

    Returns:
        The token's row, and the token itself, which is not shown again.
    """
    token = _MARK + secrets.token_urlsafe(_SECRET_BYTES)
    row = ApiToken.objects.create(
        owner=owner,
        name=name,
        prefix=token[:_PREFIX_CHARS],
        digest=hash_token(token),
        expires=expires,
        scope=scope,
        generation=get_generation(owner),
    )
    return row, token


def revoke_token(token: ApiToken) -> None:
    """Revoke a token permanently."""
    token.delete()


def hash_token(token: str) -> str:
    """Hash a token, in hexadecimal."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
