"""Send notices from the outbox: each once, tried again with growing pauses, given up at last.

A notice is claimed by one conditional UPDATE. If its sender dies between sending and noting so, it
is sent once more when the claim has run out: nobody can know whether it arrived. It then has the
same id in the webhook's body, and the same Message-ID, by which a receiver knows it again.
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
from webapp.notifications.models import Channel, EventType, Notice, NotificationStatus
from webapp.notifications.outbox import write_notifications
from webapp.notifications.webhooks import WebhookError, post_signed

EVERY_SECONDS: Final = 2.0
MAX_TRIES: Final = 8

_LEASE_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 15.0
_MAX_PAUSE: Final = timedelta(hours=6)
_BATCH_SIZE: Final = 50

_log = logging.getLogger(__name__)


class UnwantedError(Exception):
    """Nobody wants this notice any more, or may have it."""


def start_notifying() -> None:
    """Let a thread write and send notices for as long as this process lives."""
    threading.Thread(target=notify_forever, daemon=True).start()


def notify_forever() -> None:
    """Write and send notices as they come, until the process ends."""
    while True:
        close_old_connections()
        try:
            write_notifications()
            send_due()
        except DatabaseError as error:
            _log.warning("the database does not answer: %s", error)
        except Exception:  # noqa: BLE001 other notices shall go out
            _log.exception("notices could not be sent; they are tried again")
        time.sleep(EVERY_SECONDS)


def send_due() -> int:
    """Send, oldest first, what is due; returns how many were sent."""
    return sum(
        _send(pk) for pk in _select_due().order_by("pk").values_list("pk", flat=True)[:_BATCH_SIZE]
    )


def _select_due() -> QuerySet[Notice]:
    waits = Q(status=NotificationStatus.WAITING, due__lte=Now())
    abandoned = Q(status=NotificationStatus.SENDING, lease_until__lt=Now())
    return Notice.objects.filter(waits | abandoned)


def _send(pk: int) -> bool:
    """Send one notice, if nobody else does."""
    token = uuid4()
    claimed = (
        _select_due()
        .filter(pk=pk)
        .update(
            status=NotificationStatus.SENDING,
            token=token,
            lease_until=from_now(_LEASE_SECONDS),
            tries=F("tries") + 1,
        )
    )
    if claimed != 1:
        return False
    held = Notice.objects.filter(token=token)
    notice = held.select_related("recipient__person").get()
    try:
        _deliver(notice)
    except UnwantedError as error:
        _finish(held, NotificationStatus.GIVEN_UP, error=str(error))
    except (WebhookError, smtplib.SMTPException, OSError) as error:
        _record_failure(held, notice, error)
    else:
        return _finish(held, NotificationStatus.SENT, error="", sent=Now())
    return False


def _record_failure(held: QuerySet[Notice], notice: Notice, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    _log.warning("%s was not taken at try %s: %s", notice, notice.tries, reason)
    if notice.tries >= MAX_TRIES:
        _finish(held, NotificationStatus.GIVEN_UP, error=reason)
    else:
        pause = compute_pause_seconds(notice.tries)
        _finish(held, NotificationStatus.WAITING, error=reason, due=from_now(pause))


def compute_pause_seconds(tries: int) -> float:
    """How long to wait after so many tries in vain: four times as long each time."""
    return min(_FIRST_PAUSE_SECONDS * 4.0 ** (tries - 1), _MAX_PAUSE.total_seconds())


def _finish(held: QuerySet[Notice], status: NotificationStatus, **values: object) -> bool:
    return held.update(status=status, token=None, lease_until=None, **values) == 1


def _deliver(notice: Notice) -> None:
    """Send a notice, if it is still wanted.

    Raises:
        UnwantedError: it is not.
        WebhookError, SMTPException, OSError: it did not arrive.
    """
    recipient = notice.recipient
    _require_wanted(notice)
    if notice.channel == Channel.WEBHOOK:
        post_signed(recipient.webhook_url, _build_body(notice), secret=recipient.secret)
    else:
        made = notice.created.timestamp()
        EmailMessage(
            subject=f"[Meta-Reward] {notice.subject}",
            body=notice.text,
            to=[recipient.person.email],
            headers={"Message-ID": f"<notice-{notice.pk}.{made:.0f}@meta-reward>"},
        ).send()


def _require_wanted(notice: Notice) -> None:
    """Ask again at the last moment: what may be seen changes while a notice waits."""
    recipient = notice.recipient
    if not recipient.person.is_active:
        raise UnwantedError("the account is closed")
    if notice.event != EventType.TEST and not _can_be_seen(notice):
        raise UnwantedError("the experiment is gone, or may no longer be seen")
    if notice.channel == Channel.WEBHOOK and not recipient.webhook_url:
        raise UnwantedError("there is no webhook any more")
    if notice.channel == Channel.EMAIL and not (recipient.person.email and settings.EMAIL_HOST):
        raise UnwantedError("there is no address, or no mail server is configured")


def _can_be_seen(notice: Notice) -> bool:
    if notice.experiment_id is None:
        return False
    return get_visible_experiments(notice.recipient.person).filter(pk=notice.experiment_id).exists()


def _build_body(notice: Notice) -> dict[str, object]:
    return {
        "id": notice.pk,
        "event": notice.event,
        "subject": notice.subject,
        "text": notice.text,
        "created": notice.created.isoformat(),
        **notice.details,
    }
