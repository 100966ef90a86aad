"""Send notifications from the outbox, once each, with retries at increasing intervals.

A notification is claimed by one conditional UPDATE. If its sender dies between sending and
recording it, it is sent again when the claim expires: whether it arrived is unknown. It then has
the same id in the webhook's body, and the same Message-ID, so that receivers can recognize it.
"""

import asyncio
import logging
import smtplib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import DatabaseError, close_old_connections
from django.db.models import F, Min, Q, QuerySet
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
_ROUND_SIZE: Final = 100

_log = logging.getLogger(__name__)


class UnwantedError(Exception):
    """The notification is no longer wanted or allowed."""


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
            _log.warning("the database does not respond: %s", error)
        except Exception:  # noqa: BLE001 other notifications are still sent
            _log.exception("could not send notifications; will retry")
        time.sleep(EVERY_SECONDS)


def send_due() -> int:
    """Send due notifications, one per user and round; return the number sent.

    The notifications of a round are sent at the same time, and each has a deadline. Thus a server
    that does not respond delays only the notifications of the user who configured it.
    """
    sent, begun = 0, time.monotonic()
    while claims := _claim_round():
        sent += _deliver_round(claims)
        if time.monotonic() - begun > EVERY_SECONDS:  # there may be new notifications
            break
    return sent


@dataclass(frozen=True, slots=True)
class _Claim:
    """A notification claimed by this process."""

    notification: Notification
    held: QuerySet[Notification]


def _claim_round() -> list[_Claim]:
    """Claim the oldest due notification of each user."""
    oldest = (
        _select_due().order_by().values("recipient").annotate(first=Min("pk")).order_by("first")
    )
    found = (_claim(pk) for pk in list(oldest.values_list("first", flat=True)[:_ROUND_SIZE]))
    return [claim for claim in found if claim is not None]


def _select_due() -> QuerySet[Notification]:
    waits = Q(status=NotificationStatus.WAITING, due__lte=Now())
    abandoned = Q(status=NotificationStatus.SENDING, lease_until__lt=Now())
    return Notification.objects.filter(waits | abandoned)


def _claim(pk: int) -> _Claim | None:
    """Claim one notification; None if another process has it, or it is no longer wanted."""
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
        return None
    held = Notification.objects.filter(token=token)
    notification = held.select_related("recipient__user").get()
    try:
        _require_wanted(notification)
    except UnwantedError as error:
        _finish(held, NotificationStatus.GIVEN_UP, error=str(error))
        return None
    return _Claim(notification, held)


def _deliver_round(claims: Sequence[_Claim]) -> int:
    """Send the claimed notifications concurrently, record the results, return the number sent.

    Rows are read and written outside of the event loop.
    """
    results = asyncio.run(_deliver_all([claim.notification for claim in claims]))
    return sum(_record(claim, error) for claim, error in zip(claims, results, strict=True))


async def _deliver_all(due: Sequence[Notification]) -> list[BaseException | None]:
    results = await asyncio.gather(*map(_deliver, due), return_exceptions=True)
    await asyncio.sleep(0)  # aborted connections are closed in the next turn of the event loop
    return results


def _record(claim: _Claim, error: BaseException | None) -> bool:
    """Record a result; return whether it was sent and this process recorded it first."""
    if error is None:
        return _finish(claim.held, NotificationStatus.SENT, error="", sent=Now())
    if not isinstance(error, WebhookError | smtplib.SMTPException | OSError):
        _log.error("%s could not be sent", claim.notification, exc_info=error)
    _record_failure(claim.held, claim.notification, error)
    return False


def _record_failure(
    held: QuerySet[Notification], notification: Notification, error: BaseException
) -> None:
    reason = str(error) or type(error).__name__
    _log.warning(
        "%s was not delivered in attempt %s: %s", notification, notification.attempts, reason
    )
    if notification.attempts >= MAX_ATTEMPTS:
        _finish(held, NotificationStatus.GIVEN_UP, error=reason)
    else:
        pause = compute_pause_seconds(notification.attempts)
        _finish(held, NotificationStatus.WAITING, error=reason, due=from_now(pause))


def compute_pause_seconds(attempts: int) -> float:
    """Compute the delay after failed attempts, four times as long each time."""
    return min(_FIRST_PAUSE_SECONDS * 4.0 ** (attempts - 1), _MAX_PAUSE.total_seconds())


def _finish(held: QuerySet[Notification], status: NotificationStatus, **values: object) -> bool:
    return held.update(status=status, token=None, lease_until=None, **values) == 1


async def _deliver(notification: Notification) -> None:
    """Send a notification.

    Raises:
        WebhookError, SMTPException, OSError: it did not arrive.
    """
    recipient = notification.recipient
    if notification.channel == Channel.WEBHOOK:
        await post_signed(recipient.webhook_url, _build_body(notification), secret=recipient.secret)
        return
    await asyncio.to_thread(_send_email, notification)


def _send_email(notification: Notification) -> None:
    made = notification.created.timestamp()
    EmailMessage(
        subject=f"[Meta-Reward] {notification.subject}",
        body=notification.text,
        to=[notification.recipient.user.email],
        headers={"Message-ID": f"<notice-{notification.pk}.{made:.0f}@meta-reward>"},
    ).send()


def _require_wanted(notification: Notification) -> None:
    """Check permissions again just before sending, as they may have changed."""
    recipient = notification.recipient
    if not recipient.user.is_active:
        raise UnwantedError("the account is closed")
    if notification.event != EventType.TEST and not _can_be_seen(notification):
        raise UnwantedError("the experiment was deleted or is no longer visible")
    if notification.channel == Channel.WEBHOOK and not recipient.webhook_url:
        raise UnwantedError("the webhook was removed")
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
