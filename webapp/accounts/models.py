"""Security events: sign-ins, changes of accounts and tokens, exports, backups and deletions."""

from typing import ClassVar

from django.conf import settings
from django.db import models


class SecurityEventKind(models.TextChoices):
    """Types of security events. Refused: there were too many wrong passwords before."""

    SIGNED_IN = "signed_in", "signed in"
    SIGNED_OUT = "signed_out", "signed out"
    FAILED = "failed", "entered a wrong password"
    REFUSED = "refused", "blocked after too many wrong passwords"
    PASSWORD = "password", "password changed"
    ACCOUNT_MADE = "account_made", "account created"
    ACCOUNT_CHANGED = "account_changed", "account changed"
    ACCOUNT_DELETED = "account_deleted", "account deleted"
    SECOND_FACTOR = "second_factor", "two-factor authentication changed"
    ROLES = "roles", "roles changed"
    TOKEN_MADE = "token_made", "token created"
    TOKEN_REVOKED = "token_revoked", "token revoked"
    EXPORTED = "exported", "data exported"
    PUBLISHED = "published", "model published"
    BACKED_UP = "backed_up", "backup created"
    RESTORED = "restored", "backup restored"
    PRUNED = "pruned", "files or events deleted"


class SecurityEvent(models.Model):
    """An event of an account, or an action that required its permissions.

    Attributes:
        subject: name of the account, which need not exist (visitors may enter any name), or of
            what was exported, published, backed up, restored or deleted.
        created_by: who did it; None if it was a command (`detail` then names the shell's user)
            or a visitor without an account.
        address: IP address of the client, as far as the proxies report it correctly.
    """

    kind = models.CharField(max_length=16, choices=SecurityEventKind)
    subject = models.CharField(max_length=150)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    address = models.GenericIPAddressField(null=True, blank=True)
    detail = models.CharField(max_length=255, blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        indexes: ClassVar = [
            models.Index(fields=["kind", "created"], name="security_event_by_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.subject}: {self.get_kind_display()}"


class AccountCredentials(models.Model):
    """The credential generation of an account; an account without a row is at 0.

    Attributes:
        generation: sessions and tokens count only under the generation that they note.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="credentials",
    )
    generation = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.user}: generation {self.generation}"
