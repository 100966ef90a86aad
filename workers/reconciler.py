"""Make rows true again after whatever went wrong: the outbox, and the undertaker.

A message that the broker refused or forgot is sent again; a shard whose worker fell silent waits
for another one; an iteration that stands still is advanced. Each step is a conditional UPDATE,
so any number of reconcilers may run at once.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from django.conf import settings
from django.db import DatabaseError, close_old_connections

from webapp.experiments.models import AttemptStatus, Iteration, Stage, StageStatus
from webapp.experiments.orders import send_order
from webapp.health import queue_lengths
from workers import indexing, lifecycle, notifying, orders, presence, scheduling
from workers.machine import is_gone
from workers.sending import NEVER, empty_queues, queue_of, send_shards, stages_of_queue_with

EVERY_SECONDS: Final = 3.0

# A message is in the queue, with a worker that is about to claim its shard, or lost.
_AGAIN_IF_QUEUE_EMPTY_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 900.0

_log = logging.getLogger(__name__)


def reconcile() -> None:
    """Do all that is to be done now."""
    expire_leases()
    presence.sweep()
    messages: Mapping[str, int] | None = None
    for iteration in scheduling.iterations_of_workers():
        scheduling.advance(iteration)
        if messages is None:
            messages = queue_lengths() or {}
        _send_again(iteration, messages)
    _send_orders_again()


def reconcile_forever(*, every_seconds: float = EVERY_SECONDS) -> None:
    """Reconcile, and carry out orders, until the process is stopped."""
    orders.start_carrying_out()
    notifying.start_notifying()
    indexing.start_indexing()
    while True:
        close_old_connections()
        try:
            reconcile()
        except DatabaseError as error:
            _log.warning("the database does not answer: %s", error)
        except Exception:  # noqa: BLE001 other iterations need their watchman
            _log.exception("reconciling failed; it is tried again")
        time.sleep(every_seconds)


def expire_leases() -> int:
    """Take shards from workers that ended or fell silent; returns from how many."""
    seconds = settings.META_REWARD_LEASE_SECONDS
    gone = [
        attempt for attempt in lifecycle.leased_attempts() if is_gone(attempt.worker, attempt.pid)
    ]
    return sum(
        lifecycle.fail(attempt, status=AttemptStatus.LOST, error="the worker's process is gone")
        for attempt in gone
    ) + sum(
        lifecycle.expire(
            attempt,
            error=f"the worker on {attempt.worker} was silent for more than {seconds:g} seconds",
        )
        for attempt in lifecycle.expired_attempts()
    )


def _send_again(iteration: Iteration, messages: Mapping[str, int]) -> None:
    for stage in iteration.stages.filter(status=StageStatus.RUNNING):
        send_shards(stage, again_after_seconds=_lost_after(stage, messages))


def _lost_after(stage: Stage, messages: Mapping[str, int]) -> float:
    """Seconds after which a message about a waiting shard counts as lost, by the queues' lengths.

    A broker loses all messages or none. Where the queue holds about as many as there are waiting
    shards, the old ones are not lost: a large stage waits for hours.
    """
    length = messages.get(queue_of(stage.name))
    if length == 0:
        return _AGAIN_IF_QUEUE_EMPTY_SECONDS
    if length is None:
        return _AGAIN_SECONDS
    waiting = lifecycle.claimable_shards().filter(stage__name__in=stages_of_queue_with(stage.name))
    # Workers have taken some messages already that no shard is claimed by yet.
    return NEVER if length > waiting.count() / 2 else _AGAIN_SECONDS


def _send_orders_again() -> None:
    """A message too many does no harm: an order is claimed before it is carried out."""
    waiting = list(orders.waiting_for_engine())
    if waiting and "gpu" in empty_queues():
        for order in waiting:
            send_order(order)
