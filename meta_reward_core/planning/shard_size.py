"""The default number of prompts in a shard, chosen when an experiment is created.

With more shards, engines are less idle at the end of the generating stages, but each shard has some
overhead. The chosen size is part of the recipe from then on, because each shard has its own seed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Final

from meta_reward_core.planning.cost_estimate import (
    ASSUMED_TOKENS_PER_SECOND,
    MeasuredThroughput,
    plan_iteration,
)
from meta_reward_core.planning.shard_schedule import (
    MAX_IDLE_SHARE,
    choose_engines_ahead,
    choose_shard_size,
    estimate_shards,
)
from meta_reward_core.recipes.schema import Recipe

_GENERATING = ("generate", "judge", "meta_judge")


def _count_one(recipe: Recipe) -> int:  # noqa: ARG001
    return 1


def _measure_nothing(recipe: Recipe) -> MeasuredThroughput:  # noqa: ARG001
    return MeasuredThroughput()


@dataclass(frozen=True, slots=True)
class EngineCapacity:
    """Engines that run an experiment.

    Attributes:
        count: the number of engines that run at the same time, by recipe.
        measure: throughput measured on earlier shards, by recipe.
    """

    count: Callable[[Recipe], int] = field(default=_count_one)
    measure: Callable[[Recipe], MeasuredThroughput] = field(default=_measure_nothing)


ONE_ENGINE: Final = EngineCapacity()
"""One engine of unknown speed."""


@dataclass(frozen=True, slots=True)
class ShardSize:
    """The size of an experiment's shards.

    Attributes:
        prompts: number of prompts per shard.
        shards: number of shards per stage.
        engines: number of engines.
        seconds: estimated time before training, with these engines.
        idle_share: share of the engines' time until then in which they have no shard to run.
        chosen: whether the size was chosen here, because the recipe leaves it open.
        advised: a size with a lower idle share, if that of this size exceeds `MAX_IDLE_SHARE`.
    """

    prompts: int
    shards: int
    engines: int
    seconds: float
    idle_share: float
    chosen: bool
    advised: int | None

    def describe(self) -> str:
        """Describe the size in one sentence."""
        size = f"{self.shards:,} shard{'s'[: self.shards != 1]} of {self.prompts:,} prompts a stage"
        chosen = "chosen for" if self.chosen else "on"
        engines = f"{self.engines:,} engine{'s'[: self.engines != 1]}"
        told = f"{size}, {chosen} {engines}: idle for about {self.idle_share:.1%} of the time"
        if self.advised is None:
            return f"{told} before training"
        return f"{told} before training; less with prompts_per_shard={self.advised}"


def estimate_shard_size(
    recipe: Recipe, *, engines: int, measured: MeasuredThroughput, iteration: int = 1
) -> ShardSize:
    """Choose the size of shards if a recipe leaves it open, and estimate the idle time of engines.

    Args:
        measured: measured throughput of the model; None if no shard has been measured.
    """
    prompts = recipe.sample.prompts
    seconds, start = _estimate_seconds_per_prompt(recipe, iteration, measured)
    most = recipe.shard_size if recipe.prompts_per_shard is None else prompts
    advised = _choose_size(tuple(seconds.items()), prompts, engines, start, most)
    size = advised if recipe.prompts_per_shard is None else recipe.prompts_per_shard
    shards = math.ceil(prompts / size)
    times = estimate_shards(
        {name: start + size * one for name, one in seconds.items()}, shards=shards, engines=engines
    )
    is_idle = times.idle_share > MAX_IDLE_SHARE and advised < size
    return ShardSize(
        prompts=size,
        shards=shards,
        engines=engines,
        seconds=times.seconds,
        idle_share=times.idle_share,
        chosen=recipe.prompts_per_shard is None,
        advised=advised if is_idle else None,
    )


def freeze_shard_size(recipe: Recipe, capacity: EngineCapacity) -> Recipe:
    """Set the size of shards if a recipe leaves it open."""
    if recipe.prompts_per_shard is not None:
        return recipe
    found = estimate_shard_size(
        recipe, engines=capacity.count(recipe), measured=capacity.measure(recipe)
    )
    return recipe.model_copy(update={"prompts_per_shard": found.prompts})


def choose_engines_ahead_for(
    recipe: Recipe, iteration: int, *, engines: int, measured: MeasuredThroughput
) -> int:
    """Choose the number of engines that take shards of the latest stage in an iteration.

    No engine does until every stage has been measured: a wrong order can cost more than the right
    one gains.
    """
    seconds, start = _estimate_seconds_per_prompt(recipe, iteration, measured)
    if not measured.rates.keys() >= seconds.keys():
        return 0
    size = recipe.shard_size
    return choose_engines_ahead(
        {name: start + size * one for name, one in seconds.items()},
        shards=math.ceil(recipe.sample.prompts / size),
        engines=engines,
    )


def _estimate_seconds_per_prompt(
    recipe: Recipe, iteration: int, measured: MeasuredThroughput
) -> tuple[Mapping[str, float], float]:
    """Estimate the seconds per prompt of each generating stage, and the overhead of a shard.

    A stage that has not been measured is assumed to be as fast as the others.
    """
    rates = list(measured.rates.values())
    start = max((rate.seconds_per_shard for rate in rates), default=0.0)
    speed = fmean([rate.tokens_per_second for rate in rates] or [ASSUMED_TOKENS_PER_SECOND])
    shards = math.ceil(recipe.sample.prompts / recipe.shard_size)
    seconds = {}
    for plan in plan_iteration(recipe, iteration, measured=measured):
        if plan.stage in _GENERATING and plan.seconds:
            rate = measured.rates.get(plan.stage)
            spent = plan.seconds - shards * rate.seconds_per_shard if rate else plan.tokens / speed
            seconds[plan.stage] = spent / recipe.sample.prompts
    return seconds, start


@lru_cache(maxsize=64)
def _choose_size(
    seconds: tuple[tuple[str, float], ...], prompts: int, engines: int, start: float, most: int
) -> int:
    if engines == 1:
        return most
    return choose_shard_size(
        dict(seconds), prompts=prompts, engines=engines, seconds_per_shard=start, max_size=most
    )
