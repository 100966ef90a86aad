"""Status changes of iterations and stages, each as ONE conditional UPDATE of one row.

The loser of a race changes nothing: every function returns whether its change won. Shards and
attempts are in `shard_claims`. This module depends on rows only, not on files or the method.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal

from django.db import connection, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, Now
from django.db.models.lookups import GreaterThan

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
from webapp.experiments.statuses import HELD_AT_GATE
from workers.pipeline.shard_claims import Unfinished, fail_attempt, get_unfinished_shards

CANCELLABLE: Final = (RunStatus.PAUSED, RunStatus.INTERRUPTED, RunStatus.NEEDS_ATTENTION)
"""Inactive statuses in which an iteration can be cancelled; a running one must stop first."""

_AT_REST = [status for status in RunStatus if status != RunStatus.RUNNING]
Stopped = Literal[
    RunStatus.INTERRUPTED,
    RunStatus.FAILED,
    RunStatus.NO_PAIRS,
    RunStatus.NEEDS_ATTENTION,
    RunStatus.PAUSED,
    RunStatus.CANCELLED,
]


def is_stopped(iteration: Iteration) -> bool:
    """Whether a user has stopped an iteration, or requested it."""
    asked = Q(cancel_requested=True) | Q(pause_requested=True)
    stopped = Q(status__in=(RunStatus.CANCELLED, RunStatus.PAUSED))
    return Iteration.objects.filter(asked | stopped, pk=iteration.pk).exists()


def start_iteration(
    iteration: Iteration, *, model_in: str, driver: Driver = Driver.COMMAND
) -> bool:
    """Start an iteration and its experiment; False if it already runs.

    The iteration keeps the time of its first start. A finished iteration is usually only checked
    again, so it also keeps its end time.

    Args:
        model_in: hash of its initial model.
        driver: what runs its stages.
    """
    with transaction.atomic():
        won = (
            Iteration.objects.filter(pk=iteration.pk, status__in=_AT_REST).update(
                status=RunStatus.RUNNING,
                model_in=model_in,
                driver=driver,
                cancel_requested=False,
                pause_requested=False,
                started=Coalesce("started", Now()),
                finished=_make_finished_case(F("finished"), default=None),
                message="",
            )
            == 1
        )
        if won:
            _get_experiment(iteration).update(status=RunStatus.RUNNING)
    return won


def _make_finished_case(kept: Combinable, *, default: Combinable | None) -> Case:
    return Case(When(status=RunStatus.FINISHED, then=kept), default=default)


def release_held(iteration: Iteration) -> bool:
    """Continue an iteration held by the audit gate; False if it is not held."""
    with transaction.atomic():
        won = (
            get_held_iterations()
            .filter(pk=iteration.pk)
            .update(status=RunStatus.RUNNING, message="", finished=None)
            == 1
        )
        if won:
            _get_experiment(iteration).update(status=RunStatus.RUNNING)
    return won


def get_held_iterations() -> QuerySet[Iteration]:
    """Return the iterations of workers whose training the audit gate blocks."""
    return Iteration.objects.filter(
        status=RunStatus.NEEDS_ATTENTION, driver=Driver.WORKERS, message__startswith=HELD_AT_GATE
    )


def finish_iteration(
    iteration: Iteration,
    *,
    model_out: str,
    metrics: Mapping[str, Any],
    goal: int | None = None,
) -> bool:
    """Complete a running iteration; False if it does not run.

    An iteration that was finished before keeps its end time if nothing was rerun since.

    Args:
        model_out: hash of the model that it trained.
        goal: the last requested iteration; None to use the target in the experiment's row. The
            experiment is completed with this iteration, and pending before it.
    """
    last = F("target_iteration") if goal is None else Value(goal)
    after = Case(
        When(GreaterThan(last, Value(iteration.number)), then=Value(RunStatus.WAITING)),
        default=Value(RunStatus.FINISHED),
    )
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
    """End a running iteration without completing it; False if it does not run.

    Args:
        message: the reason, as shown to users.
    """
    return _end_iteration(
        iteration, status, experiment_status=status, finished=Now(), message=message
    )


def cancel_stopped(iteration: Iteration) -> bool:
    """Cancel an iteration that is paused or needs attention; False if it is not."""
    paused = Iteration.objects.filter(pk=iteration.pk, status__in=CANCELLABLE)
    with transaction.atomic():
        won = paused.update(status=RunStatus.CANCELLED) == 1
        if won:
            _get_experiment(iteration).update(status=RunStatus.CANCELLED)
    return won


def _end_iteration(
    iteration: Iteration, status: RunStatus, *, experiment_status: RunStatus | Case, **changes: Any
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
    """Start a stage with its shards; False if this iteration does not have it.

    Existing shards are left unchanged.
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
    """Start a waiting stage with its shards; False if it was already started."""
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
    """Reopen a finished stage with invalid files; later stages wait."""
    finished = Stage.objects.filter(pk=stage.pk, status=StageStatus.FINISHED)
    later = Stage.objects.filter(
        iteration=stage.iteration_id, position__gt=stage.position, status=StageStatus.RUNNING
    )
    with transaction.atomic():
        won = finished.update(status=StageStatus.RUNNING) == 1
        if won:
            later.update(status=StageStatus.WAITING)
    return won


def reopen_stages(iteration: Iteration, names: Collection[str]) -> None:
    """Reopen stages of a stopped iteration, whatever their state.

    Skipped stages become pending, too, because the change may have added them to the schedule.
    """
    stages = Stage.objects.filter(
        iteration=iteration.pk,
        iteration__in=Iteration.objects.exclude(status=RunStatus.RUNNING),
    )
    Shard.objects.filter(
        stage__in=stages.filter(name__in=names),
        status__in=(ShardStatus.FINISHED, ShardStatus.FAILED),
    ).update(status=ShardStatus.WAITING, failures=0, sent=None)
    reopened = Q(name__in=names, status__in=(StageStatus.FINISHED, StageStatus.FAILED))
    stages.filter(reopened | Q(status=StageStatus.SKIPPED)).update(status=StageStatus.WAITING)


def reset_running_stages(iteration: Iteration) -> None:
    """Reset the stages of a stopped iteration to waiting, with failed shards to be retried."""
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
    """Skip a stage that is not in this iteration's schedule; False if it was started."""
    fresh = Stage.objects.filter(pk=stage.pk, status__in=(StageStatus.WAITING, StageStatus.SKIPPED))
    return fresh.update(status=StageStatus.SKIPPED) == 1


def finish_stage(stage: Stage) -> bool:
    """Finish a stage whose shards are all finished; False if one is not."""
    with transaction.atomic():
        if get_unfinished_shards(stage).exists():
            return False
        running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
        return running.update(status=StageStatus.FINISHED) == 1


def fail_stage(stage: Stage) -> bool:
    """Fail a running stage because of a failed shard; False if it does not run."""
    running = Stage.objects.filter(pk=stage.pk, status=StageStatus.RUNNING)
    return running.update(status=StageStatus.FAILED) == 1


def drop_interrupted_transaction() -> None:
    """Return the database connection to a known state after Ctrl-C.

    An interrupt during BEGIN leaves open a transaction that Django is not aware of, so the next one
    cannot start. Django ends the transactions that it is aware of.
    """
    if not connection.in_atomic_block:
        connection.rollback()
        connection.close()


def release_claims(experiment: Experiment, *, status: Unfinished, error: str) -> int:
    """End every running attempt of an experiment.

    Callers must hold the experiment's lock. Then only workers can be running something, regardless
    of the rows; their leased claims are not changed.

    Args:
        status: interrupted if this process stops on purpose; lost if another process vanished.

    Returns:
        The number of attempts that were ended.
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


def _get_experiment(iteration: Iteration) -> QuerySet[Experiment]:
    return Experiment.objects.filter(pk=iteration.experiment_id)
