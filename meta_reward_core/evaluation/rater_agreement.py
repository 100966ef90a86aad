"""Agreement of two or more raters beyond chance, and rank correlations.

Items have weights, because sampling probabilities may differ. A `WeightedStatistic` computes one
metric for many sets of weights at once, for use in a jackknife; an undefined metric is NaN inside
arrays, and None elsewhere.

docs/decisions/0008-whose-statistics.md explains which of these come from libraries.

Source: Cohen 1960; Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import krippendorff
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
WeightedStatistic = Callable[[Array], Array]
"""Computes m values of a metric from weights of shape [m, n], one row for each value."""
Level = Literal["nominal", "interval"]

_MIN_DENOMINATOR = 1e-12


def compute_cohen_kappa(table: npt.ArrayLike) -> float | None:
    """Compute kappa of a square table: (observed - expected) / (1 - expected).

    Args:
        table: shape [k, k]; row: answer of one rater, column: answer of the other.

    Returns:
        None for an empty table, and if both raters always give the same single answer.
    """
    [kappa] = _compute_kappas(np.asarray(table, dtype=np.float64)[None])
    return None if np.isnan(kappa) else float(kappa)


def make_weighted_kappa(tables: Array) -> WeightedStatistic:
    """Build kappa of the weighted sum of the items' tables, shape [n, k, k]."""
    return lambda weights: _compute_kappas(np.tensordot(weights, tables, axes=1))


def make_weighted_share(part: Array, whole: Array) -> WeightedStatistic:
    """Build the ratio of weighted sums of `part` and `whole`, shape [n]."""
    return lambda weights: _divide_or_nan(weights @ part, weights @ whole)


def _compute_kappas(tables: Array) -> Array:
    total = tables.sum(axis=(1, 2))
    by_chance = (tables.sum(axis=2) * tables.sum(axis=1)).sum(axis=1)
    agreed = np.trace(tables, axis1=1, axis2=2)
    # Both are multiplied by the total, so that an empty table needs no special case.
    return _divide_or_nan(
        agreed * total - by_chance, total**2 - by_chance, minimum=_MIN_DENOMINATOR * total**2
    )


def _divide_or_nan(
    part: Array, whole: Array, *, minimum: float | Array = _MIN_DENOMINATOR
) -> Array:
    """Divide; NaN for a zero denominator."""
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > minimum)
    return found


def compute_krippendorff_alpha(
    units: Sequence[Sequence[Hashable]], *, level: Level = "nominal"
) -> float | None:
    """Compute alpha of the answers to each unit: 1 - observed / expected disagreement.

    Args:
        units: the answers to each unit, in any order; units with fewer than two answers do not
            count.
        level: level of measurement. Nominal answers are equal or not; the disagreement of interval
            answers, which are numbers, is their squared difference.

    Returns:
        None if no unit has two answers, or if all answers are the same.
    """
    counts, values = count_answers(units)
    return compute_alpha_from_counts(counts, values, level=level)


def count_answers(units: Sequence[Sequence[Hashable]]) -> tuple[Array, list[Hashable]]:
    """Count the values of each unit with at least two answers; values in order."""
    several = [unit for unit in units if len(unit) > 1]
    values: list[Hashable] = sorted({answer for unit in several for answer in unit})  # type: ignore[type-var]
    counts = [[float(list(unit).count(value)) for value in values] for unit in several]
    return np.array(counts).reshape(len(several), len(values)), values


def compute_alpha_from_counts(
    counts: Array, values: Sequence[Hashable], *, level: Level
) -> float | None:
    """Compute alpha from counts [units, values]; None if all answers are equal."""
    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return None
    # Nominal values are only compared for equality, so their indexes are sufficient.
    domain = values if level == "interval" else range(len(values))
    found = krippendorff.alpha(
        value_counts=counts, value_domain=np.array(domain), level_of_measurement=level
    )
    return float(found)


def make_weighted_spearman(first: Array, second: Array) -> WeightedStatistic:
    """Build the correlation of weighted mid-ranks; with equal weights, Spearman's rho."""
    ranks = [_make_mid_ranker(column) for column in (first, second)]

    def weigh(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        x, y = (ranked(weights) for ranked in ranks)
        x, y = (column - (weights * column).sum(axis=1, keepdims=True) / total for column in (x, y))
        scale = np.sqrt((weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1))
        return _divide_or_nan((weights * x * y).sum(axis=1), scale)

    return weigh


def _make_mid_ranker(values: Array) -> WeightedStatistic:
    """Build a function for mid-ranks: the weight below each item plus half that of its equals."""
    distinct, place = np.unique(values, return_inverse=True)
    belongs = np.eye(len(distinct))[place]

    def rank(weights: Array) -> Array:
        mass = weights @ belongs
        ranks: Array = (np.cumsum(mass, axis=1) - mass / 2)[:, place]
        return ranks

    return rank


def make_weighted_kendall(first: Array, second: Array) -> WeightedStatistic:
    """Build Kendall's tau-b with pairs weighted by the product of their weights."""
    one, other = (np.sign(column[:, None] - column[None, :]) for column in (first, second))

    def compute_form(weights: Array, matrix: Array) -> Array:
        total: Array = ((weights @ matrix) * weights).sum(axis=1)
        return total

    def weigh(weights: Array) -> Array:
        scale = np.sqrt(compute_form(weights, one**2) * compute_form(weights, other**2))
        return _divide_or_nan(compute_form(weights, one * other), scale)

    return weigh
