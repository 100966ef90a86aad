"""Sample the items of a batch with known probabilities, and describe what was sampled from.

Every strategy is a stratified sample without replacement: within a stratum each item has the
chance `sampled / population`. "Most uncertain first" takes the most uncertain items all, and at
least a fifth of the batch uniformly from the rest, so that no item's chance is 0.

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
    "position": "by position: what the place of a judgment did",
    "length": "by length",
    "decided": "by whether the item decided a preference pair",
    "uncertain": "most uncertain first, and a fifth uniformly from the rest",
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
"""What the strata of each strategy are and when to use it."""
UNIFORM_SHARE: Final = 0.2
_MIN_UNIFORM_ITEMS: Final = 2
_MIN_REPEAT_DISTANCE: Final = 10

RepeatKind = Literal["same", "other"]


@dataclass(frozen=True, slots=True)
class StratumPlan:
    """A stratum: how many items it has, and how many of them are in the batch."""

    name: str
    population: int
    sampled: int

    @property
    def probability(self) -> float:
        """Chance of each of its items to be drawn."""
        return self.sampled / self.population


@dataclass(frozen=True, slots=True)
class SampledItem:
    """An item of the batch, with the chance that it had."""

    key: str
    stratum: str
    probability: float


@dataclass(frozen=True, slots=True)
class BatchSample:
    """The items of a batch in random order, and the strata they come from."""

    strata: tuple[StratumPlan, ...]
    items: tuple[SampledItem, ...]


@dataclass(frozen=True, slots=True)
class BatchSlot:
    """One place in the order of a batch: an item, or the same item again.

    Attributes:
        index: of the item among those drawn.
        again: whom a repeat is for: who answered it, or another auditor.
    """

    index: int
    again: RepeatKind | None


def sample_items(
    units: Sequence[SamplingUnit], *, strategy: str, size: int, rng: random.Random
) -> BatchSample:
    """Draw at most `size` items; a population that is smaller is drawn whole.

    Raises:
        InputError: there is nothing to draw from, the size is below 2, or the strategy is unknown.
    """
    if not units:
        raise InputError("there is nothing to audit: the iteration has no finished item of a kind")
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
            raise InputError(f"there is no strategy {strategy!r} for this kind of item")
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
    """How many to draw from each stratum: alike from all, as far as they reach."""
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
    """Put the items of a batch into an order, some of them a second time further behind.

    Args:
        count: items drawn.
        same: share of them that comes again to who answered it.
        other: share of them that comes again to another auditor.
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
    """What the answered items were drawn from.

    Attributes:
        sizes: items of each stratum in the population.
        factors: where several samples are pooled, how much each stratum counts; else empty.
    """

    sizes: Mapping[str, int]
    factors: Mapping[str, float] = field(default_factory=dict)

    def make_design(self, strata: Iterable[str]) -> SurveyDesign:
        """Say from which strata answered items are, in their order."""
        return SurveyDesign(tuple(strata), self.sizes, self.factors)


def pool_frames(frames: Mapping[str, SamplingFrame], answers: Mapping[str, int]) -> SamplingFrame:
    """Put samples of one population together; each counts by its share of the answers.

    Args:
        frames: by name; a stratum is then called as `name_sample_stratum` says.
        answers: how many items of each sample are answered.
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
