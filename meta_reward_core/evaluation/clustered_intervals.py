"""95% intervals of means of clustered values, such as several checks of one prompt.

Values of one cluster depend on each other, so the variance is that of the clusters' sums:
with mean m of n values in C clusters, Var(m) = C/(C-1) * sum_c (sum_{i in c} (v_i - m))^2 / n^2.

Source: Liang and Zeger 1986, Biometrika 73; Miller 2024, "Adding error bars to evals",
arXiv 2411.00640, section 3 (clustered standard errors of benchmarks).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from meta_reward_core.evaluation.confidence_intervals import (
    Interval,
    compute_t_quantile,
    compute_wilson_interval,
)


def compute_clustered_share_interval(
    values: Sequence[float], clusters: Sequence[str], *, missing: int = 0
) -> Interval:
    """Compute Wilson's interval of a mean in [0, 1] with the effective sample size.

    The effective sample size of clustered values is m(1-m) / Var(m), limited to between 1 and n; if
    the clusters do not differ, it is the number of clusters. With one value per cluster, the result
    is Wilson's interval of n - 1 answers.

    Args:
        values: the values, at least one.
        clusters: the cluster of each value.
        missing: number of missing values; the lower end counts each of them as 0, the upper end as
            1.
    """
    mean = math.fsum(values) / len(values)
    size = _compute_effective_size(values, clusters)
    total = size * (1 + missing / len(values))
    share = size / total
    low = compute_wilson_interval(mean * share, total).low
    high = compute_wilson_interval(mean * share + (1 - share), total).high
    return Interval(low, high)


def _compute_effective_size(values: Sequence[float], clusters: Sequence[str]) -> float:
    count = len(set(clusters))
    if count < 2:
        return 1.0
    mean, variance = _compute_mean_and_variance(values, clusters)
    if variance == 0:
        return float(count)
    return min(max(mean * (1 - mean) / variance, 1.0), float(len(values)))


def compute_clustered_change_interval(
    changes: Sequence[float], clusters: Sequence[str]
) -> Interval:
    """Compute a t interval of the mean of paired, clustered changes in [-1, 1].

    An extra cluster at each end keeps the width above 0 if nothing has changed, as in
    `compute_graded_mean_interval`.

    Args:
        changes: differences, after minus before, of values of the same item; at least one.
        clusters: the cluster of each change.
    """
    names = ["", *(f"c{name}" for name in clusters), " "]
    mean, variance = _compute_mean_and_variance([-1.0, *changes, 1.0], names)
    half = compute_t_quantile(len(set(names)) - 1, 0.975) * math.sqrt(variance)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def compute_clustered_mean_interval(
    sums: Sequence[float], sizes: Sequence[float], *, is_share: bool = False
) -> Interval | None:
    """Compute the interval of a mean from the values of each cluster, already summed.

    A statistic whose error is, to first order, a mean over items (an entropy, a correlation) has
    the interval of the mean of these linearized values.

    Args:
        sums: sum of each cluster's values.
        sizes: number of each cluster's values; 0 for a cluster without one.
        is_share: whether the values are in [0, 1], for Wilson's interval as in
            `compute_clustered_share_interval`; otherwise, a t interval.

    Returns:
        None if fewer than two clusters have a value.
    """
    clusters = [(total, size) for total, size in zip(sums, sizes, strict=True) if size]
    if len(clusters) < 2:
        return None
    count, items = len(clusters), math.fsum(size for _, size in clusters)
    mean = math.fsum(total for total, _ in clusters) / items
    squares = math.fsum((total - mean * size) ** 2 for total, size in clusters)
    variance = count / (count - 1) * squares / items**2
    if not is_share:
        half = compute_t_quantile(count - 1, 0.975) * math.sqrt(variance)
        return Interval(mean - half, mean + half)
    size = mean * (1 - mean) / variance if variance > 0 else float(count)
    return compute_wilson_interval(mean, min(max(size, 1.0), items))


def _compute_mean_and_variance(
    values: Sequence[float], clusters: Sequence[str]
) -> tuple[float, float]:
    """Compute mean and variance of at least two clusters."""
    mean = math.fsum(values) / len(values)
    residuals: defaultdict[str, list[float]] = defaultdict(list)
    for value, name in zip(values, clusters, strict=True):
        residuals[name].append(value - mean)
    count = len(residuals)
    squares = math.fsum(math.fsum(found) ** 2 for found in residuals.values())
    return mean, count / (count - 1) * squares / len(values) ** 2
