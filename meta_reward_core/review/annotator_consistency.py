"""Consistency of auditors, from several answers to the same item."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from meta_reward_core.evaluation.confidence_intervals import compute_t_quantile
from meta_reward_core.evaluation.rater_agreement import (
    Level,
    compute_alpha_from_counts,
    count_answers,
)
from meta_reward_core.review.stratified_estimators import (
    CONFIDENCE,
    Estimate,
    SurveyDesign,
    compute_fisher_interval,
    estimate_share,
    estimate_simple_share,
)

_MIN_UNITS = 3
_LARGE_POPULATION = 10**12


@dataclass(frozen=True, slots=True)
class AnnotatorConsistency:
    """Consistency of auditors, from repeats.

    Attributes:
        same: share of items to which the same auditor gave the same answer again.
        other: share of pairs of auditors who gave the same answer to an item, averaged over items
            so that an item with many auditors counts once.
        alpha: Krippendorff's alpha over items that several auditors answered.
    """

    same: Estimate
    other: Estimate
    alpha: Estimate


def measure_consistency(
    same: Sequence[tuple[object, object]],
    answers_by_item: Sequence[Sequence[tuple[str, Hashable]]],
    *,
    has_numbers: bool = False,
) -> AnnotatorConsistency:
    """Measure the consistency of auditors from repeats.

    Args:
        same: pairs of answers by one auditor to the same item.
        answers_by_item: for each item, one (auditor, answer) for each auditor.
        has_numbers: whether answers are numbers; numbers that differ by at most half a point then
            count as equal.
    """
    units = [[answer for _, answer in answers] for answers in answers_by_item if len(answers) > 1]
    alike = _is_close if has_numbers else _is_equal
    return AnnotatorConsistency(
        same=estimate_simple_share(sum(alike(a, b) for a, b in same), len(same)),
        other=_estimate_mean_share([_compute_pair_agreement(unit, alike) for unit in units]),
        alpha=estimate_alpha(units, level="interval" if has_numbers else "nominal"),
    )


def _is_equal(first: object, second: object) -> bool:
    return first == second


def _is_close(first: object, second: object) -> bool:
    return abs(float(first) - float(second)) <= 0.5  # type: ignore[arg-type]


def _compute_pair_agreement(
    unit: Sequence[object], alike: Callable[[object, object], bool]
) -> float:
    pairs = list(combinations(unit, 2))
    return sum(alike(a, b) for a, b in pairs) / len(pairs)


def _estimate_mean_share(shares: Sequence[float]) -> Estimate:
    """Estimate the mean of shares of independent items from a large population."""
    design = SurveyDesign(("all",) * len(shares), {"all": _LARGE_POPULATION})
    return estimate_share(design, shares, [1.0] * len(shares))


def estimate_alpha(
    units: Sequence[Sequence[Hashable]], *, level: Level, confidence: float = CONFIDENCE
) -> Estimate:
    """Estimate Krippendorff's alpha with a jackknife interval over units, on Fisher's z scale.

    Args:
        units: the answers to each unit; units with one answer do not count.
    """
    counts, values = count_answers(units)
    n = len(counts)
    value = compute_alpha_from_counts(counts, values, level=level)
    if value is None:
        return Estimate(None, None, None, n)
    positions = range(n)
    found = [
        compute_alpha_from_counts(np.delete(counts, at, axis=0), values, level=level)
        for at in positions
    ]
    without = [one for one in found if one is not None]
    if n < _MIN_UNITS or len(without) < n:
        return Estimate(value, None, None, n)
    spread = (n - 1) / n * sum((one - value) ** 2 for one in without)
    if spread <= 0:  # all values are equal, which does not show how much others would vary
        return Estimate(value, None, None, n)
    reach = compute_t_quantile(n - 1, 0.5 + confidence / 2) * math.sqrt(spread)
    return Estimate(value, *compute_fisher_interval(value, reach), n)
