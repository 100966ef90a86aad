"""Sample the items of a batch with known probabilities, and describe the population.

Every strategy is a stratified sample without replacement: within a stratum each item has the
chance `sampled / population`. "Most uncertain first" takes the most uncertain items, and at least a
fifth of the batch uniformly from the rest, so that no item has probability 0.

Source: Särndal, Swensson, Wretman 1992, section 3.7.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from meta_reward_core.errors import InputError
from meta_reward_core.review.sampling_units import SamplingUnit, UnitKind
from meta_reward_core.review.stratified_estimators import SurveyDesign

STRATEGIES: Final[Mapping[str, str]] = {
    "uniform": "uniformly: every item has the same chance",
    "score_gap": "by the gap between the two judgments' scores",
    "score": "by the judge's mean score",
    "certainty": "by certainty: the two orders, or the judgments, agree or not",
    "position": "by position: effect of the order of the judgments",
    "length": "by length",
    "decided": "by whether the item decided a preference pair",
    "uncertain": "most uncertain first, plus a fifth uniformly from the rest",
}
STRATEGIES_BY_KIND: Final[Mapping[UnitKind, tuple[str, ...]]] = {
    "judgments": (
        "uniform",
        "score_gap",
        "certainty",
        "position",
        "length",
        "decided",
        "uncertain",
    ),
    "responses": ("uniform", "score", "certainty", "length", "decided", "uncertain"),
}
STRATEGY_GUIDE: Final[Mapping[str, str]] = {
    "uniform": "No strata. Use it when you have no hypothesis yet.",
    "score_gap": "Strata: equal score, gap up to 1, gap above 1. Use it to find out whether the "
    "meta-judge only repeats the score.",
    "score": "Strata: the judge's mean score, by whole points. Use it to find out at which scores "
    "the judge is too generous or too harsh.",
    "certainty": "Strata: both orders agree, both orders disagree, at most one order readable "
    "(responses: variance of the scores). A good default: rare disagreements are covered as well "
    "as common agreements.",
    "position": "Strata: which judgment won in both orders, or which position. Use it to measure "
    "position bias; the interval of the meta-judge's own preference for the first is too wide.",
    "length": "Strata: thirds of the length. Use it to measure length bias.",
    "decided": "Strata: became a preference pair or not. Use it to audit what the next model "
    "trains on.",
    "uncertain": "The most uncertain items, and a fifth uniformly from the rest. Use it to find "
    "errors and to collect training pairs; intervals for the whole iteration are wide.",
}
"""The strata of each strategy, and when to use it."""
UNIFORM_SHARE: Final = 0.2
_MIN_UNIFORM_ITEMS: Final = 2
_MIN_REPEAT_DISTANCE: Final = 10

RepeatKind = Literal["same", "other"]


@dataclass(frozen=True, slots=True)
class StratumPlan:
    """A stratum with its population and sample size."""

    name: str
    population: int
    sampled: int

    @property
    def probability(self) -> float:
        """Sampling probability of its items."""
        return self.sampled / self.population


@dataclass(frozen=True, slots=True)
class SampledItem:
    """A sampled item with its sampling probability."""

    key: str
    stratum: str
    probability: float


@dataclass(frozen=True, slots=True)
class BatchSample:
    """Sampled items in random order, and their strata."""

    strata: tuple[StratumPlan, ...]
    items: tuple[SampledItem, ...]


@dataclass(frozen=True, slots=True)
class BatchSlot:
    """A position in a batch: an item or a repeat of it.

    Attributes:
        index: index of the item in the sample.
        again: recipient of a repeat: the auditor who answered the item, or another auditor.
    """

    index: int
    again: RepeatKind | None


def sample_items(
    units: Sequence[SamplingUnit], *, strategy: str, size: int, rng: random.Random
) -> BatchSample:
    """Sample at most `size` items; a smaller population is used completely.

    Raises:
        InputError: the population is empty, the size is below 2, or the strategy is unknown.
    """
    if not units:
        raise InputError(
            "there is nothing to audit: the iteration has no finished items of this kind"
        )
    if size < _MIN_UNIFORM_ITEMS:
        raise InputError(f"a batch needs at least {_MIN_UNIFORM_ITEMS} items")
    groups = _group_into_strata(units, strategy, min(size, len(units)), rng)
    wanted = _allocate({name: len(found) for name, found in groups.items()}, strategy, size)
    plans = tuple(StratumPlan(name, len(groups[name]), wanted[name]) for name in sorted(groups))
    items = [
        SampledItem(unit.key, plan.name, plan.probability)
        for plan in plans
        for unit in rng.sample(groups[plan.name], plan.sampled)
    ]
    rng.shuffle(items)
    return BatchSample(plans, tuple(items))


def _group_into_strata(
    units: Sequence[SamplingUnit], strategy: str, size: int, rng: random.Random
) -> dict[str, list[SamplingUnit]]:
    ordered = sorted(units, key=lambda unit: unit.key)
    if strategy == "uniform":
        return {"all": ordered}
    if strategy == "uncertain":
        return _stratify_by_uncertainty(ordered, size, rng)
    groups: defaultdict[str, list[SamplingUnit]] = defaultdict(list)
    for unit in ordered:
        if strategy not in unit.strata:
            raise InputError(f"strategy {strategy!r} does not apply to this kind of item")
        groups[unit.strata[strategy]].append(unit)
    return dict(groups)


def _stratify_by_uncertainty(
    units: Sequence[SamplingUnit], size: int, rng: random.Random
) -> dict[str, list[SamplingUnit]]:
    rest = max(_MIN_UNIFORM_ITEMS, math.ceil(UNIFORM_SHARE * size))
    taken = max(0, size - rest)
    shuffled = rng.sample(units, len(units))
    shuffled.sort(key=lambda unit: unit.uncertainty, reverse=True)
    groups = {"most uncertain": shuffled[:taken], "the rest": shuffled[taken:]}
    return {name: found for name, found in groups.items() if found}


def _allocate(sizes: Mapping[str, int], strategy: str, size: int) -> dict[str, int]:
    """Allocate the sample equally to the strata, as far as they have items."""
    if strategy == "uncertain" and "most uncertain" in sizes:
        taken = sizes["most uncertain"]
        return {"most uncertain": taken, "the rest": min(size - taken, sizes["the rest"])}
    wanted = {name: min(_MIN_UNIFORM_ITEMS, count) for name, count in sizes.items()}
    left = size - sum(wanted.values())
    while left > 0:
        open_strata = [name for name in sorted(sizes) if wanted[name] < sizes[name]]
        if not open_strata:
            break
        share = max(1, left // len(open_strata))
        for name in open_strata[:left]:
            more = min(share, sizes[name] - wanted[name], left)
            wanted[name] += more
            left -= more
    return wanted


def arrange_batch(count: int, *, same: float, other: float, rng: random.Random) -> list[BatchSlot]:
    """Order the items of a batch, with repeats later in the order.

    Args:
        count: number of sampled items.
        same: share of the items that are repeated to the same auditor.
        other: share of the items that are repeated to another auditor.
    """
    indexes = range(count)
    repeats = [(index, "same") for index in rng.sample(indexes, round(same * count))]
    repeats += [(index, "other") for index in rng.sample(indexes, round(other * count))]
    positions: list[tuple[float, BatchSlot]] = [
        (index, BatchSlot(index, None)) for index in indexes
    ]
    for index, again in repeats:
        behind = (
            index + rng.uniform(_MIN_REPEAT_DISTANCE, max(_MIN_REPEAT_DISTANCE + 1, count)) + 0.5
        )
        positions.append((behind, BatchSlot(index, "same" if again == "same" else "other")))
    return [place for _, place in sorted(positions, key=lambda entry: entry[0])]


@dataclass(frozen=True, slots=True)
class SamplingFrame:
    """The population of the answered items.

    Attributes:
        sizes: number of items of each stratum in the population.
        factors: weight of each stratum if several samples are pooled; otherwise empty.
    """

    sizes: Mapping[str, int]
    factors: Mapping[str, float] = field(default_factory=dict)

    def make_design(self, strata: Iterable[str]) -> SurveyDesign:
        """Build the design for answered items of these strata, in order."""
        return SurveyDesign(tuple(strata), self.sizes, self.factors)


def pool_frames(frames: Mapping[str, SamplingFrame], answers: Mapping[str, int]) -> SamplingFrame:
    """Pool samples of one population; each counts by its share of the answers.

    Args:
        frames: sampling frames by name; `name_sample_stratum` returns the pooled names of their
            strata.
        answers: number of answered items of each sample.
    """
    total = sum(answers.values())
    sizes = {
        name_sample_stratum(name, stratum): size
        for name, frame in frames.items()
        if answers[name]
        for stratum, size in frame.sizes.items()
    }
    factors = {name_sample_stratum(name, stratum): answers[name] / total
               for name, frame in frames.items() if answers[name]
               for stratum in frame.sizes}  # fmt: skip
    return SamplingFrame(sizes, factors)


def name_sample_stratum(sample: str, stratum: str) -> str:
    """Name a stratum of one of several samples."""
    return f"{sample}: {stratum}"
