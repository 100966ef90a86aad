"""Choose the next shard for several engines; simulate when shards end and engines are idle.

A free engine takes a shard whose inputs are finished, from the earliest stage that has one, so that
no engine is idle. If later stages take longer, this rule alone leaves their long shards for the
end, when few engines have a shard to run. So some engines work ahead: they take shards of the
latest stage instead. Their number is determined by simulation, and `select_stage` applies it in
real runs.
"""

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Final, TypeVar

from meta_reward_core.recipes.dataflow import STREAMED_INPUTS

_StageName = TypeVar("_StageName")

MAX_IDLE_SHARE: Final = 0.02
"""Maximum share of idle engine time before training that the choice of shard size aims for."""
VARIATION: Final = 0.1
"""Assumed standard deviation of the logarithm of shard durations."""
_MAX_SHARDS_PER_ENGINE: Final = 32
MAX_SHARDS_AHEAD: Final = 512
"""Number of shards of a stage above which no engine works ahead, because little is gained."""
_MAX_CHOICES_AHEAD: Final = 8
_FEW_TIMES: Final = 5


@dataclass(frozen=True, slots=True)
class StageSpan:
    """Start of a stage's first shard and end of its last one, in seconds."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class ShardTimes:
    """A simulated run of the generating stages on a number of engines.

    Attributes:
        seconds: time until the last shard ends.
        idle_share: share of the engines' time until then in which they have no shard to run.
    """

    spans: Mapping[str, StageSpan]
    seconds: float
    idle_share: float


def select_stage(
    waiting: Sequence[_StageName], running: Sequence[int], *, engines_ahead: int
) -> _StageName:
    """Select the stage from which a free engine takes a shard.

    Args:
        waiting: stages with a shard that may start, from the earliest to the latest.
        running: for each of these stages, the number of engines that run a shard of it or of a
            later stage.
        engines_ahead: number of engines that take the latest stage; the others take the earliest.
    """
    return waiting[-1] if running[-1] < engines_ahead else waiting[0]


def choose_engines_ahead(
    seconds_per_shard: Mapping[str, float], *, shards: int, engines: int
) -> int:
    """Choose the number of engines that take the latest stage, so that the total time is minimal.

    Args:
        seconds_per_shard: mean duration of a shard by stage, in the order of the paper.
        shards: number of shards of each stage.
    """
    if shards > MAX_SHARDS_AHEAD or engines == 1:
        return 0
    return _choose_engines_ahead(tuple(seconds_per_shard.items()), shards, engines)


@lru_cache(maxsize=64)
def _choose_engines_ahead(means: tuple[tuple[str, float], ...], shards: int, engines: int) -> int:
    seconds_per_shard = dict(means)
    seconds = {(name, shard): mean for name, mean in means for shard in range(shards)}
    choices = sorted({round(engines * part / _MAX_CHOICES_AHEAD)
                      for part in range(_MAX_CHOICES_AHEAD + 1)})  # fmt: skip
    stages = list(seconds_per_shard)
    times = {
        ahead: _simulate(stages, seconds, engines=engines, engines_ahead=ahead).seconds
        for ahead in choices
    }
    return min(choices, key=lambda ahead: (round(times[ahead], 6), ahead))


def simulate_shards(
    seconds_per_shard: Mapping[str, float],
    *,
    shards: int,
    engines: int,
    variation: float = VARIATION,
    seed: int = 0,
) -> ShardTimes:
    """Simulate the shards of stages that read each other's output shard by shard.

    Args:
        seconds_per_shard: mean duration of a shard by stage, in the order of the paper.
        shards: number of shards of each stage.
        variation: standard deviation of the logarithm of shard durations.
        seed: random seed of the durations.
    """
    draw = random.Random(seed)
    seconds = {
        (name, shard): mean * draw.lognormvariate(-(variation**2) / 2, variation)
        for name, mean in seconds_per_shard.items()
        for shard in range(shards)
    }
    ahead = choose_engines_ahead(seconds_per_shard, shards=shards, engines=engines)
    return _simulate(list(seconds_per_shard), seconds, engines=engines, engines_ahead=ahead)


def estimate_shards(
    seconds_per_shard: Mapping[str, float], *, shards: int, engines: int
) -> ShardTimes:
    """Simulate several times, and return the first run with the mean time and idle share of all."""
    several = _FEW_TIMES if shards <= MAX_SHARDS_AHEAD else 1
    runs = [
        simulate_shards(seconds_per_shard, shards=shards, engines=engines, seed=seed)
        for seed in range(several)
    ]
    return ShardTimes(
        runs[0].spans,
        fmean(one.seconds for one in runs),
        fmean(one.idle_share for one in runs),
    )


def _simulate(
    stages: Sequence[str],
    seconds: Mapping[tuple[str, int], float],
    *,
    engines: int,
    engines_ahead: int,
) -> ShardTimes:
    shards = len(seconds) // max(1, len(stages))
    inputs = {name: [one for one in STREAMED_INPUTS[name] if one in stages] for name in stages}
    readers = {name: [one for one in stages if name in inputs[one]] for name in stages}
    ready = {name: [] if inputs[name] else list(range(shards)) for name in stages}
    busy = dict.fromkeys(stages, 0)
    finished: dict[str, set[int]] = {name: set() for name in stages}
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    running: list[tuple[float, str, int]] = []
    now, free = 0.0, engines
    while running or any(ready.values()):
        while free and (waiting := [name for name in stages if ready[name]]):
            later = [_count_from(stages, busy, name) for name in waiting]
            name = select_stage(waiting, later, engines_ahead=engines_ahead)
            shard = heapq.heappop(ready[name])
            heapq.heappush(running, (now + seconds[name, shard], name, shard))
            begins.setdefault(name, now)
            busy[name] += 1
            free -= 1
        now, ended, shard = heapq.heappop(running)
        ends[ended] = now
        finished[ended].add(shard)
        busy[ended] -= 1
        free += 1
        for name in readers[ended]:
            if all(shard in finished[one] for one in inputs[name]):
                heapq.heappush(ready[name], shard)
    worked = sum(seconds.values())
    return ShardTimes(
        {name: StageSpan(begins[name], ends[name]) for name in begins},
        now,
        1 - worked / (engines * now) if now else 0.0,
    )


def _count_from(stages: Sequence[str], busy: Mapping[str, int], name: str) -> int:
    """Count the engines that run a stage or a later one."""
    return sum(busy[one] for one in stages[stages.index(name) :])


def compute_least_seconds(seconds: Sequence[float], *, engines: int) -> float:
    """Compute a time that no order of indivisible shards on these engines can beat.

    The time is at least the sum of all durations divided by the number of engines. Also, of the k *
    engines + 1 longest shards, some engine runs at least k + 1, which take at least as long as the
    k + 1 shortest of them.
    """
    longest = sorted(seconds, reverse=True)
    piled = (
        sum(longest[rounds * engines - rounds : rounds * engines + 1])
        for rounds in range(math.ceil(len(longest) / engines))
    )
    return max(sum(longest) / engines, *piled)


def choose_shard_size(
    seconds_per_prompt: Mapping[str, float],
    *,
    prompts: int,
    engines: int,
    seconds_per_shard: float = 0.0,
    max_size: int | None = None,
) -> int:
    """Choose the largest shard size, in prompts, with an idle share of at most `MAX_IDLE_SHARE`.

    If no size satisfies this, such as with fewer prompts than engines, or if shards of this size
    would take longer because of the overhead of each shard, the size with the least total time is
    chosen.

    Args:
        seconds_per_shard: overhead of a shard of any size, such as for its files.
        max_size: maximum size to choose.
    """
    best, best_seconds = prompts, math.inf
    for size in _iter_sizes(prompts, engines, max_size or prompts):
        seconds = {name: seconds_per_shard + size * one for name, one in seconds_per_prompt.items()}
        times = estimate_shards(seconds, shards=math.ceil(prompts / size), engines=engines)
        if times.seconds < best_seconds:
            best, best_seconds = size, times.seconds
        if times.idle_share <= MAX_IDLE_SHARE:
            break
    return best


def _iter_sizes(prompts: int, engines: int, max_size: int) -> Iterator[int]:
    """Yield sizes to try, the largest first, each about a seventh smaller than the previous one."""
    size = min(max_size, math.ceil(prompts / min(prompts, engines)))
    smallest = min(size, math.ceil(prompts / (engines * _MAX_SHARDS_PER_ENGINE)))
    while size >= smallest:
        yield size
        size = min(size - 1, math.ceil(size / 1.15))
