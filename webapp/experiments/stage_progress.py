"""Progress, speed and estimated time of the stages of iterations."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Avg, BigIntegerField, Count, Max, Min, Q, Sum
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.utils import timezone

from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Iteration,
    ShardStatus,
    Stage,
    StageStatus,
)

NO_BREAK: Final = "\u00a0"
"""Non-breaking space."""

_SAMPLE: Final = "sample"
_TRAIN: Final = "train"
_PAIR_ACTOR: Final = "pair_actor"
_ROUNDED: Final = ((10, 1), (90, 5), (5400, 60), (86_400, 600), (math.inf, 3600))
"""Up to how many seconds an estimate is rounded to a multiple of how many."""
_MIN_STEPS: Final = 3
"""Minimum number of steps to estimate a training's speed: the first one includes the startup."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Progress of a stage.

    Attributes:
        tokens: of completed and running shards.
        place: position among the iteration's stages, from 1.
        shard_count: None until it is known.
        tokens_per_second: total of all running shards; None if none are running.
        step: current step of the running training; `steps` is the maximum number of steps.
        began: start of the first attempt.
        seconds: from then to the end of the last attempt, or until now.
        seconds_left: None if no reliable estimate is possible.
        prompts: sampled prompts; None for other stages.
        pairs, dropped: pairs of a finished pair selection, and the prompts or judgments without
            one; None for other stages.
    """

    name: str
    title: str
    place: int
    status: str
    status_label: str
    done: int
    running: int
    failed: int
    shard_count: int | None
    tokens: int
    tokens_per_second: int | None
    step: int | None
    steps: int | None
    began: datetime | None
    seconds: float | None
    seconds_left: float | None
    prompts: int | None = None
    pairs: int | None = None
    dropped: int | None = None

    @property
    def took(self) -> str:
        """Time taken so far, as text; empty before the start."""
        return "" if self.seconds is None else format_duration(self.seconds)

    @property
    def work(self) -> list[str]:
        """Completed shards (unless there is only one shard) and the step of a running training."""
        facts = []
        if self.shard_count and self.shard_count > 1:
            facts.append(f"{self.done:,} of {self.shard_count:,} shards done")
        if self.step is not None:
            most = f" of at most {self.steps:,}" if self.steps else ""
            facts.append(f"step {self.step:,}{most}")
        return facts

    @property
    def facts(self) -> list[str]:
        """Most important facts of a stage: the time left, or the time it took, and its work."""
        finished = [] if self.is_running else [self.took]
        facts = [self.left, self.result, *self.work, *finished]
        if not self.is_running and self.tokens:
            facts.append(f"{self.tokens:,} tokens")
        return [fact for fact in facts if fact]

    @property
    def result(self) -> str:
        """Result of a finished sampling or pair selection, as text; empty for other stages."""
        if self.prompts is not None:
            return f"{self.prompts:,} prompt{'s'[: self.prompts != 1]}"
        if self.pairs is None:
            return ""
        text = f"{self.pairs:,} pair{'s'[: self.pairs != 1]}"
        if self.name != _PAIR_ACTOR or self.dropped is None:
            return text
        prompts = self.pairs + self.dropped
        return f"{text} from {prompts:,} prompt{'s'[: prompts != 1]}"

    @property
    def details(self) -> list[str]:
        """Further facts of a running stage."""
        if not self.is_running:
            return []
        facts = [
            f"{self.took} so far" if self.took else "",
            f"{self.running:,} running" if self.shard_count != 1 else "",
            f"{self.tokens:,} tokens" if self.tokens else "",
            "" if self.tokens_per_second is None else f"{self.tokens_per_second:,} tokens/s",
        ]
        return [fact for fact in facts if fact]

    @property
    def is_running(self) -> bool:
        """Whether an attempt is running."""
        return self.running > 0

    @property
    def failures(self) -> str:
        """Failed shards and those never started, as text; empty if none failed."""
        if not self.failed or not self.shard_count or self.shard_count == 1:
            return ""
        waiting = self.shard_count - self.done - self.failed - self.running
        return f"{self.failed:,} failed" + (f" · {waiting:,} not started" if waiting else "")

    @property
    def failed_units(self) -> int:
        """Failed shards; the whole stage if it failed without a failed shard."""
        if self.status != StageStatus.FAILED:
            return self.failed
        return self.failed or (self.shard_count or 1) - self.done

    @property
    def portion(self) -> float:
        """Completed share, from 0 to 1; includes the completed steps of a running training."""
        if not self.shard_count:
            return 0.0
        begun = min(1.0, self.step / self.steps) if self.step and self.steps else 0.0
        return min(1.0, (self.done + begun) / self.shard_count)

    @property
    def units(self) -> float:
        """Completed shards plus the share of a running training."""
        units = round(self.portion * (self.shard_count or 0), 3)
        return int(units) if units == int(units) else units

    @property
    def left(self) -> str:
        """Estimated time left, as text; empty without an estimate."""
        return format_time_left(self.seconds_left)


def format_time_left(seconds: float | None) -> str:
    """Format an estimate of the time left; empty without one."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{format_duration(seconds)} left"
    return f"about {format_duration(_round_estimate(seconds))} left"


def _round_estimate(seconds: float) -> float:
    """Round an estimate, which is only approximate: to 5 s, 1 min or 10 min."""
    step = next((step for limit, step in _ROUNDED if seconds < limit), _ROUNDED[-1][1])
    return max(1.0, round(seconds / step) * step)


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units, with non-breaking spaces."""
    return write_duration(seconds).replace(" ", NO_BREAK)


def write_duration(seconds: float) -> str:
    """Format a duration in its two largest units, for a terminal."""
    if seconds < 1:
        return "under 1 s"
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {whole % 60} s" if whole % 60 else f"{minutes} min"
    return f"{whole} s"


@dataclass(frozen=True, slots=True)
class _RunningAttempt:
    """A running attempt."""

    number: int
    seconds: float
    tokens: int
    done: int


@dataclass(frozen=True, slots=True)
class _StageTimes:
    """Times of the attempts of a stage; `mean` and `total` are of successful ones."""

    mean: float | None
    total: float | None
    began: datetime
    ended: datetime | None


def list_stage_progress(iterations: Iterable[Iteration]) -> dict[int, list[StageProgress]]:
    """Return the stages of iterations by iteration key, in stage order.

    Runs three queries; the iterations' experiments should have been fetched.
    """
    known = {iteration.pk: iteration for iteration in iterations}
    running, times = _read_running_attempts(list(known)), _read_times(list(known))
    found: dict[int, list[StageProgress]] = defaultdict(list)
    for rows in _group_stage_rows(list(known)).values():
        pairs = sum(row.pairs or 0 for row in rows)
        for place, row in enumerate(rows, start=1):
            steps = _estimate_steps(known[row.iteration_id].experiment.recipe, pairs)
            found[row.iteration_id].append(
                _make_progress(row, place, running[row.pk], times.get(row.pk), steps)
            )
    return found


def estimate_training_steps(iteration: Iteration) -> int | None:
    """Estimate the maximum number of training steps; None before the pairs are selected."""
    stages = iteration.stages.filter(name__startswith="pair_", shards__status=ShardStatus.FINISHED)
    pairs = stages.aggregate(total=Sum(_cast_count("pairs")))["total"]
    return _estimate_steps(iteration.experiment.recipe, pairs or 0)


def list_running_workers(iteration: Iteration) -> list[str]:
    """List the names of the machines whose workers run shards of an iteration."""
    running = Attempt.objects.filter(
        shard__stage__iteration=iteration, status=AttemptStatus.RUNNING
    )
    return list(running.order_by("worker").values_list("worker", flat=True).distinct())


def _group_stage_rows(iterations: Sequence[int]) -> Mapping[int, list[Any]]:
    finished = Q(shards__status=ShardStatus.FINISHED)
    rows = (
        Stage.objects.filter(iteration__in=iterations)
        .exclude(status=StageStatus.SKIPPED)
        .order_by("iteration", "position")
        .annotate(
            done=Count("shards", filter=finished),
            failed=Count("shards", filter=Q(shards__status=ShardStatus.FAILED)),
            tokens=Sum(_cast_count("tokens"), filter=finished),
            pairs=Sum(_cast_count("pairs"), filter=finished & Q(name__startswith="pair_")),
            prompts=Sum(_cast_count("prompts"), filter=finished & Q(name=_SAMPLE)),
            dropped=Sum(_cast_count("dropped"), filter=finished & Q(name=_PAIR_ACTOR)),
        )
    )
    found: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.iteration_id].append(row)
    return found


def _cast_count(name: str) -> Cast:
    return Cast(KeyTextTransform(name, "shards__counts"), BigIntegerField())


def _read_running_attempts(iterations: Sequence[int]) -> Mapping[int, list[_RunningAttempt]]:
    now = timezone.now()
    rows = Attempt.objects.filter(
        shard__stage__iteration__in=iterations, status=AttemptStatus.RUNNING
    ).values_list("shard__stage", "number", "started", "shard__tokens", "shard__done")
    found: dict[int, list[_RunningAttempt]] = defaultdict(list)
    for stage, number, started, tokens, done in rows:
        seconds = max(1.0, (now - started).total_seconds())
        found[stage].append(_RunningAttempt(number, seconds, tokens, done))
    return found


def _read_times(iterations: Sequence[int]) -> Mapping[int, _StageTimes]:
    finished = Q(status=AttemptStatus.FINISHED)
    rows = (
        Attempt.objects.filter(shard__stage__iteration__in=iterations)
        .order_by()
        .values_list("shard__stage")
        .annotate(
            mean=Avg("seconds", filter=finished),
            total=Sum("seconds", filter=finished),
            began=Min("started"),
            ended=Max("finished"),
        )
    )
    return {stage: _StageTimes(*values) for stage, *values in rows}


def _make_progress(
    row: Any,
    place: int,
    running: Sequence[_RunningAttempt],
    times: _StageTimes | None,
    steps: int | None,
) -> StageProgress:
    speed = _measure_speed(row.tokens or 0, running, times)
    trains = row.name == _TRAIN and running
    left = (
        _estimate_training_left(running, steps)
        if trains
        else _estimate_shards_left(row, running, times)
    )
    return StageProgress(
        name=row.name,
        title=row.title,
        place=place,
        status=row.status,
        status_label=row.get_status_display(),
        done=row.done,
        running=len(running),
        failed=row.failed,
        shard_count=row.shard_count,
        tokens=(row.tokens or 0) + sum(one.tokens for one in running),
        tokens_per_second=round(speed) or None,
        step=running[0].done if trains else None,
        steps=steps if trains else None,
        began=None if times is None else times.began,
        seconds=_compute_seconds(times, is_running=bool(running)),
        seconds_left=left,
        prompts=row.prompts,
        pairs=row.pairs,
        dropped=row.dropped,
    )


def _measure_speed(
    finished_tokens: int, running: Sequence[_RunningAttempt], times: _StageTimes | None
) -> float:
    """Compute the tokens per second of all running shards.

    Completed shards count, as in an iteration's summary: an attempt that has just started or is
    loading its model has no meaningful speed yet.
    """
    if times is None or not times.total:
        return sum(one.tokens / one.seconds for one in running)
    tokens = finished_tokens + sum(one.tokens for one in running)
    seconds = times.total + sum(one.seconds for one in running if one.tokens)
    return len(running) * tokens / seconds


def _compute_seconds(times: _StageTimes | None, *, is_running: bool) -> float | None:
    if times is None:
        return None
    ended = timezone.now() if is_running or times.ended is None else times.ended
    return (ended - times.began).total_seconds()


def _estimate_shards_left(
    row: Any, running: Sequence[_RunningAttempt], times: _StageTimes | None
) -> float | None:
    """Estimate the time left from finished shards and the number of running ones."""
    if not running or times is None or times.mean is None or row.shard_count is None:
        return None
    waiting = row.shard_count - row.done - row.failed - len(running)
    left = max(0, waiting) * times.mean
    left += sum(max(0.0, times.mean - one.seconds) for one in running)
    return left / len(running) or None


def _estimate_training_left(running: Sequence[_RunningAttempt], steps: int | None) -> float | None:
    """Estimate the time left from the steps of this attempt; a resumed one starts later."""
    one = running[0]
    if steps is None or one.number > 1 or one.done < _MIN_STEPS:
        return None
    return max(0, steps - one.done) * one.seconds / one.done or None


def _estimate_steps(recipe: Mapping[str, Any], pairs: int) -> int | None:
    """Estimate the maximum number of steps of a training on this many pairs."""
    training = recipe.get("training", {})
    rows, epochs = training.get("batch_size"), training.get("epochs")
    if not pairs or not rows or not epochs:
        return None
    return int(-(-pairs // rows) * epochs)
