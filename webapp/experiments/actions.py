"""What a person can ask of an experiment now, and what was asked of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django import forms
from django.utils import timezone

from webapp.experiments.models import (
    Driver,
    Experiment,
    Iteration,
    JobKind,
    JobStatus,
    Order,
    RunStatus,
)
from webapp.experiments.progress import get_latest_iteration, is_active

CONTROL_KINDS: Final = (JobKind.NEXT, JobKind.PAUSE, JobKind.CANCEL, JobKind.RESUME)
SLOW_SECONDS: Final = 15.0
"""An order that waits longer than this is waited for in vain, most likely."""

_ORDERS_SHOWN: Final = 5
PENDING: Final = (JobStatus.WAITING, JobStatus.RUNNING)


class ActionForm(forms.Form):
    """What a person asks for; `iteration` says to which page to go back."""

    do = forms.ChoiceField(choices=[(kind.value, kind.label) for kind in CONTROL_KINDS])
    iteration = forms.IntegerField(required=False, min_value=1)


@dataclass(frozen=True, slots=True)
class ActionButton:
    """A button: what it asks for, in words, and how it looks."""

    do: str
    label: str
    explanation: str
    look: str = "quiet"


def list_jobs(experiment: Experiment) -> list[Order]:
    """Read the last orders about an experiment; what was tried on its models is not steering."""
    orders = experiment.orders.exclude(kind=JobKind.CHAT).select_related("by")
    return list(orders[:_ORDERS_SHOWN])


def is_pending(order: Order) -> bool:
    """Whether nobody has carried it out yet."""
    return order.status in PENDING


def is_stuck(orders: Sequence[Order]) -> bool:
    """Whether an order waits so long that nobody seems to carry out any."""
    long_ago = timezone.now() - timedelta(seconds=SLOW_SECONDS)
    return any(order.status == JobStatus.WAITING and order.created < long_ago for order in orders)


def has_pending(experiment: Experiment, kind: JobKind) -> bool:
    """Whether the same was asked for already and nobody has carried it out yet."""
    return experiment.orders.filter(kind=kind, status__in=PENDING).exists()


def list_actions(experiment: Experiment, orders: Sequence[Order]) -> list[ActionButton]:
    """Say what can be asked for now; nothing while something is asked for already.

    The experiment's iterations should have been prefetched.
    """
    if any(order.kind in CONTROL_KINDS and is_pending(order) for order in orders):
        return []
    latest = get_latest_iteration(experiment)
    if latest is None or latest.status == RunStatus.FINISHED:
        return (
            []
            if is_active(experiment)
            else [_make_next_action(1 if latest is None else latest.number + 1)]
        )
    return list(_iter_unfinished_actions(latest))


def can_request(iteration: Iteration, kind: JobKind) -> bool:
    """Whether something can be asked for now of an iteration: only the latest is steered."""
    experiment = iteration.experiment
    if get_latest_iteration(experiment) != iteration:
        return False
    return any(found.do == kind for found in list_actions(experiment, list_jobs(experiment)))


def _make_next_action(number: int) -> ActionButton:
    explanation = f"The workers make M{number} from M{number - 1}."
    return ActionButton(JobKind.NEXT, f"Run iteration {number}", explanation, look="")


def _iter_unfinished_actions(iteration: Iteration) -> Iterator[ActionButton]:
    if iteration.status == RunStatus.RUNNING:
        yield from _iter_running_actions(iteration)
    elif iteration.status != RunStatus.NO_PAIRS:
        yield from _iter_stopped_actions(iteration)


def _iter_running_actions(iteration: Iteration) -> Iterator[ActionButton]:
    if iteration.driver != Driver.WORKERS or iteration.cancel_requested:
        return
    if iteration.pause_requested:
        yield ActionButton(JobKind.RESUME, "Do not pause", "Takes the wish to pause back.")
    else:
        yield ActionButton(JobKind.PAUSE, "Pause", "Stops what runs; finished shards are kept.")
    yield _make_cancel_action()


def _iter_stopped_actions(iteration: Iteration) -> Iterator[ActionButton]:
    failed = iteration.status == RunStatus.FAILED
    label = "Try again" if failed else "Go on"
    again = " What failed is tried again." if failed else ""
    yield ActionButton(JobKind.RESUME, label, f"Finished shards are kept.{again}", look="")
    if iteration.status == RunStatus.PAUSED:
        yield _make_cancel_action()


def _make_cancel_action() -> ActionButton:
    explanation = "Stops for good, and begins no further iteration; finished shards are kept."
    return ActionButton(JobKind.CANCEL, "Cancel", explanation, look="danger")
