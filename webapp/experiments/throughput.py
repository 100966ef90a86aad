"""Measured throughput of engines and training, for plans."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Final

from django.db.models import QuerySet
from django.utils import timezone

from meta_reward_core.planning.cost_estimate import (
    MeasuredThroughput,
    ShardCost,
    StageRate,
    fit_rate,
)
from meta_reward_core.recipes.canonical import canonicalize_task
from meta_reward_core.recipes.schema import Recipe
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Experiment,
    Iteration,
    RunStatus,
    ShardStatus,
    Worker,
)
from webapp.experiments.progress import SILENT_SECONDS

_CALLS: Final = {"generate": "completions", "judge": "judgments", "meta_judge": "battles"}
_TRAINING_SPEED: Final = (
    "device_batch_size", "dtype", "gradient_checkpointing", "lora", "processes", "sharding",
)  # fmt: skip
"""Training settings that affect the training speed."""
_MAX_ITERATIONS: Final = 20


def list_finished_attempts(iterations: Sequence[Iteration]) -> list[Attempt]:
    """List the successful attempt of every finished shard."""
    attempts = Attempt.objects.filter(
        shard__stage__iteration__in=iterations,
        shard__status=ShardStatus.FINISHED,
        status=AttemptStatus.FINISHED,
        seconds__isnull=False,
    ).select_related("shard__stage__iteration__experiment")
    latest = {attempt.shard_id: attempt for attempt in attempts.order_by("number")}
    return list(latest.values())


def measure_throughput(experiment: Experiment) -> MeasuredThroughput:
    """Measure the throughput of an experiment's finished shards."""
    return _compute_throughput(
        experiment.name, list(experiment.iterations.select_related("experiment"))
    )


def _compute_throughput(name: str, iterations: Sequence[Iteration]) -> MeasuredThroughput:
    attempts = list_finished_attempts(iterations)
    rates = dict(_iter_rates(attempts))
    per_row = _compute_seconds_per_row(attempts)
    return MeasuredThroughput(name if rates or per_row is not None else "", rates, per_row)


def _iter_rates(attempts: Sequence[Attempt]) -> Iterator[tuple[str, StageRate]]:
    for stage, counted in _CALLS.items():
        costs = [
            ShardCost(
                attempt.shard.counts.get(counted, 0),
                attempt.shard.counts.get("tokens", 0),
                attempt.seconds or 0.0,
            )
            for attempt in attempts
            if attempt.shard.stage.name == stage
        ]
        rate = fit_rate(costs)
        if rate is not None:
            yield stage, rate


def _compute_seconds_per_row(attempts: Sequence[Attempt]) -> float | None:
    """Compute the seconds of a training per row and epoch.

    A training resumed after a stop took longer than its last attempt, so it is excluded.
    """
    seconds = passes = 0.0
    for attempt in attempts:
        shard = attempt.shard
        if shard.stage.name == "train" and shard.attempt_count == 1 and attempt.seconds:
            epochs = shard.stage.iteration.experiment.recipe["training"]["epochs"]
            seconds += attempt.seconds
            passes += shard.counts.get("trained", 0) * epochs
    return seconds / passes if passes else None


def find_throughput(name: str, recipe: Recipe) -> MeasuredThroughput:
    """Return the throughput of an experiment; missing values come from a similar experiment."""
    row = Experiment.objects.filter(name=name).first()
    own = measure_throughput(row) if row else MeasuredThroughput()
    similar = find_similar_throughput(Experiment.objects.all(), recipe)
    return MeasuredThroughput(
        own.measured_in or similar.measured_in,
        {**similar.rates, **own.rates},
        similar.seconds_per_row if own.seconds_per_row is None else own.seconds_per_row,
    )


def count_worker_engines(recipe: Recipe) -> int:
    """Count the engines of a recipe that running workers can run at the same time; at least 1.

    A worker has one pool process per device group; an engine that splits a model needs several.
    """
    return count_engines(count_worker_processes(), recipe)


def count_engines(processes: int, recipe: Recipe) -> int:
    """Count the engines that this many pool processes can run at the same time; at least 1."""
    return max(1, processes // recipe.engine.tensor_parallel_size)


def count_worker_processes() -> int:
    """Count the pool processes of running workers that generate."""
    heard = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    return Worker.objects.filter(queues__contains="gpu", heartbeat__gte=heard).count()


def find_similar_throughput(
    experiments: QuerySet[Experiment], recipe: Recipe
) -> MeasuredThroughput:
    """Return the throughput of the latest iteration with the same model and engine.

    The training speed comes from the latest iteration with the same training settings, which may be
    another iteration.

    Args:
        experiments: the experiments to search.
    """
    alike = Iteration.objects.filter(
        experiment__in=experiments,
        status=RunStatus.FINISHED,
        experiment__recipe__model=recipe.model,
        experiment__recipe__world=canonicalize_task(recipe.task),
        experiment__recipe__engine__device=recipe.engine.device,
    ).order_by("-finished", "-pk")
    latest = list(alike.select_related("experiment")[:_MAX_ITERATIONS])
    same_engine = [row for row in latest if _get_engine_kind(row.experiment) == recipe.engine.kind]
    trained = [row for row in latest if _is_trained_alike(row.experiment, recipe)]
    speeds = _get_finished_throughput(same_engine[0]) if same_engine else MeasuredThroughput()
    trainings = (_get_finished_throughput(row) for row in trained)
    training = next(
        (one for one in trainings if one.seconds_per_row is not None), MeasuredThroughput()
    )
    return MeasuredThroughput(
        speeds.measured_in or training.measured_in, speeds.rates, training.seconds_per_row
    )


def _get_engine_kind(experiment: Experiment) -> str:
    return str(experiment.recipe["engine"]["kind"])


def _is_trained_alike(experiment: Experiment, recipe: Recipe) -> bool:
    wanted = recipe.training.model_dump(mode="json")
    known = experiment.recipe["training"]
    return all(known.get(name) == wanted[name] for name in _TRAINING_SPEED)


def _get_finished_throughput(iteration: Iteration) -> MeasuredThroughput:
    return _load_throughput(iteration.pk, str(iteration.finished))


@lru_cache(maxsize=64)
def _load_throughput(pk: int, finished: str) -> MeasuredThroughput:  # noqa: ARG001 part of the key
    """Load with a cache: a form reads on every change, and finished shards do not change."""
    row = Iteration.objects.select_related("experiment").get(pk=pk)
    return _compute_throughput(row.experiment.name, [row])
