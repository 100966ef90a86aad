"""Write notifications to the outbox when an iteration stops or is held.

However often this is called, an event is recorded once, together with its notifications.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, Min, OuterRef, QuerySet
from django.db.models.functions import Now

from webapp.accounts.permissions import get_visible_experiments
from webapp.experiments.models import Driver, Iteration, RunStatus
from webapp.experiments.statuses import get_public_status, is_held_at_gate
from webapp.notifications.models import (
    Channel,
    EventType,
    Notification,
    NotificationEvent,
    Recipient,
    Subscription,
)

_TOLD: Final = (
    RunStatus.FINISHED,
    RunStatus.FAILED,
    RunStatus.NO_PAIRS,
    RunStatus.PAUSED,
    RunStatus.INTERRUPTED,
    RunStatus.NEEDS_ATTENTION,
)
_FINDING_CHARS: Final = 2000


def write_notifications() -> int:
    """Write notifications for iterations that stopped; returns how many."""
    since = Subscription.objects.aggregate(since=Min("since"))["since"]
    if since is None:
        return 0
    return sum(
        _write_for_iteration(iteration, iteration.moment)
        for iteration in _exclude_notified(_select_stopped()).filter(moment__gte=since)
    )


def _select_stopped() -> QuerySet[Any]:
    return Iteration.objects.filter(status__in=_TOLD).annotate(moment=F("finished"))


def _exclude_notified(found: QuerySet[Any]) -> QuerySet[Any]:
    noted = NotificationEvent.objects.filter(iteration=OuterRef("pk"), ended=OuterRef("moment"))
    return (
        found.filter(~Exists(noted), moment__isnull=False)
        .select_related("experiment")
        .order_by("moment", "pk")
    )


@transaction.atomic
def _write_for_iteration(iteration: Iteration, ended: datetime) -> int:
    notification_event, is_new = NotificationEvent.objects.get_or_create(
        iteration=iteration, ended=ended
    )
    if not is_new:
        return 0
    notifications = [
        _make_notification(subscription, notification_event, iteration)
        for subscription in Subscription.objects.filter(
            event__in=list(list_events(iteration)), since__lte=ended
        ).select_related("recipient__user")
        if is_concerned(subscription.recipient, iteration)
    ]
    return len(Notification.objects.bulk_create(notifications, ignore_conflicts=True))


def is_concerned(recipient: Recipient, iteration: Iteration) -> bool:
    """Whether a user can see an experiment and is subscribed to it."""
    experiment = iteration.experiment
    if recipient.only_own and experiment.owner_id != recipient.user_id:
        return False
    return get_visible_experiments(recipient.user).filter(pk=experiment.pk).exists()


def list_events(iteration: Iteration) -> Iterator[EventType]:
    """List the events of an iteration that stopped or is held."""
    if iteration.status in (RunStatus.FAILED, RunStatus.NO_PAIRS):
        yield EventType.FAILED
    elif iteration.status != RunStatus.FINISHED:
        yield EventType.WAITS
    else:
        yield EventType.ENDED
        if iteration.metrics.get("alarms"):
            yield EventType.ALARM
        if _needs_user_action(iteration):
            yield EventType.WAITS


def write_test(recipient: Recipient, channel: Channel) -> Notification:
    """Write a test notification."""
    return Notification.objects.create(
        recipient=recipient,
        event=EventType.TEST,
        channel=channel,
        subject="Test notification",
        text="Meta-Reward notifications are delivered to this address.",
        due=Now(),
    )


def _needs_user_action(iteration: Iteration) -> bool:
    """Whether an iteration is completed and the next one has not been requested."""
    experiment = iteration.experiment
    is_last = iteration.number >= experiment.recipe.get("iterations", 0)
    by_workers = iteration.driver == Driver.WORKERS
    return by_workers and not is_last and experiment.target_iteration <= iteration.number


def _make_notification(
    subscription: Subscription, notification_event: NotificationEvent, iteration: Iteration
) -> Notification:
    event = EventType(subscription.event)
    return Notification(
        recipient=subscription.recipient,
        event=event,
        channel=subscription.channel,
        notification_event=notification_event,
        experiment=iteration.experiment,
        subject=_format_subject(event, iteration),
        text="\n\n".join(_iter_paragraphs(event, iteration)),
        details=_build_details(iteration),
        due=Now(),
    )


def _format_subject(event: EventType, iteration: Iteration) -> str:
    name, number = iteration.experiment.name, iteration.number
    alarms = len(iteration.metrics.get("alarms", []))
    return {
        EventType.ENDED: f"{name}: iteration {number} completed",
        EventType.FAILED: f"{name}: iteration {number} {iteration.get_status_display()}",
        EventType.ALARM: f"{name}: iteration {number} raised {alarms} alarm{'s'[: alarms != 1]}",
        EventType.WAITS: f"{name} needs attention: iteration {number} {_format_state(iteration)}",
    }[event]


def _format_state(iteration: Iteration) -> str:
    if iteration.status != RunStatus.NEEDS_ATTENTION:
        return f"is {iteration.get_status_display()}"
    return (
        "needs an audit" if is_held_at_gate(iteration) else "was stopped by a check of its outputs"
    )


def _iter_paragraphs(event: EventType, iteration: Iteration) -> Iterator[str]:
    yield f"{_format_subject(event, iteration)}."
    if event is EventType.ALARM:
        for alarm in iteration.metrics["alarms"]:
            yield f"{alarm['sentence']}\n{alarm['advice']}"
    if iteration.message:
        yield iteration.message[:_FINDING_CHARS]
    if event is EventType.WAITS and not is_held_at_gate(iteration):
        yield "Resume it, or start the next iteration, to continue."
    if link := _build_link(iteration):
        yield link


def _build_link(iteration: Iteration) -> str:
    site = settings.META_REWARD_SITE_URL
    if not site:
        return ""
    return f"{site}/experiments/{iteration.experiment.name}/iterations/{iteration.number}"


def _build_details(iteration: Iteration) -> dict[str, Any]:
    return {
        "experiment": iteration.experiment.name,
        "iteration": iteration.number,
        "status": get_public_status(iteration),
        "alarms": [alarm["name"] for alarm in iteration.metrics.get("alarms", [])],
        "link": _build_link(iteration),
    }
