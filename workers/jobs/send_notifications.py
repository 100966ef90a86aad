"""Send notifications from the outbox: each once, with retries at growing intervals.

A notification is claimed by one conditional UPDATE. If its sender dies between sending and
recording it, it is sent again when the claim expires: nobody can know whether it arrived. It then
has the same id in the webhook's body, and the same Message-ID, so that receivers can recognise it.
"""

import logging
import smtplib
import threading
import time
from datetime import timedelta
from typing import Final
from uuid import uuid4

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import DatabaseError, close_old_connections
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from webapp.accounts.permissions import get_visible_experiments
from webapp.db_clock import from_now
from webapp.notifications.models import Channel, EventType, Notification, NotificationStatus
from webapp.notifications.outbox import write_notifications
from webapp.notifications.webhooks import WebhookError, post_signed

EVERY_SECONDS: Final = 2.0
MAX_ATTEMPTS: Final = 8

_LEASE_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 15.0
_MAX_PAUSE: Final = timedelta(hours=6)
_BATCH_SIZE: Final = 50

_log = logging.getLogger(__name__)


class UnwantedError(Exception):
    """The notification is no longer wanted, or no longer allowed."""


def start_notifying() -> None:
    """Start a thread that writes and sends notifications until this process ends."""
    threading.Thread(target=notify_forever, daemon=True).start()


def notify_forever() -> None:
    """Write and send notifications as they arrive, until the process ends."""
    while True:
        close_old_connections()
        try:
            write_notifications()
            send_due()
        except DatabaseError as error:
            _log.warning("the database does not answer: %s", error)
        except Exception:  # noqa: BLE001 other notifications are still sent
            _log.exception("could not send notifications; they are retried")
        time.sleep(EVERY_SECONDS)


def send_due() -> int:
    """Send, oldest first, what is due; returns how many were sent."""
    return sum(
        _send(pk) for pk in _select_due().order_by("pk").values_list("pk", flat=True)[:_BATCH_SIZE]
    )


def _select_due() -> QuerySet[Notification]:
    waits = Q(status=NotificationStatus.WAITING, due__lte=Now())
    abandoned = Q(status=NotificationStatus.SENDING, lease_until__lt=Now())
    return Notification.objects.filter(waits | abandoned)


def _send(pk: int) -> bool:
    """Send one notification, unless another process sends it."""
    token = uuid4()
    claimed = (
        _select_due()
        .filter(pk=pk)
        .update(
            status=NotificationStatus.SENDING,
            token=token,
            lease_until=from_now(_LEASE_SECONDS),
            attempts=F("attempts") + 1,
        )
    )
    if claimed != 1:
        return False
    held = Notification.objects.filter(token=token)
    notification = held.select_related("recipient__user").get()
    try:
        _deliver(notification)
    except UnwantedError as error:
        _finish(held, NotificationStatus.GIVEN_UP, error=str(error))
    except (WebhookError, smtplib.SMTPException, OSError) as error:
        _record_failure(held, notification, error)
    else:
        return _finish(held, NotificationStatus.SENT, error="", sent=Now())
    return False


def _record_failure(
    held: QuerySet[Notification], notification: Notification, error: Exception
) -> None:
    reason = str(error) or type(error).__name__
    _log.warning("%s was not taken at try %s: %s", notification, notification.attempts, reason)
    if notification.attempts >= MAX_ATTEMPTS:
        _finish(held, NotificationStatus.GIVEN_UP, error=reason)
    else:
        pause = compute_pause_seconds(notification.attempts)
        _finish(held, NotificationStatus.WAITING, error=reason, due=from_now(pause))


def compute_pause_seconds(attempts: int) -> float:
    """How long to wait after so many attempts in vain: four times as long each time."""
    return min(_FIRST_PAUSE_SECONDS * 4.0 ** (attempts - 1), _MAX_PAUSE.total_seconds())


def _finish(held: QuerySet[Notification], status: NotificationStatus, **values: object) -> bool:
    return held.update(status=status, token=None, lease_until=None, **values) == 1


def _deliver(notification: Notification) -> None:
    """Send a notification, if it is still wanted.

    Raises:
        UnwantedError: it is not.
        WebhookError, SMTPException, OSError: it did not arrive.
    """
    recipient = notification.recipient
    _require_wanted(notification)
    if notification.channel == Channel.WEBHOOK:
        post_signed(recipient.webhook_url, _build_body(notification), secret=recipient.secret)
    else:
        made = notification.created.timestamp()
        EmailMessage(
            subject=f"[Meta-Reward] {notification.subject}",
            body=notification.text,
            to=[recipient.user.email],
            headers={"Message-ID": f"<notice-{notification.pk}.{made:.0f}@meta-reward>"},
        ).send()


def _require_wanted(notification: Notification) -> None:
    """Check permissions again just before sending, as they may have changed."""
    recipient = notification.recipient
    if not recipient.user.is_active:
        raise UnwantedError("the account is closed")
    if notification.event != EventType.TEST and not _can_be_seen(notification):
        raise UnwantedError("the experiment is gone, or may no longer be seen")
    if notification.channel == Channel.WEBHOOK and not recipient.webhook_url:
        raise UnwantedError("there is no webhook any more")
    if notification.channel == Channel.EMAIL and not (recipient.user.email and settings.EMAIL_HOST):
        raise UnwantedError("there is no address, or no mail server is configured")


def _can_be_seen(notification: Notification) -> bool:
    if notification.experiment_id is None:
        return False
    return (
        get_visible_experiments(notification.recipient.user)
        .filter(pk=notification.experiment_id)
        .exists()
    )


def _build_body(notification: Notification) -> dict[str, object]:
    return {
        "id": notification.pk,
        "event": notification.event,
        "subject": notification.subject,
        "text": notification.text,
        "created": notification.created.isoformat(),
        **notification.details,
    }
