"""How many items an audit needs for an interval of a given width, and how long they take.

Source: Wilson 1927 for the interval of a share; Särndal, Swensson, Wretman 1992, section 2.10 for
the correction for a finite population.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval

HALF_WIDTHS: Final = (0.15, 0.10, 0.075, 0.05, 0.03)
"""Half widths of intervals that the form offers, as shares."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Cost of an interval of one width.

    Attributes:
        half_width: half-width of the interval of a share, as a share.
        items: number of distinct items that need an answer.
        answers: number of answers, including repeats.
        minutes: total time of all auditors; None if no answer has been timed yet.
    """

    half_width: float
    items: int
    answers: int
    minutes: float | None

    @property
    def points(self) -> str:
        """Half width in percentage points."""
        return f"{100 * self.half_width:g}"


def compute_sample_size(
    half_width: float, *, population: int | None = None, confidence: float = 0.95
) -> int:
    """Compute the items needed for a Wilson interval of at most this half width.

    A share of one half is assumed, for which the interval is widest.

    Args:
        half_width: half-width as a share, above 0 and below 0.5.
        population: number of items in the population; None for an infinite population.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    # Wilson's half width at one half is z / (2 sqrt(n + z^2)).
    items = max(2.0, (z / (2 * half_width)) ** 2 - z**2)
    if population is not None:
        items = items / (1 + (items - 1) / population)
        return min(population, math.ceil(items))
    return math.ceil(items)


def compute_items_above(
    bound: float, agreement: float, *, confidence: float, at_most: int = 100_000
) -> int | None:
    """Compute the answers after which Wilson's interval of an agreement is above a bound.

    Args:
        bound: share that the lower end must exceed.
        agreement: share of the answers that agree.

    Returns:
        The smallest number of answers; None if more than `at_most` are needed.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    if agreement <= bound or compute_wilson_interval(agreement, at_most, z=z).low <= bound:
        return None
    low, high = 0, at_most
    while high - low > 1:
        middle = (low + high) // 2
        if compute_wilson_interval(agreement, middle, z=z).low > bound:
            high = middle
        else:
            low = middle
    return high


def plan_sample_sizes(
    *,
    repeat_share: float,
    seconds: float | None,
    population: int | None = None,
    half_widths: Sequence[float] = HALF_WIDTHS,
) -> list[SampleSize]:
    """Compute the items, answers and minutes for several widths.

    Args:
        repeat_share: share of the items that are repeated.
        seconds: median time per answer; None if unknown.
    """
    sizes = []
    for half_width in half_widths:
        items = compute_sample_size(half_width, population=population)
        answers = items + round(repeat_share * items)
        minutes = None if seconds is None else answers * seconds / 60
        sizes.append(SampleSize(half_width, items, answers, minutes))
    return sizes
