"""Account data besides Django's own row."""

from django.conf import settings
from django.db import models


class AccountCredentials(models.Model):
    """The credential generation of an account; without a row it is 0.

    Attributes:
        generation: sessions and tokens are valid only in the generation that they store.
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
