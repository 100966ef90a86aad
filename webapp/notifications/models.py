"""Rows of notices: who wants which, where to, and the outbox from which they are sent.

An occasion is noted once and its notices are written in the same transaction; the unique
constraints make both idempotent. What is sent, and what is tried again, is read from the rows,
so a restart neither loses a notice nor makes a second one.
"""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.experiments.models import Experiment, Iteration


class EventType(models.TextChoices):
    """What a person can be told of."""

    ENDED = "ended", "an iteration ended"
    FAILED = "failed", "an iteration failed"
    ALARM = "alarm", "an iteration raised an alarm"
    WAITS = "waits", "an experiment waits for a person"
    TEST = "test", "a test"


CHOOSABLE = (EventType.ENDED, EventType.FAILED, EventType.ALARM, EventType.WAITS)


class Channel(models.TextChoices):
    """How a notice travels."""

    EMAIL = "email", "e-mail"
    WEBHOOK = "webhook", "webhook"


class NotificationStatus(models.TextChoices):
    """How far a notice is. Given up: tried too often, or no longer wanted."""

    WAITING = "waiting", "waiting"
    SENDING = "sending", "being sent"
    SENT = "sent", "sent"
    GIVEN_UP = "given_up", "given up"


class Recipient(models.Model):
    """Where a person wants notices, and about which experiments.

    Attributes:
        webhook_url: empty: none.
        secret: signs what is sent to the webhook. It has to be kept as it is to sign with it.
        only_own: about the person's own experiments alone, else about all they may see.
    """

    person = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notice_recipient"
    )
    webhook_url = models.CharField(max_length=500, blank=True, default="")
    secret = models.CharField(max_length=64, blank=True, default="")
    only_own = models.BooleanField(default=True)

    def __str__(self) -> str:
        return str(self.person)


class Choice(models.Model):
    """A person wants to be told of an event in one way, since then."""

    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="choices")
    event = models.CharField(max_length=16, choices=EventType)
    channel = models.CharField(max_length=16, choices=Channel)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Each once."""

        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["recipient", "event", "channel"], name="notice_choice_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.recipient}: {self.get_event_display()} by {self.get_channel_display()}"


class Occasion(models.Model):
    """A run of an iteration that has come to rest, or is held, and whose notices are written.

    Attributes:
        ended: when it did. One that is run again ends again, and is another occasion.
    """

    iteration = models.ForeignKey(Iteration, on_delete=models.CASCADE, related_name="occasions")
    ended = models.DateTimeField()

    class Meta:
        """Each once."""

        constraints: ClassVar = [
            models.UniqueConstraint(fields=["iteration", "ended"], name="occasion_is_unique")
        ]

    def __str__(self) -> str:
        return f"{self.iteration} at {self.ended:%Y-%m-%d %H:%M:%S}"


class Notice(models.Model):
    """One event for one person by one channel: a row of the outbox.

    Attributes:
        occasion: None for a test.
        experiment: None for a test, and once the experiment is gone.
        subject, text: what it says.
        details: the same as plain values, for a webhook.
        tries: how often it was sent in vain, or at last not in vain.
        due: not before then.
        token, lease_until: whose it is while it is being sent, and until when.
        error: why the last try failed.
    """

    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="notices")
    event = models.CharField(max_length=16, choices=EventType)
    channel = models.CharField(max_length=16, choices=Channel)
    occasion = models.ForeignKey(
        Occasion, on_delete=models.SET_NULL, null=True, blank=True, related_name="notices"
    )
    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="notices"
    )
    subject = models.CharField(max_length=200)
    text = models.TextField()
    details = models.JSONField(default=dict, blank=True)
    status = models.CharField(
        max_length=16, choices=NotificationStatus, default=NotificationStatus.WAITING
    )
    tries = models.PositiveIntegerField(default=0)
    due = models.DateTimeField()
    token = models.UUIDField(null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)
    sent = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        indexes: ClassVar = [models.Index(fields=["status", "due"], name="notice_is_due")]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["recipient", "event", "channel", "occasion"], name="notice_is_unique"
            ),
            models.CheckConstraint(
                condition=Q(status=NotificationStatus.SENDING, token__isnull=False)
                | ~Q(status=NotificationStatus.SENDING) & Q(token__isnull=True),
                name="notice_is_held_while_it_is_sent",
            ),
            models.CheckConstraint(
                condition=Q(status__in=NotificationStatus.values), name="notice_status_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} ({self.get_channel_display()})"
