"""What happened to accounts, and what left or went: what no order and no admin's entry tells."""

from typing import ClassVar

from django.conf import settings
from django.db import models


class EventKind(models.TextChoices):
    """What can happen. Refused: too many wrong passwords came before."""

    SIGNED_IN = "signed_in", "signed in"
    SIGNED_OUT = "signed_out", "signed out"
    FAILED = "failed", "gave a wrong password"
    REFUSED = "refused", "was refused, after too many wrong passwords"
    PASSWORD = "password", "password changed"
    ACCOUNT_MADE = "account_made", "account made"
    ACCOUNT_CHANGED = "account_changed", "account changed"
    ACCOUNT_DELETED = "account_deleted", "account deleted"
    SECOND_FACTOR = "second_factor", "second factor set up or removed"
    ROLES = "roles", "roles changed"
    TOKEN_MADE = "token_made", "token made"
    TOKEN_REVOKED = "token_revoked", "token revoked"
    EXPORTED = "exported", "data taken out"
    PUBLISHED = "published", "model published"
    BACKED_UP = "backed_up", "backup written"
    RESTORED = "restored", "backup restored"
    PRUNED = "pruned", "files or events deleted"


class Event(models.Model):
    """Something that happened to an account, or that needed the rights of one.

    Attributes:
        subject: name of the account, which need not exist: strangers guess names, too; or of
            what was taken out, published, written, restored or deleted.
        by: who did it; nobody, if it was a command (`detail` then names the shell's user) or a
            stranger.
        address: from where, as far as the proxies in front tell the truth.
    """

    kind = models.CharField(max_length=16, choices=EventKind)
    subject = models.CharField(max_length=150)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    address = models.GenericIPAddressField(null=True, blank=True)
    detail = models.CharField(max_length=255, blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        indexes: ClassVar = [
            models.Index(fields=["kind", "created"], name="event_of_a_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.subject}: {self.get_kind_display()}"
