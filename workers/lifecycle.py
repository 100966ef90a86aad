"""Every change of a row's status, each as ONE conditional UPDATE that must change one row.

The loser of a race changes nothing and is told: `claim` returns None, the others return False.
A retry deletes no history: attempts are rows of their own. An attempt holds a token; whatever it
writes to its shard is fenced by that token, so one that lost its claim can change nothing.

This module knows rows alone: no files, no method.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from uuid import uuid4

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Experiment,
    Iteration,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
)

CLAIMABLE = (ShardStatus.WAITING, ShardStatus.FAILED)

_AT_REST = [status for status in RunStatus if status != RunStatus.RUNNING]
_SHARD_AFTER = {
    AttemptStatus.FAILED: ShardStatus.FAILED,
    AttemptStatus.INTERRUPTED: ShardStatus.WAITING,
    AttemptStatus.LOST: ShardStatus.WAITING,
}
Unfinished = Literal[AttemptStatus.FAILED, AttemptStatus.INTERRUPTED, AttemptStatus.LOST]


def claim(shard: Shard) -> Attempt | None:
    """Take a shard that waits, or failed, for this process.

    Returns:
        The attempt that now holds it; None if somebody else was faster or it is finished.
    """
    token = uuid4()
    with transaction.atomic():
        won = Shard.objects.filter(pk=shard.pk, status__in=CLAIMABLE).update(
            status=ShardStatus.RUNNING,
            token=token,
            attempt_count=F("attempt_count") + 1,
            counts={},
            done=0,
            tokens=0,
        )
        if won != 1:
            return None
        held = Shard.objects.get(pk=shard.pk)
        return Attempt.objects.create(
            shard=held,
            number=held.attempt_count,
            token=token,
            started=Now(),
            worker=socket.gethostname(),
            pid=os.getpid(),
        )


def report(attempt: Attempt, *, done: int, tokens: int) -> bool:
    """Tell how far an attempt is; False if it no longer holds its shard."""
    return _held_shard(attempt).update(done=done, tokens=tokens) == 1


def finish(attempt: Attempt, *, counts: Mapping[str, int], seconds: float) -> bool:
    """Finish an attempt and its shard; False if it no longer holds its shard.

    Args:
        counts: what the shard's manifest counts.
    """
    with transaction.atomic():
        won = _held_shard(attempt).update(
            status=ShardStatus.FINISHED, token=None, counts=dict(counts)
        )
        if won == 1:
            _running(attempt).update(status=AttemptStatus.FINISHED, finished=Now(), seconds=seconds)
    return won == 1


def fail(attempt: Attempt, *, status: Unfinished, error: str) -> bool:
    """End an attempt without a result and give its shard back; False if it had lost it.

    Args:
        status: failed leaves the shard failed; interrupted and lost let it wait again.
        error: what went wrong, for people.
    """
    with transaction.atomic():
        won = _held_shard(attempt).update(status=_SHARD_AFTER[status], token=None)
        if won == 1:
            _running(attempt).update(status=status, finished=Now(), error=error)
    return won == 1


def accept(shard: Shard, *, counts: Mapping[str, int]) -> bool:
    """Finish a shard whose files are there already, without an attempt; False if one runs."""
    accepted = Shard.objects.filter(pk=shard.pk).exclude(status=ShardStatus.RUNNING)
    return accepted.update(status=ShardStatus.FINISHED, counts=dict(counts)) == 1


def reopen(shard: Shard) -> bool:
    """Let a finished shard, whose files no longer hold, wait again; False if it is not finished."""
    return (
        Shard.objects.filter(pk=shard.pk, status=ShardStatus.FINISHED).update(
            status=ShardStatus.WAITING
        )
        == 1
    )


def start_iteration(iteration: Iteration, *, model_in: str) -> bool:
    """Let an iteration and its experiment run; False if it runs already.

    Args:
        model_in: hash of the model that it begins with.
    """
    with transaction.atomic():
        won = (
            Iteration.objects.filter(pk=iteration.pk, status__in=_AT_REST).update(
                status=RunStatus.RUNNING,
                model_in=model_in,
                started=Now(),
                finished=None,
                finding="",
            )
            == 1
        )
        if won:
            _experiment_of(iteration).update(status=RunStatus.RUNNING)
    return won


def finish_iteration(
    iteration: Iteration, *, model_out: str, metrics: Mapping[str, Any], is_last: bool
) -> bool:
    """Finish a running iteration; False if it does not run.

    Args:
        model_out: hash of the model that it made.
        is_last: whether the experiment's recipe ends with it.
    """
    after = RunStatus.FINISHED if is_last else RunStatus.WAITING
    return _end_iteration(
        iteration,
        RunStatus.FINISHED,
        experiment_status=after,
        model_out=model_out,
        metrics=dict(metrics),
    )


def stop_iteration(
    iteration: Iteration,
    *,
    status: Literal[RunStatus.INTERRUPTED, RunStatus.FAILED, RunStatus.NO_PAIRS],
    finding: str,
) -> bool:
    """End a running iteration otherwise than finished; False if it does not run.

    Args:
        finding: why, for people.
    """
    return _end_iteration(iteration, status, experiment_status=status, finding=finding)


def _end_iteration(
    iteration: Iteration, status: RunStatus, *, experiment_status: RunStatus, **changes: Any
) -> bool:
    with transaction.atomic():
        won = (
            Iteration.objects.filter(pk=iteration.pk, status=RunStatus.RUNNING).update(
                status=status, finished=Now(), **changes
            )
            == 1
        )
        if won:
            _experiment_of(iteration).filter(status=RunStatus.RUNNING).update(
                status=experiment_status
            )
    return won


def plan_stage(stage: Stage, *, shards: int) -> bool:
    """Let a stage run and give it its shards; False if this iteration does not have it.

    Shards that exist are left as they are.
    """
    with transaction.atomic():
        won = (
            Stage.objects.filter(pk=stage.pk)
            .exclude(status=StageStatus.SKIPPED)
            .update(status=StageStatus.RUNNING, shard_count=shards)
            == 1
        )
        if won:
            Shard.objects.bulk_create(
                (Shard(stage=stage, index=index) for index in range(shards)),
                ignore_conflicts=True,
            )
    return won


def skip_stage(stage: Stage) -> bool:
    """Mark a stage that this iteration's schedule does not have; False if it has been begun."""
    fresh = Stage.objects.filter(pk=stage.pk, status__in=(StageStatus.WAITING, StageStatus.SKIPPED))
    return fresh.update(status=StageStatus.SKIPPED) == 1


def finish_stage(stage: Stage) -> bool:
    """Finish a stage of which every shard is finished; False if one is not."""
    unfinished = Shard.objects.filter(stage=stage.pk, index__lt=F("stage__shard_count")).exclude(
        status=ShardStatus.FINISHED
    )
    with transaction.atomic():
        if unfinished.exists():
            return False
        running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
        return running.update(status=StageStatus.FINISHED) == 1


def fail_stage(stage: Stage) -> bool:
    """Mark a running stage of which a shard failed; False if it does not run."""
    running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
    return running.update(status=StageStatus.FAILED) == 1


def give_up_claims(experiment: Experiment, *, status: Unfinished, error: str) -> int:
    """End every attempt of an experiment that the rows say is running.

    Only who holds the experiment's lock may call this: then nobody runs, whatever rows say.

    Args:
        status: interrupted, if this process stops on purpose; lost, if another one vanished.

    Returns:
        How many attempts were ended.
    """
    attempts = Attempt.objects.filter(
        shard__stage__iteration__experiment=experiment, status=AttemptStatus.RUNNING
    )
    ended = _fail_all(attempts, status=status, error=error)
    Stage.objects.filter(iteration__experiment=experiment, status=StageStatus.RUNNING).update(
        status=StageStatus.WAITING
    )
    for iteration in experiment.iterations.filter(status=RunStatus.RUNNING):
        stop_iteration(iteration, status=RunStatus.INTERRUPTED, finding=error)
    return ended


def _fail_all(attempts: Iterable[Attempt], *, status: Unfinished, error: str) -> int:
    return sum(fail(attempt, status=status, error=error) for attempt in attempts)


def _held_shard(attempt: Attempt) -> QuerySet[Shard]:
    return Shard.objects.filter(
        pk=attempt.shard_id, status=ShardStatus.RUNNING, token=attempt.token
    )


def _running(attempt: Attempt) -> QuerySet[Attempt]:
    return Attempt.objects.filter(pk=attempt.pk, status=AttemptStatus.RUNNING)


def _experiment_of(iteration: Iteration) -> QuerySet[Experiment]:
    return Experiment.objects.filter(pk=iteration.experiment_id)
