"""Simulate when shards end on several engines, and how long engines are idle before training.

The simulation follows the scheduling rule of `runner.ShardSchedule`: a free engine takes a shard
of the earliest stage that has one whose inputs are finished.
"""

import heapq
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from meta_reward_core.recipes.dataflow import STREAMED_INPUTS

MAX_IDLE_SHARE: Final = 0.02
"""Maximum share of idle engine time before training that the choice of shard size aims for."""
VARIATION: Final = 0.1
"""Assumed standard deviation of the logarithm of shard durations."""
_MAX_SHARDS_PER_ENGINE: Final = 32


@dataclass(frozen=True, slots=True)
class StageSpan:
    """Start of a stage's first shard and end of its last one, in seconds."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class ShardTimes:
    """A simulated run of the generating stages on a number of engines.

    Attributes:
        seconds: time until the last shard has ended.
        idle_share: share of the engines' time until then without a shard to run.
    """

    spans: Mapping[str, StageSpan]
    seconds: float
    idle_share: float


def simulate_shards(
    seconds_per_shard: Mapping[str, float],
    *,
    shards: int,
    engines: int,
    variation: float = VARIATION,
) -> ShardTimes:
    """Simulate the shards of stages that read each other part by part.

    Args:
        seconds_per_shard: mean by stage, in the order of the paper.
        shards: number of shards of each stage.
        variation: spread of their times, which are sampled with a fixed seed.
    """
    draw = random.Random(0)
    seconds = {
        (name, shard): mean * draw.lognormvariate(-(variation**2) / 2, variation)
        for name, mean in seconds_per_shard.items()
        for shard in range(shards)
    }
    stages = list(seconds_per_shard)
    inputs = {name: [one for one in STREAMED_INPUTS[name] if one in stages] for name in stages}
    ready = {name: [] if inputs[name] else list(range(shards)) for name in stages}
    finished: dict[str, set[int]] = {name: set() for name in stages}
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    running: list[tuple[float, str, int]] = []
    now, free = 0.0, engines
    while running or any(ready.values()):
        for name in stages:
            while free and ready[name]:
                shard = heapq.heappop(ready[name])
                heapq.heappush(running, (now + seconds[name, shard], name, shard))
                begins.setdefault(name, now)
                free -= 1
        now, ended, shard = heapq.heappop(running)
        ends[ended] = now
        finished[ended].add(shard)
        free += 1
        for name in stages:
            if ended in inputs[name] and all(shard in finished[one] for one in inputs[name]):
                heapq.heappush(ready[name], shard)
    busy = sum(seconds.values())
    return ShardTimes(
        {name: StageSpan(begins[name], ends[name]) for name in begins},
        now,
        1 - busy / (engines * now) if now else 0.0,
    )


def choose_shard_size(
    seconds_per_prompt: Mapping[str, float],
    *,
    prompts: int,
    engines: int,
    seconds_per_shard: float = 0.0,
) -> int:
    """Choose the largest shard size, in prompts, with an idle share of at most `MAX_IDLE_SHARE`.

    If there is none (for example with fewer prompts than engines), choose the fastest size.

    Args:
        seconds_per_shard: of a shard of any size, such as for its files.
    """
    best, best_seconds = prompts, math.inf
    for size in _iter_sizes(prompts, engines):
        times = simulate_shards(
            {name: seconds_per_shard + size * one for name, one in seconds_per_prompt.items()},
            shards=math.ceil(prompts / size),
            engines=engines,
        )
        if times.idle_share <= MAX_IDLE_SHARE:
            return size
        if times.seconds < best_seconds:
            best, best_seconds = size, times.seconds
    return best


def _iter_sizes(prompts: int, engines: int) -> Iterator[int]:
    """Yield the sizes to try, largest first, each about a seventh smaller than the previous one."""
    shards, tried = min(prompts, engines), 0
    while shards <= min(prompts, engines * _MAX_SHARDS_PER_ENGINE):
        size = math.ceil(prompts / shards)
        if size != tried:
            yield size
        tried = size
        shards = max(shards + 1, math.floor(shards * 1.15))
