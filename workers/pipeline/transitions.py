"""Every change of a row's status, each as ONE conditional UPDATE that must change one row.

The loser of a race changes nothing and is told: `claim_shard` returns None, the others return
False. A retry deletes no history: attempts are rows of their own. An attempt holds a token;
whatever it writes to its shard is fenced by that token, so one that lost its claim can change
nothing.

This module knows rows alone: no files, no method.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, When
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, Now

from webapp.db_clock import from_now
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Driver,
    Experiment,
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
_AT_REST = [status for status in RunStatus if status != RunStatus.RUNNING]
Unfinished = Literal[AttemptStatus.FAILED, AttemptStatus.INTERRUPTED, AttemptStatus.LOST]
Stopped = Literal[
    RunStatus.INTERRUPTED,
    RunStatus.FAILED,
    RunStatus.NO_PAIRS,
    RunStatus.PAUSED,
    RunStatus.CANCELLED,
]


def claim_shard(shard: Shard) -> Attempt | None:
    """Take a shard that waits, or failed, for a process that holds the experiment's lock.

    Returns:
        The attempt that now holds it; None if somebody else was faster or it is finished.
    """
    return _claim(shard, Shard.objects.filter(status__in=CLAIMABLE), lease=None)


def claim_shard_for(shard: Shard, *, seconds: float) -> Attempt | None:
    """Take a shard for a worker, for so long as it extends its lease.

    Args:
        seconds: length of the lease.

    Returns:
        The attempt that now holds it; None if somebody else was faster, or nobody may have it.
    """
    return _claim(shard, get_claimable_shards(), lease=from_now(seconds))


def get_claimable_shards() -> QuerySet[Shard]:
    """Shards that wait for a worker."""
    # Conditions on the shard itself stand in the UPDATE, not in a subquery over shards: PostgreSQL
    # checks only the former again after it has waited for another claim.
    return Shard.objects.filter(
        status=ShardStatus.WAITING,
        failures__lt=settings.META_REWARD_MAX_ATTEMPTS,
        stage__in=get_running_stages(),
    )


def get_waiting_shards(stages: Collection[str]) -> QuerySet[Shard]:
    """Shards that wait for a worker, of those that stages of these names have now."""
    return get_claimable_shards().filter(stage__name__in=stages, index__lt=F("stage__shard_count"))


def get_running_stages() -> QuerySet[Stage]:
    """Stages whose shards workers may take."""
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
    """Extend a worker's lease and tell how far it is; False if it no longer holds its shard."""
    told = {"done": done, "tokens": tokens} | ({"training_metrics": metrics} if metrics else {})
    return _get_held_shard(attempt).update(lease_until=from_now(seconds), **told) == 1


def can_continue(attempt: Attempt) -> bool:
    """Say whether an attempt's iteration still runs, and nobody asked it to stop."""
    return _get_worker_driven().filter(stages__shards=attempt.shard_id).exists()


def is_stopped(iteration: Iteration) -> bool:
    """Say whether a person has stopped an iteration, or asked for it."""
    asked = Q(cancel_requested=True) | Q(pause_requested=True)
    stopped = Q(status__in=(RunStatus.CANCELLED, RunStatus.PAUSED))
    return Iteration.objects.filter(asked | stopped, pk=iteration.pk).exists()


def get_unfinished_shards(stage: Stage) -> QuerySet[Shard]:
    """Shards of a stage, of those it has now, that are not finished."""
    return Shard.objects.filter(
        stage=stage.pk, index__lt=F("stage__shard_count"), status__in=_UNFINISHED
    )


def select_exhausted_shards(shards: QuerySet[Shard]) -> QuerySet[Shard]:
    """Those that will not be tried again without a person."""
    tired = Q(status=ShardStatus.WAITING, failures__gte=settings.META_REWARD_MAX_ATTEMPTS)
    return shards.filter(Q(status=ShardStatus.FAILED) | tired)


def get_leased_attempts() -> QuerySet[Attempt]:
    """Attempts of workers that hold a shard."""
    return Attempt.objects.filter(
        status=AttemptStatus.RUNNING,
        shard__status=ShardStatus.RUNNING,
        shard__token=F("token"),
        shard__lease_until__isnull=False,
    )


def get_expired_attempts() -> QuerySet[Attempt]:
    """Attempts of workers that have not extended their lease in time."""
    return get_leased_attempts().filter(shard__lease_until__lt=Now())


def expire_attempt(attempt: Attempt, *, error: str) -> bool:
    """Take a shard from an attempt whose lease has run out; False if it was extended meanwhile."""
    overdue = _get_held_shard(attempt).filter(lease_until__lt=Now())
    return _end_attempt(attempt, overdue, status=AttemptStatus.LOST, error=error)


def get_unsent_shards(*, again_after_seconds: float) -> QuerySet[Shard]:
    """Shards that wait and of which no message is on its way.

    Args:
        again_after_seconds: a message of this age no longer counts.
    """
    overdue = Q(sent__isnull=True) | Q(sent__lt=from_now(-again_after_seconds))
    return Shard.objects.filter(overdue, status=ShardStatus.WAITING)


def mark_sent(shard: Shard, *, again_after_seconds: float) -> bool:
    """Note that a message about a waiting shard is being sent; False if one was, or is."""
    unsent = get_unsent_shards(again_after_seconds=again_after_seconds)
    return unsent.filter(pk=shard.pk).update(sent=Now()) == 1


def mark_unsent(shard: Shard) -> None:
    """Note that the broker did not take a message; the reconciler sends it later."""
    Shard.objects.filter(pk=shard.pk).update(sent=None)


def report_progress(
    attempt: Attempt, *, done: int, tokens: int, metrics: MetricRows | None = None
) -> bool:
    """Tell how far an attempt is; False if it no longer holds its shard."""
    told = {"done": done, "tokens": tokens} | ({"training_metrics": metrics} if metrics else {})
    return _get_held_shard(attempt).update(**told) == 1


def finish_attempt(attempt: Attempt, *, counts: Mapping[str, int], seconds: float | None) -> bool:
    """Finish an attempt and its shard; False if it no longer holds its shard.

    Args:
        counts: what the shard's manifest counts.
        seconds: how long it ran; None if an earlier attempt had left the finished files.
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
    """End an attempt without a result and give its shard back; False if it had lost it.

    Args:
        status: failed leaves the shard failed; interrupted and lost let it wait again.
        error: what went wrong, for people.
        again: a failed shard, too, waits again.
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
    """Finish a shard whose files are there already, without an attempt; False if one runs."""
    accepted = Shard.objects.filter(pk=shard.pk).exclude(status=ShardStatus.RUNNING)
    return accepted.update(status=ShardStatus.FINISHED, counts=dict(counts)) == 1


def reopen_shard(shard: Shard) -> bool:
    """Let a finished shard, whose files no longer hold, wait again; False if it is not finished."""
    return (
        Shard.objects.filter(pk=shard.pk, status=ShardStatus.FINISHED).update(
            status=ShardStatus.WAITING, sent=None
        )
        == 1
    )


def start_iteration(
    iteration: Iteration, *, model_in: str, driver: Driver = Driver.COMMAND
) -> bool:
    """Let an iteration and its experiment run; False if it runs already.

    One that is finished is only looked at again, as far as anybody knows: it keeps its times.

    Args:
        model_in: hash of the model that it begins with.
        driver: who takes its steps.
    """
    with transaction.atomic():
        won = (
            Iteration.objects.filter(pk=iteration.pk, status__in=_AT_REST).update(
                status=RunStatus.RUNNING,
                model_in=model_in,
                driver=driver,
                cancel_requested=False,
                pause_requested=False,
                started=_make_finished_case(F("started"), otherwise=Now()),
                finished=_make_finished_case(F("finished"), otherwise=None),
                message="",
            )
            == 1
        )
        if won:
            _get_experiment(iteration).update(status=RunStatus.RUNNING)
    return won


def _make_finished_case(kept: Combinable, *, otherwise: Combinable | None) -> Case:
    return Case(When(status=RunStatus.FINISHED, then=kept), default=otherwise)


def finish_iteration(
    iteration: Iteration, *, model_out: str, metrics: Mapping[str, Any], is_last: bool
) -> bool:
    """Finish a running iteration; False if it does not run.

    One that was finished before, and of which nothing was made again since, ended when it did.

    Args:
        model_out: hash of the model that it made.
        is_last: whether the experiment's recipe ends with it.
    """
    after = RunStatus.FINISHED if is_last else RunStatus.WAITING
    attempts = Attempt.objects.filter(shard__stage__iteration=OuterRef("pk"))
    made_again = Exists(attempts.filter(started__gt=OuterRef("finished")))
    return _end_iteration(
        iteration,
        RunStatus.FINISHED,
        experiment_status=after,
        finished=Case(When(made_again, then=Now()), default=Coalesce("finished", Now())),
        model_out=model_out,
        metrics=dict(metrics),
    )


def stop_iteration(
    iteration: Iteration,
    *,
    status: Stopped,
    message: str,
) -> bool:
    """End a running iteration otherwise than finished; False if it does not run.

    Args:
        message: why, for users.
    """
    return _end_iteration(
        iteration, status, experiment_status=status, finished=Now(), message=message
    )


def cancel_paused(iteration: Iteration) -> bool:
    """Cancel an iteration that is paused; False if it is not."""
    paused = Iteration.objects.filter(pk=iteration.pk, status=RunStatus.PAUSED)
    with transaction.atomic():
        won = paused.update(status=RunStatus.CANCELLED) == 1
        if won:
            _get_experiment(iteration).update(status=RunStatus.CANCELLED)
    return won


def _end_iteration(
    iteration: Iteration, status: RunStatus, *, experiment_status: RunStatus, **changes: Any
) -> bool:
    with transaction.atomic():
        won = (
            Iteration.objects.filter(pk=iteration.pk, status=RunStatus.RUNNING).update(
                status=status, **changes
            )
            == 1
        )
        if won:
            _get_experiment(iteration).filter(status=RunStatus.RUNNING).update(
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


def start_stage(stage: Stage, *, shards: int) -> bool:
    """Let a waiting stage run and give it its shards; False if somebody else has begun it."""
    with transaction.atomic():
        won = (
            Stage.objects.filter(pk=stage.pk, status=StageStatus.WAITING).update(
                status=StageStatus.RUNNING, shard_count=shards
            )
            == 1
        )
        if won:
            Shard.objects.bulk_create(
                (Shard(stage=stage, index=index) for index in range(shards)),
                ignore_conflicts=True,
            )
            Shard.objects.filter(stage=stage, status=ShardStatus.WAITING).update(sent=None)
    return won


def reopen_stage(stage: Stage) -> bool:
    """Let a finished stage run again, because files of it no longer hold; later stages wait."""
    finished = Stage.objects.filter(pk=stage.pk, status=StageStatus.FINISHED)
    later = Stage.objects.filter(
        iteration=stage.iteration_id, position__gt=stage.position, status=StageStatus.RUNNING
    )
    with transaction.atomic():
        won = finished.update(status=StageStatus.RUNNING) == 1
        if won:
            later.update(status=StageStatus.WAITING)
    return won


def reset_running_stages(iteration: Iteration) -> None:
    """Let the stages of an iteration that is at rest wait, and what failed be tried again."""
    stages = Stage.objects.filter(
        iteration=iteration.pk,
        iteration__in=Iteration.objects.exclude(status=RunStatus.RUNNING),
    )
    Shard.objects.filter(stage__in=stages, status=ShardStatus.FAILED).update(
        status=ShardStatus.WAITING
    )
    Shard.objects.filter(stage__in=stages, status=ShardStatus.WAITING).update(failures=0, sent=None)
    unfinished = (StageStatus.RUNNING, StageStatus.FAILED)
    stages.filter(status__in=unfinished).update(status=StageStatus.WAITING)


def skip_stage(stage: Stage) -> bool:
    """Mark a stage that this iteration's schedule does not have; False if it has been begun."""
    fresh = Stage.objects.filter(pk=stage.pk, status__in=(StageStatus.WAITING, StageStatus.SKIPPED))
    return fresh.update(status=StageStatus.SKIPPED) == 1


def finish_stage(stage: Stage) -> bool:
    """Finish a stage of which every shard is finished; False if one is not."""
    with transaction.atomic():
        if get_unfinished_shards(stage).exists():
            return False
        running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
        return running.update(status=StageStatus.FINISHED) == 1


def fail_stage(stage: Stage) -> bool:
    """Mark a running stage of which a shard failed; False if it does not run."""
    running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
    return running.update(status=StageStatus.FAILED) == 1


def release_claims(experiment: Experiment, *, status: Unfinished, error: str) -> int:
    """End every attempt of an experiment that the rows say is running.

    Only who holds the experiment's lock may call this: then nobody but workers, whose claims are
    leased and left alone, runs anything, whatever rows say.

    Args:
        status: interrupted, if this process stops on purpose; lost, if another one vanished.

    Returns:
        How many attempts were ended.
    """
    iterations = experiment.iterations.exclude(status=RunStatus.RUNNING, driver=Driver.WORKERS)
    attempts = Attempt.objects.filter(
        shard__stage__iteration__in=iterations, status=AttemptStatus.RUNNING
    )
    ended = _fail_all(attempts, status=status, error=error)
    Stage.objects.filter(iteration__in=iterations, status=StageStatus.RUNNING).update(
        status=StageStatus.WAITING
    )
    for iteration in iterations.filter(status=RunStatus.RUNNING):
        stop_iteration(iteration, status=RunStatus.INTERRUPTED, message=error)
    return ended


def _fail_all(attempts: Iterable[Attempt], *, status: Unfinished, error: str) -> int:
    return sum(fail_attempt(attempt, status=status, error=error) for attempt in attempts)


def _get_held_shard(attempt: Attempt) -> QuerySet[Shard]:
    return Shard.objects.filter(
        pk=attempt.shard_id, status=ShardStatus.RUNNING, token=attempt.token
    )


def _get_running(attempt: Attempt) -> QuerySet[Attempt]:
    return Attempt.objects.filter(pk=attempt.pk, status=AttemptStatus.RUNNING)


def _get_experiment(iteration: Iteration) -> QuerySet[Experiment]:
    return Experiment.objects.filter(pk=iteration.experiment_id)
