"""Progress of experiments, with a constant number of queries."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import QuerySet
from django.utils import timezone

from webapp.experiments.error_text import split_error
from webapp.experiments.models import (
    Driver,
    Experiment,
    Iteration,
    RunStatus,
    StageStatus,
    Worker,
)
from webapp.experiments.stage_progress import (
    StageProgress,
    format_duration,
    format_time_left,
    list_stage_progress,
)
from webapp.experiments.statuses import is_held_at_gate

SILENT_SECONDS: Final = 30.0
"""A worker sends a heartbeat every few seconds; after this time it is reported as silent."""


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """An experiment in a list.

    Attributes:
        latest: the running iteration, or else the one that ran last; None before the first.
        stage: current stage (running, pending or failed) of the latest iteration; None if the
            iteration is finished.
        stages: number of stages of the latest iteration.
        all_stages: all stages of the latest iteration if it is not finished.
        unasked: number of the next iteration, if it has not been requested yet.
        seconds_left: estimated time until the last requested iteration is completed, based on the
            last completed iteration; None without one, or if nothing is running.
    """

    row: Experiment
    finished: int
    latest: Iteration | None
    stage: StageProgress | None
    stages: int
    unasked: int | None
    seconds_left: float | None
    all_stages: Sequence[StageProgress] = ()

    @property
    def percent(self) -> int | None:
        """Progress towards the last requested iteration; None if the experiment does not run."""
        if self.row.status != RunStatus.RUNNING or not self.all_stages:
            return None
        return min(99, int(100 * self.portion))

    @property
    def portion(self) -> float:
        """Completed share of the requested iterations, from 0 to 1."""
        part = 0.0
        if self.all_stages:
            part = sum(stage.portion for stage in self.all_stages) / len(self.all_stages)
        return min(1.0, (self.finished + part) / max(1, self.goal))

    @property
    def goal(self) -> int:
        """Number of requested iterations."""
        goal = max(self.row.target_iteration, self.finished)
        if goal == self.finished and self.row.status != RunStatus.FINISHED:
            goal = max(goal, self.latest.number if self.latest else 1)
        return goal

    @property
    def done_of(self) -> str:
        """Completed and requested iterations, as text."""
        return f"{self.finished} of {self.goal} iteration{'s'[: self.goal != 1]}"

    @property
    def done_of_brief(self) -> str:
        """Completed and requested iterations, without the unit."""
        return f"{self.finished} of {self.goal}"

    @property
    def left(self) -> str:
        """Estimated time left, as text; empty without an estimate."""
        return format_time_left(self.seconds_left)

    @property
    def waits_for_audit(self) -> bool:
        """Whether the audit gate blocks the iteration."""
        return self.latest is not None and is_held_at_gate(self.latest)

    @property
    def headline(self) -> str:
        """First sentence of the reason why it stopped."""
        return split_error(self.latest.message if self.latest else "").headline

    @property
    def reason(self) -> str:
        """First line of the reason why it stopped, without a traceback."""
        message = self.latest.message if self.latest else ""
        return next(iter(split_error(message).cause.splitlines()), "")


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as of its last heartbeat: one of its pool processes, with its devices.

    Attributes:
        tokens_per_second: speed of the running shard.
    """

    row: Worker
    queues: Sequence[str]
    doing: str
    is_silent: bool
    silent_seconds: int
    tokens_per_second: float | None = None

    @property
    def utilization_percent(self) -> int | None:
        """Share of the time in which its devices compute, in percent."""
        used = self.row.device_utilization
        return None if used is None else round(100 * used)

    @property
    def silent_for(self) -> str:
        """Time since the last heartbeat, as text."""
        return format_duration(self.silent_seconds)


def is_active(experiment: Experiment) -> bool:
    """Whether an experiment runs, or the workers are about to start its next iteration.

    Its iterations should have been prefetched.
    """
    if experiment.status == RunStatus.WAITING:
        return count_finished(experiment) < experiment.target_iteration
    return experiment.status == RunStatus.RUNNING


def count_finished(experiment: Experiment) -> int:
    """Count the finished iterations, which should have been prefetched."""
    return sum(row.status == RunStatus.FINISHED for row in experiment.iterations.all())


def find_unrequested_iteration(experiment: Experiment) -> int | None:
    """Return the iteration that a user must request next; None if there is none.

    Its iterations should have been prefetched.
    """
    if experiment.status != RunStatus.WAITING or is_active(experiment):
        return None
    return count_finished(experiment) + 1


def needs_workers(experiment: Experiment) -> bool:
    """Whether an active experiment is run by workers instead of a command."""
    running = [row for row in experiment.iterations.all() if row.status == RunStatus.RUNNING]
    return is_active(experiment) and all(row.driver == Driver.WORKERS for row in running)


def summarize_experiments(experiments: Iterable[Experiment]) -> list[ExperimentSummary]:
    """Summarize the progress of experiments; their iterations should be prefetched."""
    rows = list(experiments)
    latest = {row.pk: get_latest_iteration(row) for row in rows}
    unfinished = [
        iteration
        for iteration in latest.values()
        if iteration is not None and iteration.status != RunStatus.FINISHED
    ]
    before = [row for one in unfinished if (row := find_before(one, rows)) is not None]
    stages = list_stage_progress([*unfinished, *before]) if unfinished else {}
    return [_summarize_experiment(row, latest[row.pk], stages) for row in rows]


def get_latest_iteration(experiment: Experiment) -> Iteration | None:
    """Return the iteration that runs or ran last; iterations should be prefetched."""
    return max(experiment.iterations.all(), key=lambda row: row.number, default=None)


def _summarize_experiment(
    row: Experiment, latest: Iteration | None, stages: Mapping[int, list[StageProgress]]
) -> ExperimentSummary:
    is_unfinished = latest is not None and latest.status != RunStatus.FINISHED
    found = stages.get(latest.pk, []) if latest and is_unfinished else []
    before = find_before(latest, [row]) if latest and is_unfinished else None
    return ExperimentSummary(
        row=row,
        finished=count_finished(row),
        latest=latest,
        stage=find_current_stage(found),
        stages=len(found),
        unasked=find_unrequested_iteration(row),
        all_stages=found,
        seconds_left=estimate_seconds_left(row, found, stages.get(before.pk, []) if before else []),
    )


def find_before(iteration: Iteration, experiments: Sequence[Experiment]) -> Iteration | None:
    """Return the previous iteration if it is completed."""
    experiment = next(row for row in experiments if row.pk == iteration.experiment_id)
    for row in experiment.iterations.all():
        if row.number == iteration.number - 1 and row.status == RunStatus.FINISHED:
            return row
    return None


def estimate_seconds_left(
    experiment: Experiment, stages: Sequence[StageProgress], before: Sequence[StageProgress]
) -> float | None:
    """Estimate the time until the last requested iteration is completed.

    Args:
        stages: stages of the running iteration.
        before: stages of the previous completed iteration, whose times predict the remaining ones.
    """
    left = estimate_iteration_seconds_left(stages, before)
    if experiment.status != RunStatus.RUNNING or left is None:
        return None
    further = experiment.target_iteration - count_finished(experiment) - 1
    return left + max(0, further) * sum(_measure_added_seconds(before).values())


def estimate_iteration_seconds_left(
    stages: Sequence[StageProgress], before: Sequence[StageProgress]
) -> float | None:
    """Estimate the time until a running iteration is completed; see `estimate_seconds_left`."""
    current = find_current_stage(stages)
    if current is None or not before:
        return None
    took = {stage.name: stage.seconds or 0.0 for stage in before}
    expected = took.get(current.name, 0.0) - (current.seconds or 0.0)
    left = current.seconds_left if current.seconds_left is not None else max(0.0, expected)
    added = _measure_added_seconds(before)
    return left + sum(added.get(stage.name, 0.0) for stage in stages if stage.place > current.place)


def _measure_added_seconds(stages: Sequence[StageProgress]) -> dict[str, float]:
    """Measure how long each stage ran after all earlier ones had ended, because stages overlap."""
    added: dict[str, float] = {}
    ended: datetime | None = None
    for stage in stages:
        if stage.began is None or stage.seconds is None:
            continue
        end = stage.began + timedelta(seconds=stage.seconds)
        begin = stage.began if ended is None else max(stage.began, ended)
        added[stage.name] = max(0.0, (end - begin).total_seconds())
        ended = end if ended is None else max(ended, end)
    return added


def find_current_stage(stages: Sequence[StageProgress]) -> StageProgress | None:
    """Find the first stage that is not finished."""
    return next((stage for stage in stages if stage.status != StageStatus.FINISHED), None)


def list_worker_states(visible: QuerySet[Experiment]) -> list[WorkerState]:
    """List the state of every worker.

    Args:
        visible: experiments that the requesting user may see.
    """
    now = timezone.now()
    workers = list(Worker.objects.select_related("shard__stage__iteration__experiment"))
    shards = [worker.shard_id for worker in workers if worker.shard_id is not None]
    at_work = visible.filter(iterations__stages__shards__in=shards)
    named = set(at_work.values_list("pk", flat=True))
    return [_make_worker_state(worker, now, named) for worker in workers]


def count_live_workers() -> int:
    """Count the workers with a recent heartbeat."""
    heard = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    return Worker.objects.filter(heartbeat__gte=heard).count()


def list_offered_engines() -> frozenset[str] | None:
    """List the kinds of engines that live GPU workers offer.

    Returns None if no such worker runs, or if one of an earlier version, which does not report its
    engines, is running.
    """
    heard = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    live = Worker.objects.filter(heartbeat__gte=heard)
    reported = [row.engines for row in live if "gpu" in row.queues.split(",")]
    if not reported or not all(reported):
        return None
    return frozenset(kind for engines in reported for kind in engines.split(","))


def _describe_work(worker: Worker, named: Container[int]) -> str:
    if worker.shard is None:
        return ""
    experiment = worker.shard.stage.iteration.experiment
    return str(worker.shard) if experiment.pk in named else "a private experiment"


def _make_worker_state(worker: Worker, now: datetime, named: Container[int]) -> WorkerState:
    silent_seconds = max(0, round((now - worker.heartbeat).total_seconds()))
    return WorkerState(
        row=worker,
        queues=worker.queues.split(","),
        doing=_describe_work(worker, named),
        is_silent=silent_seconds > SILENT_SECONDS,
        silent_seconds=silent_seconds,
        tokens_per_second=_compute_token_rate(worker),
    )


def _compute_token_rate(worker: Worker) -> float | None:
    seconds = (worker.heartbeat - worker.since).total_seconds()
    if worker.shard is None or not worker.shard.tokens or seconds <= 0:
        return None
    return worker.shard.tokens / seconds
