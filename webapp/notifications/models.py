"""Notifications: subscriptions, and the outbox of messages to send.

An event is recorded once, and its notifications are written in the same transaction; the unique
constraints make both idempotent. Pending and retried notifications are read from the database, so a
restart neither loses one nor sends it twice.
"""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.experiments.models import Experiment, Iteration


class EventType(models.TextChoices):
    """What users can subscribe to."""

    ENDED = "ended", "an iteration is completed"
    FAILED = "failed", "an iteration fails"
    ALARM = "alarm", "an iteration raises an alarm"
    WAITS = "waits", "an experiment needs attention"
    TEST = "test", "a test"


CHOOSABLE = (EventType.ENDED, EventType.FAILED, EventType.ALARM, EventType.WAITS)


class Channel(models.TextChoices):
    """How a notification is delivered."""

    EMAIL = "email", "email"
    WEBHOOK = "webhook", "webhook"


class NotificationStatus(models.TextChoices):
    """Status of a notification. Given up: too many attempts, or no longer wanted."""

    WAITING = "waiting", "pending"
    SENDING = "sending", "sending"
    SENT = "sent", "sent"
    GIVEN_UP = "given_up", "given up"


class Recipient(models.Model):
    """Where a user receives notifications, and about which experiments.

    Attributes:
        webhook_url: URL of the webhook; empty for none.
        secret: key that signs the webhook payloads; stored in plain text because signing needs it.
        only_own: whether to notify only about the user's own experiments, not all visible ones.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notification_recipient"
    )
    webhook_url = models.CharField(max_length=500, blank=True, default="")
    secret = models.CharField(max_length=64, blank=True, default="")
    only_own = models.BooleanField(default=True)

    def __str__(self) -> str:
        return str(self.user)


class Subscription(models.Model):
    """A user's subscription to an event on one channel, with its start."""

    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="subscriptions")
    event = models.CharField(max_length=16, choices=EventType)
    channel = models.CharField(max_length=16, choices=Channel)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Unique per user, event and channel."""

        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["recipient", "event", "channel"], name="subscription_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.recipient}: {self.get_event_display()} by {self.get_channel_display()}"


class NotificationEvent(models.Model):
    """An iteration stopped or is held, and its notifications are in the outbox.

    Attributes:
        ended: when it stopped. If an iteration is resumed and stops again, that is a new event.
    """

    iteration = models.ForeignKey(
        Iteration, on_delete=models.CASCADE, related_name="notification_events"
    )
    ended = models.DateTimeField()

    class Meta:
        """Each event is recorded once."""

        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["iteration", "ended"], name="notification_event_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.iteration} at {self.ended:%Y-%m-%d %H:%M:%S}"


class Notification(models.Model):
    """A message about one event to one user on one channel: a row of the outbox.

    Attributes:
        notification_event: None for a test.
        experiment: None for a test, or if the experiment was deleted.
        subject, text: content of the message.
        details: the same content as plain values, for a webhook.
        attempts: number of delivery attempts so far.
        due: earliest time of the next attempt.
        token, lease_until: token of the process that is sending it, and the end of its claim.
        error: why the last attempt failed.
    """

    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="notifications")
    event = models.CharField(max_length=16, choices=EventType)
    channel = models.CharField(max_length=16, choices=Channel)
    notification_event = models.ForeignKey(
        NotificationEvent,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="notifications",
    )
    experiment = models.ForeignKey(
        Experiment, on_delete=models.SET_NULL, null=True, blank=True, related_name="notifications"
    )
    subject = models.CharField(max_length=200)
    text = models.TextField()
    details = models.JSONField(default=dict, blank=True)
    status = models.CharField(
        max_length=16, choices=NotificationStatus, default=NotificationStatus.WAITING
    )
    attempts = models.PositiveIntegerField(default=0)
    due = models.DateTimeField()
    token = models.UUIDField(null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)
    sent = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Newest first."""

        ordering: ClassVar = ["-created", "-pk"]
        indexes: ClassVar = [models.Index(fields=["status", "due"], name="notification_by_due")]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["recipient", "event", "channel", "notification_event"],
                name="notification_is_unique",
            ),
            models.CheckConstraint(
                condition=Q(status=NotificationStatus.SENDING, token__isnull=False)
                | ~Q(status=NotificationStatus.SENDING) & Q(token__isnull=True),
                name="notification_is_held_while_sent",
            ),
            models.CheckConstraint(
                condition=Q(status__in=NotificationStatus.values),
                name="notification_status_is_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} ({self.get_channel_display()})"
