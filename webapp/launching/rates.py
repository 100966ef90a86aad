"""What finished shards have shown of the speed of an engine, for plans."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from meta_reward_core.config import Recipe
from meta_reward_core.plan import Rate, ShardCost, fit_rate
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Experiment,
    Iteration,
    RunStatus,
    ShardStatus,
)
from webapp.people.access import Person, visible_experiments

_CALLS: Final = {"generate": "completions", "judge": "judgments", "meta_judge": "battles"}


def finished_attempts(iterations: Sequence[Iteration]) -> list[Attempt]:
    """Of every finished shard the attempt that finished it, if one did."""
    attempts = Attempt.objects.filter(
        shard__stage__iteration__in=iterations,
        shard__status=ShardStatus.FINISHED,
        status=AttemptStatus.FINISHED,
        seconds__isnull=False,
    ).select_related("shard__stage")
    latest = {attempt.shard_id: attempt for attempt in attempts.order_by("number")}
    return list(latest.values())


def measured_rates(experiment: Experiment) -> dict[str, Rate]:
    """What the experiment's finished shards have shown, by stage, for a plan."""
    return _rates(list(experiment.iterations.all()))


def _rates(iterations: Sequence[Iteration]) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    attempts = finished_attempts(iterations)
    for stage, counted in _CALLS.items():
        made = [attempt for attempt in attempts if attempt.shard.stage.name == stage]
        costs = [
            ShardCost(
                attempt.shard.counts.get(counted, 0),
                attempt.shard.counts.get("tokens", 0),
                attempt.seconds or 0.0,
            )
            for attempt in made
        ]
        rate = fit_rate(costs)
        if rate is not None:
            rates[stage] = rate
    return rates


def rates_of_like(person: Person, recipe: Recipe) -> tuple[str, dict[str, Rate]]:
    """What the latest iteration of the same model on the same engine has shown.

    Returns:
        The name of its experiment and the rates by stage; both empty where there is none that
        this person may see.
    """
    alike = Iteration.objects.filter(
        experiment__in=visible_experiments(person),
        status=RunStatus.FINISHED,
        experiment__recipe__model=recipe.model,
        experiment__recipe__world=recipe.world,
        experiment__recipe__engine__kind=recipe.engine.kind,
        experiment__recipe__engine__device=recipe.engine.device,
    ).select_related("experiment")
    latest = alike.order_by("-finished", "-pk").first()
    if latest is None:
        return "", {}
    return latest.experiment.name, _rates_of_finished(latest.pk, str(latest.finished))


@lru_cache(maxsize=64)
def _rates_of_finished(pk: int, finished: str) -> dict[str, Rate]:  # noqa: ARG001 part of the key
    """A form asks at every change, and what is finished no longer changes."""
    return _rates([Iteration(pk=pk)])
