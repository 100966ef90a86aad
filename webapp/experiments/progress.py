"""How far experiments are, read from rows in a number of queries that does not grow with them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import BigIntegerField, Count, F, Q, Sum, Window
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Right, RowNumber
from django.utils import timezone

from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Driver,
    Experiment,
    Iteration,
    RunStatus,
    ShardStatus,
    Stage,
    StageStatus,
    Worker,
)

SILENT_SECONDS: Final = 30.0
"""A worker shows itself every few seconds; after this long it is said to be silent."""

_FAILURES_SHOWN = 3
_LINES_SHOWN = 8
_CHARS_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        shard_count: None as long as nobody knows.
        tokens_per_second: of all shards that run now, together; None if nothing runs.
    """

    title: str
    status: str
    status_label: str
    done: int
    failed: int
    shard_count: int | None
    tokens: int
    tokens_per_second: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not end well.

    Attributes:
        lines: the end of what it said.
    """

    what: str
    status_label: str
    when: datetime | None
    worker: str
    pid: int
    lines: str


@dataclass(frozen=True, slots=True)
class IterationProgress:
    """An iteration; its stages and failures where they are of interest."""

    row: Iteration
    model_before: int
    stages: Sequence[StageProgress]
    failures: Sequence[Failure]


@dataclass(frozen=True, slots=True)
class ExperimentProgress:
    """An experiment with its iterations, the latest first."""

    row: Experiment
    iterations: Sequence[IterationProgress]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as it last showed itself."""

    row: Worker
    queues: Sequence[str]
    doing: str
    is_silent: bool
    silent_seconds: int


def is_active(experiment: Experiment) -> bool:
    """Whether an experiment runs, or the workers are about to begin its next iteration.

    Its iterations should have been prefetched.
    """
    if experiment.status == RunStatus.WAITING:
        iterations = experiment.iterations.all()
        finished = sum(iteration.status == RunStatus.FINISHED for iteration in iterations)
        return finished < experiment.until
    return experiment.status == RunStatus.RUNNING


def needs_workers(experiment: Experiment) -> bool:
    """Whether an active experiment was handed to the workers; else a command runs it itself."""
    running = [row for row in experiment.iterations.all() if row.status == RunStatus.RUNNING]
    return is_active(experiment) and all(row.driver == Driver.WORKERS for row in running)


def experiments_progress(experiments: Iterable[Experiment]) -> list[ExperimentProgress]:
    """Read how far experiments are; their iterations should have been prefetched.

    Stages are read for each experiment's latest iteration and for those that are not finished.
    """
    rows = [
        (experiment, sorted(experiment.iterations.all(), key=lambda row: -row.number))
        for experiment in experiments
    ]
    detailed = [iteration.pk for _, found in rows for iteration in _of_interest(found)]
    stages, failures = _stages(detailed), _failures(detailed)
    return [
        ExperimentProgress(
            experiment,
            [
                IterationProgress(row, row.number - 1, stages[row.pk], failures[row.pk])
                for row in iterations
            ],
        )
        for experiment, iterations in rows
    ]


def worker_states() -> list[WorkerState]:
    """Read what every worker does."""
    now = timezone.now()
    workers = Worker.objects.select_related("shard__stage__iteration__experiment")
    return [_worker_state(worker, now) for worker in workers]


def count_live_workers() -> int:
    """Count the workers that showed themselves a moment ago."""
    heard = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    return Worker.objects.filter(heartbeat__gte=heard).count()


def _worker_state(worker: Worker, now: datetime) -> WorkerState:
    silent_seconds = max(0, round((now - worker.heartbeat).total_seconds()))
    return WorkerState(
        row=worker,
        queues=worker.queues.split(","),
        doing="" if worker.shard is None else str(worker.shard),
        is_silent=silent_seconds > SILENT_SECONDS,
        silent_seconds=silent_seconds,
    )


def _of_interest(iterations: Sequence[Iteration]) -> list[Iteration]:
    return [row for row in iterations if row.status != RunStatus.FINISHED or row is iterations[0]]


def _stages(iterations: Sequence[int]) -> dict[int, list[StageProgress]]:
    rates = _tokens_per_second(iterations)
    finished = Q(shards__status=ShardStatus.FINISHED)
    tokens = Cast(KeyTextTransform("tokens", "shards__counts"), BigIntegerField())
    rows = (
        Stage.objects.filter(iteration__in=iterations)
        .exclude(status=StageStatus.SKIPPED)
        .order_by("iteration", "position")
        .annotate(
            done=Count("shards", filter=finished),
            failed=Count("shards", filter=Q(shards__status=ShardStatus.FAILED)),
            tokens=Sum(tokens, filter=finished),
        )
    )
    found: dict[int, list[StageProgress]] = defaultdict(list)
    for row in rows:
        found[row.iteration_id].append(
            StageProgress(
                title=row.title,
                status=row.status,
                status_label=row.get_status_display(),
                done=row.done,
                failed=row.failed,
                shard_count=row.shard_count,
                tokens=row.tokens or 0,
                tokens_per_second=rates.get(row.pk),
            )
        )
    return found


def _tokens_per_second(iterations: Sequence[int]) -> dict[int, int]:
    """Sum, by stage, the speeds of the attempts that run now."""
    now = timezone.now()
    running = Attempt.objects.filter(
        shard__stage__iteration__in=iterations, status=AttemptStatus.RUNNING
    ).values_list("shard__stage", "started", "shard__tokens")
    speeds: dict[int, float] = defaultdict(float)
    for stage, started, tokens in running:
        if tokens:
            speeds[stage] += tokens / max(1.0, (now - started).total_seconds())
    return {stage: round(speed) for stage, speed in speeds.items()}


def _failures(iterations: Sequence[int]) -> dict[int, list[Failure]]:
    """Read the last failed attempts of each iteration, without the whole of long errors."""
    rank = Window(RowNumber(), partition_by=F("shard__stage__iteration"), order_by=F("pk").desc())
    rows = (
        Attempt.objects.filter(
            shard__stage__iteration__in=iterations,
            status__in=[AttemptStatus.FAILED, AttemptStatus.LOST],
        )
        .annotate(rank=rank, tail=Right("error", _CHARS_SHOWN))
        .filter(rank__lte=_FAILURES_SHOWN)
        .select_related("shard__stage")
        .defer("error")
        .order_by("-pk")
    )
    found: dict[int, list[Failure]] = defaultdict(list)
    for row in rows:
        stage = row.shard.stage
        found[stage.iteration_id].append(
            Failure(
                what=f"{stage.title}, shard {row.shard.index}, attempt {row.number}",
                status_label=row.get_status_display(),
                when=row.finished,
                worker=row.worker,
                pid=row.pid,
                lines="\n".join(row.tail.strip().splitlines()[-_LINES_SHOWN:]),
            )
        )
    return found
