"""How far two or more judges agree beyond chance: Cohen's kappa and Krippendorff's alpha.

Source: Cohen 1960; Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import permutations
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Level = Literal["nominal", "interval"]


def cohen_kappa(table: npt.ArrayLike) -> float | None:
    """Kappa of a square table of counts or weights, (agreed - by chance) / (1 - by chance).

    Args:
        table: shape [k, k]; row: what one says, column: what the other says.

    Returns:
        None of an empty table, and where both always say the same one thing.
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    if total <= 0:
        return None
    chance = float(counts.sum(axis=1) @ counts.sum(axis=0)) / total**2
    if chance >= 1 - 1e-12:
        return None
    return float((np.trace(counts) / total - chance) / (1 - chance))


def krippendorff_alpha(
    units: Sequence[Sequence[Hashable]], *, level: Level = "nominal"
) -> float | None:
    """Alpha of the answers that each unit got, 1 - observed / expected disagreement.

    Args:
        units: for each unit its answers, in any order; those with fewer than two do not count.
        level: nominal answers agree or not; interval ones are numbers, apart by their square.

    Returns:
        None without a unit that has two answers, and where all answers are the same.
    """
    coincidences = _coincidences(units)
    totals: Counter[Hashable] = Counter()
    for (first, _), weight in coincidences.items():
        totals[first] += weight  # type: ignore[assignment]
    n = sum(totals.values())
    expected = sum(
        totals[first] * totals[second] * _distance(first, second, level)
        for first, second in permutations(totals, 2)
    )
    if n <= 1 or expected == 0:
        return None
    observed = sum(
        weight * _distance(first, second, level) for (first, second), weight in coincidences.items()
    )
    return 1 - (n - 1) * observed / expected


def _coincidences(
    units: Sequence[Sequence[Hashable]],
) -> Mapping[tuple[Hashable, Hashable], float]:
    """How often two answers of one unit go together, each pair as 1 / (answers - 1)."""
    found: dict[tuple[Hashable, Hashable], float] = {}
    for answers in units:
        for pair in permutations(answers, 2):
            found[pair] = found.get(pair, 0.0) + 1 / (len(answers) - 1)
    return found


def _distance(first: Hashable, second: Hashable, level: Level) -> float:
    if level == "nominal":
        return float(first != second)
    return (float(first) - float(second)) ** 2  # type: ignore[arg-type]


def weighted_spearman(first: Array, second: Array, weights: Array) -> float | None:
    """Correlation of weighted mid-ranks; with equal weights it is Spearman's rho.

    Returns:
        None where a column is constant.
    """
    kept = weights > 0
    weights = weights[kept]
    x, y = (_weighted_ranks(column[kept], weights) for column in (first, second))
    return _correlation(x, y, weights)


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """For each item the weight below it, and half of that of its equals."""
    distinct, place = np.unique(values, return_inverse=True)
    mass = np.bincount(place, weights=weights, minlength=len(distinct))
    ranks: Array = (np.cumsum(mass) - mass / 2)[place]
    return ranks


def _correlation(x: Array, y: Array, weights: Array) -> float | None:
    if len(weights) < 2:
        return None
    x, y = (column - np.average(column, weights=weights) for column in (x, y))
    scale = float(np.sqrt((weights @ x**2) * (weights @ y**2)))
    return float(weights @ (x * y)) / scale if scale > 1e-12 else None


def weighted_kendall(first: Array, second: Array, weights: Array) -> float | None:
    """Kendall's tau-b in which each pair of items counts the product of their weights.

    Returns:
        None where a column is constant.
    """
    signs = [np.sign(column[:, None] - column[None, :]) for column in (first, second)]
    both, one, other = signs[0] * signs[1], signs[0] ** 2, signs[1] ** 2
    scale = float(np.sqrt((weights @ one @ weights) * (weights @ other @ weights)))
    return float(weights @ both @ weights) / scale if scale > 1e-12 else None
