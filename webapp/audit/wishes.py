"""An audit that somebody asked for, as plain values of an order."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import User

from webapp.audit.desk import possible_auditors
from webapp.audit.making import BatchPlan
from webapp.experiments.models import Experiment, Order, OrderKind, OrderStatus
from webapp.experiments.orders import place_order

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Drawing:
    """An audit that was asked for and is not there: it is being drawn, or it was refused."""

    order: Order
    iteration: int
    is_active: bool
    doing: str


def ask_for_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    *,
    by: User,
    auditors: Iterable[User],
) -> Order:
    """Ask the workers for a batch: to draw it may take longer than a page should."""
    names = [person.username for person in auditors]
    wish = {"iteration": number, "plan": asdict(plan), "auditors": names}
    return place_order(OrderKind.AUDIT, by=by, experiment=experiment, wish=wish)


def read_plan(wish: Mapping[str, Any]) -> BatchPlan:
    """The plan of a batch that was asked for."""
    return BatchPlan(**wish["plan"])


def read_auditors(wish: Mapping[str, Any]) -> list[User]:
    """Who shall answer it, as far as they still may."""
    return list(possible_auditors().filter(username__in=wish["auditors"]))


def drawings(experiment: Experiment) -> list[Drawing]:
    """What was asked for lately and is not there, newest first."""
    orders = experiment.orders.filter(kind=OrderKind.AUDIT).select_related("by")[:_SHOWN]
    active = (OrderStatus.WAITING, OrderStatus.RUNNING)
    return [
        Drawing(
            order,
            order.wish["iteration"],
            order.status in active,
            order.outcome.get("doing", ""),
        )
        for order in orders
        if order.status != OrderStatus.DONE
    ]


def is_drawing(found: Iterable[Drawing]) -> bool:
    """Whether anything is still being drawn."""
    return any(one.is_active for one in found)
