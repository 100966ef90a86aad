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
    Order,
    OrderKind,
    OrderStatus,
    RunStatus,
)
from webapp.experiments.progress import is_active, latest_iteration

STEERING: Final = (OrderKind.NEXT, OrderKind.PAUSE, OrderKind.CANCEL, OrderKind.RESUME)
SLOW_SECONDS: Final = 15.0
"""An order that waits longer than this is waited for in vain, most likely."""

_ORDERS_SHOWN: Final = 5
PENDING: Final = (OrderStatus.WAITING, OrderStatus.RUNNING)


class SteerForm(forms.Form):
    """What a person asks for; `iteration` says to which page to go back."""

    do = forms.ChoiceField(choices=[(kind.value, kind.label) for kind in STEERING])
    iteration = forms.IntegerField(required=False, min_value=1)


@dataclass(frozen=True, slots=True)
class Control:
    """A button: what it asks for, in words, and how it looks."""

    do: str
    label: str
    explanation: str
    look: str = "quiet"


def find_orders(experiment: Experiment) -> list[Order]:
    """Read the last orders about an experiment; what was tried on its models is not steering."""
    orders = experiment.orders.exclude(kind=OrderKind.CHAT).select_related("by")
    return list(orders[:_ORDERS_SHOWN])


def is_pending(order: Order) -> bool:
    """Whether nobody has carried it out yet."""
    return order.status in PENDING


def waits_in_vain(orders: Sequence[Order]) -> bool:
    """Whether an order waits so long that nobody seems to carry out any."""
    long_ago = timezone.now() - timedelta(seconds=SLOW_SECONDS)
    return any(order.status == OrderStatus.WAITING and order.created < long_ago for order in orders)


def has_pending(experiment: Experiment, kind: OrderKind) -> bool:
    """Whether the same was asked for already and nobody has carried it out yet."""
    return experiment.orders.filter(kind=kind, status__in=PENDING).exists()


def controls_of(experiment: Experiment, orders: Sequence[Order]) -> list[Control]:
    """Say what can be asked for now; nothing while something is asked for already.

    The experiment's iterations should have been prefetched.
    """
    if any(order.kind in STEERING and is_pending(order) for order in orders):
        return []
    latest = latest_iteration(experiment)
    if latest is None or latest.status == RunStatus.FINISHED:
        return [] if is_active(experiment) else [_next(1 if latest is None else latest.number + 1)]
    return list(_of_unfinished(latest))


def can_ask(iteration: Iteration, kind: OrderKind) -> bool:
    """Whether something can be asked for now of an iteration: only the latest is steered."""
    experiment = iteration.experiment
    if latest_iteration(experiment) != iteration:
        return False
    return any(found.do == kind for found in controls_of(experiment, find_orders(experiment)))


def _next(number: int) -> Control:
    explanation = f"The workers make M{number} from M{number - 1}."
    return Control(OrderKind.NEXT, f"Run iteration {number}", explanation, look="")


def _of_unfinished(iteration: Iteration) -> Iterator[Control]:
    if iteration.status == RunStatus.RUNNING:
        yield from _of_running(iteration)
    elif iteration.status != RunStatus.NO_PAIRS:
        yield from _of_resting(iteration)


def _of_running(iteration: Iteration) -> Iterator[Control]:
    if iteration.driver != Driver.WORKERS or iteration.cancel_requested:
        return
    if iteration.pause_requested:
        yield Control(OrderKind.RESUME, "Do not pause", "Takes the wish to pause back.")
    else:
        yield Control(OrderKind.PAUSE, "Pause", "Stops what runs; finished shards are kept.")
    yield _cancel()


def _of_resting(iteration: Iteration) -> Iterator[Control]:
    failed = iteration.status == RunStatus.FAILED
    label = "Try again" if failed else "Go on"
    again = " What failed is tried again." if failed else ""
    yield Control(OrderKind.RESUME, label, f"Finished shards are kept.{again}", look="")
    if iteration.status == RunStatus.PAUSED:
        yield _cancel()


def _cancel() -> Control:
    explanation = "Stops for good, and begins no further iteration; finished shards are kept."
    return Control(OrderKind.CANCEL, "Cancel", explanation, look="danger")
