"""Statistics over runs with several seeds: means, spread, and differences with intervals.

A difference is taken within pairs: the same M0 and the same loop seed in both arms, which removes
their common variation. There are two separate questions, because loop seeds of one M0 are not new
evidence about another M0:

- **these seed models**: would other loop seeds with the same M0s show this difference? Student's
  interval over pairs, each M0 with its own mean (n pairs, k M0s, n - k degrees of freedom).
- **other seed models**: would other M0s show it? Student's interval over the k means per M0 (k - 1
  degrees of freedom); absent for one M0.

Both assume that the differences are roughly normal, which cannot be verified with few seeds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from meta_reward_core.evaluation.confidence_intervals import Interval, compute_t_quantile

Key = tuple[str, int]
"""(which M0, loop seed)"""

_NO_SPREAD: Final = 1e-12


@dataclass(frozen=True, slots=True)
class SeedEstimate:
    """A mean over seeds.

    Attributes:
        mean: mean in which each M0 has the same weight; None without runs.
        runs: number of runs.
        seed_models: number of M0s of these runs.
        deviation: standard deviation between loop seeds of one M0, pooled over M0s; None if no M0
            has two runs.
        here: 95% interval for these seed models.
        elsewhere: 95% interval for other seed models.
        absent: why an interval is missing.
    """

    mean: float | None
    runs: int
    seed_models: int
    deviation: float | None = None
    here: Interval | None = None
    elsewhere: Interval | None = None
    absent: str = ""


def estimate_over_seeds(values: Mapping[Key, float]) -> SeedEstimate:
    """Estimate a mean from one value per run."""
    groups: dict[str, list[float]] = defaultdict(list)
    for (model, _), value in values.items():
        groups[model].append(value)
    if not groups:
        return SeedEstimate(None, 0, 0, absent="no run has this metric")
    means = [fmean(group) for group in groups.values()]
    free = len(values) - len(groups)
    inside = sum((value - fmean(group)) ** 2 for group in groups.values() for value in group)
    deviation = float(np.sqrt(inside / free)) if free else None
    error = float(np.sqrt(sum(1 / len(group) for group in groups.values()))) / len(groups)
    return SeedEstimate(
        fmean(means),
        len(values),
        len(groups),
        deviation,
        here=None
        if deviation is None
        else _compute_t_interval(fmean(means), deviation * error, free),
        elsewhere=_compute_mean_interval(means),
        absent=_explain_missing_interval(deviation, free=free),
    )


def _compute_mean_interval(means: Sequence[float]) -> Interval | None:
    if len(means) < 2:
        return None
    error = float(np.std(means, ddof=1)) / float(np.sqrt(len(means)))
    return _compute_t_interval(fmean(means), error, len(means) - 1)


def _compute_t_interval(mean: float, error: float, free: int) -> Interval | None:
    """Compute a t interval; None without variation, because zero width would suggest certainty."""
    if error <= _NO_SPREAD:
        return None
    half = compute_t_quantile(free, 0.975) * error
    return Interval(mean - half, mean + half)


def _explain_missing_interval(deviation: float | None, *, free: int) -> str:
    if not free:
        return "only one run per base model"
    return "all values are equal" if (deviation or 0.0) <= _NO_SPREAD else ""


def compute_differences(
    arm: Mapping[Key, float], baseline: Mapping[Key, float]
) -> dict[Key, float]:
    """Compute the difference, arm minus baseline, for the pairs of runs that both have."""
    return {key: arm[key] - baseline[key] for key in arm if key in baseline}


def is_significant(interval: Interval | None) -> bool | None:
    """Whether an interval excludes 0; None without one."""
    return None if interval is None else interval.low > 0 or interval.high < 0
