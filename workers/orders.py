"""Carry out what people asked for on pages and through the API.

A kind is quick, slow, or needs an engine. Quick and slow ones are taken from the rows by two
threads of the reconciler (`carry_out_forever`), so that they wait neither for a busy worker nor
for each other, and need no broker; what needs an engine is taken by a GPU worker (`carry_out`).
Each is claimed by one conditional UPDATE, and claimed again if whoever took it fell silent.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from meta_reward_core.errors import InputError, MetaRewardError
from webapp.database_time import from_now
from webapp.experiments.models import Experiment, Iteration, Order, OrderKind, OrderStatus
from workers import drawing, handing_over, launching, publishing, trying
from workers.opening import open_row

Outcome = dict[str, Any]
Deed = Callable[[Order], Outcome]

EVERY_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


def _experiment_of(order: Order) -> Experiment:
    if order.experiment is None:
        raise InputError(f"experiment {order.subject!r} is gone")
    return order.experiment


def _steers(control: Callable[[Experiment], Iteration]) -> Deed:
    def deed(order: Order) -> Outcome:
        return {"iteration": control(_experiment_of(order)).number}

    return deed


def _run_next(order: Order) -> Outcome:
    row = _experiment_of(order)
    return {"iteration": handing_over.hand_over(open_row(row), row, until=None).number}


QUICK: Final[Mapping[str, Deed]] = {
    OrderKind.PAUSE: _steers(handing_over.request_pause),
    OrderKind.CANCEL: _steers(handing_over.request_cancel),
    OrderKind.RESUME: _steers(handing_over.resume),
    OrderKind.NEXT: _run_next,
}
SLOW: Final[Mapping[str, Deed]] = {
    OrderKind.LAUNCH: launching.launch,
    OrderKind.PUBLISH: publishing.publish,
    OrderKind.AUDIT: drawing.draw,
}
WITH_ENGINE: Final[Mapping[str, Deed]] = {OrderKind.CHAT: trying.try_models}


def carry_out(order: Order, deeds: Mapping[str, Deed]) -> bool:
    """Carry out an order, if it still waits; False if somebody else has it.

    Whatever cannot be done is refused with the reason in its finding.
    """
    token = uuid4()
    lease = from_now(settings.META_REWARD_LEASE_SECONDS)
    claimed = _waiting().filter(pk=order.pk)
    if claimed.update(status=OrderStatus.RUNNING, token=token, lease_until=lease) != 1:
        return False
    held = Order.objects.filter(pk=order.pk, token=token)
    try:
        with _kept(order.pk, token):
            outcome = deeds[order.kind](order)
    except MetaRewardError as error:
        _end(held, OrderStatus.REFUSED, finding=str(error))
    except Exception as error:  # noqa: BLE001 whoever asked shall read it
        _log.exception("%s failed", order)
        _end(held, OrderStatus.REFUSED, finding=f"{type(error).__name__}: {error}")
    else:
        _end(held, OrderStatus.DONE, outcome=outcome)
    return True


def _end(held: QuerySet[Order], status: OrderStatus, **values: Any) -> None:
    held.update(status=status, token=None, lease_until=None, finished=Now(), **values)


def _waiting() -> QuerySet[Order]:
    silent = Q(status=OrderStatus.RUNNING, lease_until__lt=Now())
    return Order.objects.filter(Q(status=OrderStatus.WAITING) | silent)


@contextmanager
def _kept(pk: int, token: UUID) -> Iterator[None]:
    """Extend an order's lease from a thread until the deed is done."""
    done = threading.Event()
    seconds = settings.META_REWARD_LEASE_SECONDS

    def extend() -> None:
        while not done.wait(seconds / 4):
            try:
                Order.objects.filter(pk=pk, token=token).update(lease_until=from_now(seconds))
            except DatabaseError as error:
                _log.warning("the lease of an order could not be extended: %s", error)
            finally:
                close_old_connections()

    thread = threading.Thread(target=extend, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def carry_out_waiting(deeds: Mapping[str, Deed]) -> int:
    """Carry out, oldest first, all orders of some kinds that wait; returns how many."""
    orders = _waiting().filter(kind__in=list(deeds)).select_related("experiment", "by")
    return sum(carry_out(order, deeds) for order in orders.order_by("pk"))


def carry_out_forever(deeds: Mapping[str, Deed]) -> None:
    """Carry out orders of some kinds as they come, until the process ends."""
    while True:
        close_old_connections()
        try:
            carry_out_waiting(deeds)
        except DatabaseError as error:
            _log.warning("the database does not answer: %s", error)
        time.sleep(EVERY_SECONDS)


def start_carrying_out() -> None:
    """Let two threads carry out quick and slow orders for as long as this process lives."""
    for deeds in (QUICK, SLOW):
        threading.Thread(target=carry_out_forever, args=[deeds], daemon=True).start()


def waiting_for_engine() -> QuerySet[Order]:
    """Orders that a GPU worker has to be told about, again."""
    return _waiting().filter(kind__in=list(WITH_ENGINE))
