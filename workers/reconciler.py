"""The reconciler: resend messages, expire leases and repair rows after failures.

A message that the broker refused or lost is sent again; a shard whose worker went silent becomes
pending again; a stalled iteration is advanced. Each step is a conditional UPDATE, so any number of
reconcilers may run at once.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from django.conf import settings
from django.db import DatabaseError, close_old_connections

from meta_reward_core.errors import InputError
from webapp.experiments.jobs import WORKER_QUEUES, send_job
from webapp.experiments.models import AttemptStatus, Iteration, JobKind, StageStatus
from webapp.health import find_later_version, read_queue_lengths
from workers.jobs import build_indexes, runner, send_notifications
from workers.ops import heartbeat
from workers.ops.host import is_gone
from workers.pipeline import scheduling, shard_claims
from workers.pipeline.dispatch import (
    NEVER,
    QUEUES,
    get_queue,
    list_empty_queues,
    list_stages,
    send_shards,
)

EVERY_SECONDS: Final = 3.0

# A message is queued, held by a worker that is about to claim its shard, or lost.
_AGAIN_IF_QUEUE_EMPTY_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 900.0
_MANY: Final = 100

_log = logging.getLogger(__name__)


def reconcile() -> None:
    """Run every check and repair once."""
    expire_leases()
    heartbeat.expire_stale()
    iterations = list(scheduling.iter_worker_iterations())
    for iteration in iterations:
        scheduling.advance_iteration(iteration)
    if iterations:
        lost_after = _compute_lost_after(read_queue_lengths() or {})
        for iteration in iterations:
            _resend_shards(iteration, lost_after)
    _resend_jobs()


def reconcile_forever(*, every_seconds: float = EVERY_SECONDS) -> None:
    """Reconcile and run jobs until the process is stopped.

    Raises:
        InputError: the database was migrated by a later version.
    """
    runner.start_job_threads()
    send_notifications.start_notifying()
    build_indexes.start_indexing()
    later = ""
    while True:
        close_old_connections()
        try:
            later = find_later_version()
            if not later:
                reconcile()
        except DatabaseError as error:
            _log.warning("the database does not respond: %s", error)
        except Exception:  # noqa: BLE001 other iterations need their watchman
            _log.exception("reconciling failed; will retry")
        if later:
            raise InputError(later)
        time.sleep(every_seconds)


def expire_leases() -> int:
    """Release shards of workers that ended or went silent; return their number."""
    seconds = settings.META_REWARD_LEASE_SECONDS
    gone = [
        attempt
        for attempt in shard_claims.get_leased_attempts()
        if is_gone(attempt.worker, attempt.pid)
    ]
    return sum(
        shard_claims.fail_attempt(
            attempt, status=AttemptStatus.LOST, error="the worker's process no longer exists"
        )
        for attempt in gone
    ) + sum(
        shard_claims.expire_attempt(
            attempt,
            error=f"the worker on {attempt.worker} sent no heartbeat for more than {seconds:g} s",
        )
        for attempt in shard_claims.get_expired_attempts()
    )


def _resend_shards(iteration: Iteration, lost_after: Mapping[str, float]) -> None:
    for stage in iteration.stages.filter(status=StageStatus.RUNNING):
        send_shards(stage, again_after_seconds=lost_after[get_queue(stage.name)])


def _compute_lost_after(lengths: Mapping[str, int]) -> dict[str, float]:
    """Compute for each queue the age in seconds at which a waiting shard's message counts as lost.

    Shards of a large stage may wait for hours. While there are about as many messages as waiting
    shards, no message is resent: a lost message is detected when few shards are left.
    """
    lost_after = dict.fromkeys(QUEUES.values(), _AGAIN_SECONDS)
    for queue, length in lengths.items():
        if length == 0:
            lost_after[queue] = _AGAIN_IF_QUEUE_EMPTY_SECONDS
        elif length >= _MANY:
            waiting = shard_claims.get_waiting_shards(list_stages(queue)).count()
            if length > waiting / 2:  # workers have already taken some messages
                lost_after[queue] = NEVER
    return lost_after


def _resend_jobs() -> None:
    """Resend messages of jobs; a duplicate is harmless, since a job is claimed before it runs."""
    waiting = list(runner.get_jobs_for_workers())
    empty = list_empty_queues() if waiting else frozenset()
    for job in waiting:
        if WORKER_QUEUES[JobKind(job.kind)] in empty:
            send_job(job)
