"""Claims of shards: which attempt holds a shard, until when, and how attempts end.

Each change is ONE conditional UPDATE that must change one row. The loser of a race changes nothing,
which it sees from the result: a claim returns None, other calls return False. A retry deletes no
history: each attempt is a separate row. An attempt holds a fencing token for all writes to its
    shard, so an attempt that lost its claim cannot change anything.

This module depends on rows only, not on files or the method.
"""

import os
from collections.abc import Collection, Mapping
from typing import Final, Literal
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from meta_reward_core.recipes.dataflow import STREAMED_INPUTS
from webapp.db_clock import from_now
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Driver,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
)
from workers.ops.host import get_machine_name
from workers.pipeline.training_progress import MetricRows

CLAIMABLE: Final = (ShardStatus.WAITING, ShardStatus.FAILED)

_UNFINISHED = [status for status in ShardStatus if status != ShardStatus.FINISHED]
Unfinished = Literal[AttemptStatus.FAILED, AttemptStatus.INTERRUPTED, AttemptStatus.LOST]


def claim_shard(shard: Shard) -> Attempt | None:
    """Claim a pending or failed shard for a process that holds the experiment's lock.

    Returns:
        The attempt that now holds it; None if another process was faster or it is finished.
    """
    return _claim(shard, Shard.objects.filter(status__in=CLAIMABLE), lease=None)


def claim_shard_for(shard: Shard, *, seconds: float) -> Attempt | None:
    """Claim a shard for a worker, as long as it renews its lease.

    Args:
        seconds: length of the lease.

    Returns:
        The attempt that now holds it; None if another worker was faster, or it is not claimable.
    """
    return _claim(shard, get_claimable_shards(), lease=from_now(seconds))


def get_claimable_shards() -> QuerySet[Shard]:
    """Return the shards that can be claimed by a worker and whose inputs are finished."""
    # Conditions on the shard itself are part of the UPDATE, not of a subquery over shards:
    # PostgreSQL rechecks only the former after it has waited for another claim.
    return _select_ready(
        Shard.objects.filter(
            status=ShardStatus.WAITING,
            failures__lt=settings.META_REWARD_MAX_ATTEMPTS,
            stage__in=get_running_stages(),
        )
    )


def _select_ready(shards: QuerySet[Shard]) -> QuerySet[Shard]:
    """Exclude shard k of a streaming stage until shard k of its inputs is finished.

    Rerunning an input meanwhile is harmless, because the shard's key contains its input's hash.
    """
    for name, inputs in STREAMED_INPUTS.items():
        if inputs:  # without a join: a claim's conditions must be part of its UPDATE
            unfinished = Shard.objects.filter(
                index=OuterRef("index"),
                status__in=_UNFINISHED,
                stage__name__in=inputs,
                stage__iteration__stages=OuterRef("stage_id"),
                stage__iteration__stages__name=name,
            )
            shards = shards.exclude(Exists(unfinished))
    return shards


def get_waiting_shards(stages: Collection[str]) -> QuerySet[Shard]:
    """Return the current shards of these stages that wait for a worker."""
    return get_claimable_shards().filter(stage__name__in=stages, index__lt=F("stage__shard_count"))


def get_running_stages() -> QuerySet[Stage]:
    """Return the stages whose shards workers can claim."""
    return Stage.objects.filter(status=StageStatus.RUNNING, iteration__in=_get_worker_driven())


def _get_worker_driven() -> QuerySet[Iteration]:
    return Iteration.objects.filter(
        status=RunStatus.RUNNING,
        driver=Driver.WORKERS,
        cancel_requested=False,
        pause_requested=False,
    )


def _claim(shard: Shard, free: QuerySet[Shard], *, lease: Combinable | None) -> Attempt | None:
    token = uuid4()
    with transaction.atomic():
        won = free.filter(pk=shard.pk).update(
            status=ShardStatus.RUNNING,
            token=token,
            attempt_count=F("attempt_count") + 1,
            counts={},
            done=0,
            tokens=0,
            training_metrics=[],
            lease_until=lease,
        )
        if won != 1:
            return None
        held = Shard.objects.get(pk=shard.pk)
        return Attempt.objects.create(
            shard=held,
            number=held.attempt_count,
            token=token,
            started=Now(),
            worker=get_machine_name(),
            pid=os.getpid(),
        )


def extend_lease(
    attempt: Attempt, *, seconds: float, done: int, tokens: int, metrics: MetricRows | None = None
) -> bool:
    """Renew a worker's lease with its progress; False if it no longer holds its shard."""
    told = {"done": done, "tokens": tokens} | ({"training_metrics": metrics} if metrics else {})
    return _get_held_shard(attempt).update(lease_until=from_now(seconds), **told) == 1


def can_continue(attempt: Attempt) -> bool:
    """Whether an attempt's iteration still runs, without a request to stop."""
    return _get_worker_driven().filter(stages__shards=attempt.shard_id).exists()


def get_unfinished_shards(stage: Stage) -> QuerySet[Shard]:
    """Return the unfinished current shards of a stage."""
    return Shard.objects.filter(
        stage=stage.pk, index__lt=F("stage__shard_count"), status__in=_UNFINISHED
    )


def select_exhausted_shards(shards: QuerySet[Shard]) -> QuerySet[Shard]:
    """Select the shards that are retried only on a user's request."""
    tired = Q(status=ShardStatus.WAITING, failures__gte=settings.META_REWARD_MAX_ATTEMPTS)
    return shards.filter(Q(status=ShardStatus.FAILED) | tired)


def get_leased_attempts() -> QuerySet[Attempt]:
    """Return the attempts of workers that hold a shard."""
    return Attempt.objects.filter(
        status=AttemptStatus.RUNNING,
        shard__status=ShardStatus.RUNNING,
        shard__token=F("token"),
        shard__lease_until__isnull=False,
    )


def get_expired_attempts() -> QuerySet[Attempt]:
    """Return the attempts of workers with an expired lease."""
    return get_leased_attempts().filter(shard__lease_until__lt=Now())


def expire_attempt(attempt: Attempt, *, error: str) -> bool:
    """Take a shard from an attempt with an expired lease; False if it was renewed."""
    overdue = _get_held_shard(attempt).filter(lease_until__lt=Now())
    return _end_attempt(attempt, overdue, status=AttemptStatus.LOST, error=error)


def get_unsent_shards(*, again_after_seconds: float) -> QuerySet[Shard]:
    """Return waiting shards with finished inputs and without a pending message.

    Args:
        again_after_seconds: age at which a message counts as lost.
    """
    overdue = Q(sent__isnull=True) | Q(sent__lt=from_now(-again_after_seconds))
    return _select_ready(Shard.objects.filter(overdue, status=ShardStatus.WAITING))


def mark_sent(shard: Shard, *, again_after_seconds: float) -> bool:
    """Record that a message about a waiting shard is being sent; False if one already was."""
    unsent = get_unsent_shards(again_after_seconds=again_after_seconds)
    return unsent.filter(pk=shard.pk).update(sent=Now()) == 1


def mark_unsent(shard: Shard) -> None:
    """Record that the broker refused a message; the reconciler resends it."""
    Shard.objects.filter(pk=shard.pk).update(sent=None)


def report_progress(
    attempt: Attempt, *, done: int, tokens: int, metrics: MetricRows | None = None
) -> bool:
    """Record an attempt's progress; False if it no longer holds its shard."""
    told = {"done": done, "tokens": tokens} | ({"training_metrics": metrics} if metrics else {})
    return _get_held_shard(attempt).update(**told) == 1


def finish_attempt(attempt: Attempt, *, counts: Mapping[str, int], seconds: float | None) -> bool:
    """Finish an attempt and its shard; False if it no longer holds its shard.

    Args:
        counts: the counts in the shard's manifest.
        seconds: run time; None if an earlier attempt had left the finished files.
    """
    with transaction.atomic():
        won = _get_held_shard(attempt).update(
            status=ShardStatus.FINISHED,
            token=None,
            lease_until=None,
            counts=dict(counts),
            training_metrics=[],
        )
        if won == 1:
            _get_running(attempt).update(
                status=AttemptStatus.FINISHED, finished=Now(), seconds=seconds
            )
    return won == 1


def fail_attempt(attempt: Attempt, *, status: Unfinished, error: str, again: bool = False) -> bool:
    """End an attempt without a result and release its shard; False if it had lost it.

    Args:
        status: failed leaves the shard failed; interrupted and lost make it pending again.
        error: what went wrong, as shown to users.
        again: whether a failed shard also becomes pending again.
    """
    return _end_attempt(attempt, _get_held_shard(attempt), status=status, error=error, again=again)


def _end_attempt(
    attempt: Attempt, held: QuerySet[Shard], *, status: Unfinished, error: str, again: bool = True
) -> bool:
    fails = status == AttemptStatus.FAILED and not again
    with transaction.atomic():
        won = held.update(
            status=ShardStatus.FAILED if fails else ShardStatus.WAITING,
            token=None,
            lease_until=None,
            sent=None,
            failures=F("failures") + int(status != AttemptStatus.INTERRUPTED),
        )
        if won == 1:
            _get_running(attempt).update(status=status, finished=Now(), error=error)
    return won == 1


def accept_shard(shard: Shard, *, counts: Mapping[str, int]) -> bool:
    """Finish a shard whose files already exist, without an attempt; False if one runs."""
    accepted = Shard.objects.filter(pk=shard.pk).exclude(status=ShardStatus.RUNNING)
    return accepted.update(status=ShardStatus.FINISHED, counts=dict(counts)) == 1


def reopen_shard(shard: Shard) -> bool:
    """Reopen a finished shard with invalid files; False if it is not finished."""
    return (
        Shard.objects.filter(pk=shard.pk, status=ShardStatus.FINISHED).update(
            status=ShardStatus.WAITING, sent=None
        )
        == 1
    )


def _get_held_shard(attempt: Attempt) -> QuerySet[Shard]:
    return Shard.objects.filter(
        pk=attempt.shard_id, status=ShardStatus.RUNNING, token=attempt.token
    )


def _get_running(attempt: Attempt) -> QuerySet[Attempt]:
    return Attempt.objects.filter(pk=attempt.pk, status=AttemptStatus.RUNNING)
