"""Estimates for a whole iteration from a stratified sample, with intervals.

Every item belongs to a stratum, and every stratum has a known size: an answer represents
`population / answered` items of its stratum. So an estimate does not depend on how many items were
sampled from which stratum. Intervals of shares combine the Wilson intervals of the strata (MOVER),
which keep their coverage near 0 and 1 and in small strata. Other statistics use a stratified
jackknife: correlations on Fisher's z scale, kappa in the shape of agreement's interval.

Several samples of one population are pooled as frames that each cover all of it: every sample is a
separate estimate, weighted by its share of the answers (`SurveyDesign.factors`).

Source: Särndal, Swensson, Wretman 1992, chapters 3 and 5 (Hajek's ratio estimator and its
linearization); Zou and Donner 2008 (MOVER); Rust 1985 (stratified jackknife); Hartley 1962
(several frames).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist, median
from typing import Final

import numpy as np
import numpy.typing as npt

from meta_reward_core.evaluation.confidence_intervals import (
    compute_t_quantile,
    compute_wilson_interval,
)
from meta_reward_core.evaluation.rater_agreement import Array, WeightedStatistic

IndexArray = npt.NDArray[np.intp]

CONFIDENCE: Final = 0.95
_EPSILON: Final = 1e-12
_MIN_DEGREES_OF_FREEDOM: Final = 2
_JACKKNIFE_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of a population statistic from the answers.

    Attributes:
        value: the estimate; None if nothing was counted.
        low, high: ends of its interval; None if there are too few answers to estimate their
            variance.
        count: number of items on which it is based.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


NO_ESTIMATE: Final = Estimate(None, None, None, 0)


@dataclass(frozen=True)
class SurveyDesign:
    """The stratum of each answered item, and the sizes of the strata.

    Attributes:
        strata: name of the stratum of each answered item, shape [n].
        sizes: number of items of each stratum in the population, answered or not.
        factors: weights of the strata of pooled samples; otherwise 1.
    """

    strata: tuple[str, ...]
    sizes: Mapping[str, int]
    factors: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def members(self) -> dict[str, IndexArray]:
        """Indices of the answered items of each stratum, strata ordered by name."""
        names = np.array(self.strata, dtype=object)
        return {name: np.flatnonzero(names == name) for name in sorted(set(self.strata))}

    @cached_property
    def weights(self) -> Array:
        """Population items that each answered item represents, shape [n]."""
        weights = np.zeros(len(self.strata))
        for name, positions in self.members.items():
            weights[positions] = self.get_population_weight(name) / len(positions)
        return weights

    def get_population_weight(self, name: str) -> float:
        """Return the number of population items that a stratum represents."""
        return self.sizes[name] * self.factors.get(name, 1.0)

    def compute_unsampled_share(self, name: str) -> float:
        """Compute the unanswered share of a stratum, which scales its variance."""
        return 1 - len(self.members[name]) / self.sizes[name]

    @property
    def coverage(self) -> float | None:
        """Share of the population in strata that have an answer."""
        total = sum(map(self.get_population_weight, self.sizes))
        return sum(map(self.get_population_weight, self.members)) / total if total else None


def estimate_share(
    design: SurveyDesign,
    part: Sequence[float] | Array,
    whole: Sequence[float] | Array,
    *,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate the ratio of the population sums of `part` and `whole`, a share in [0, 1].

    An item outside the subpopulation has a whole of 0; it stays in the lists, because the
    number of such items in its stratum matters.

    Args:
        part: shape [n], 0 <= part <= whole.
        whole: shape [n].
        confidence: confidence level of the interval, in (0, 1).
    """
    y, x = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    count = int(np.count_nonzero(x))
    total = float(design.weights @ x)
    if total <= 0:
        return NO_ESTIMATE
    share = float(design.weights @ y) / total
    z = _compute_normal_quantile(confidence)
    below, above = 0.0, 0.0
    for name, positions in design.members.items():
        low, high = _compute_stratum_margins(
            y[positions], x[positions], design.compute_unsampled_share(name), z
        )
        scale = (design.get_population_weight(name) * float(x[positions].mean()) / total) ** 2
        moved = _compute_size_variance(
            y[positions], x[positions], share, design.compute_unsampled_share(name)
        )
        moved *= (z * design.get_population_weight(name) / total) ** 2
        below += scale * low**2 + moved
        above += scale * high**2 + moved
    return Estimate(
        share, max(0.0, share - math.sqrt(below)), min(1.0, share + math.sqrt(above)), count
    )


def _compute_stratum_margins(y: Array, x: Array, left_out: float, z: float) -> tuple[float, float]:
    """Compute how far a stratum's share can be below and above its estimate."""
    if x.sum() <= 0 or left_out <= 0:
        return 0.0, 0.0
    share = float(y.sum() / x.sum())
    size = _compute_effective_size(y, x, share, left_out)
    if size is None:
        return 0.0, 0.0
    low, high = compute_wilson_interval(share, size, z=z)
    return share - low, high - share


def _compute_effective_size(y: Array, x: Array, share: float, left_out: float) -> float | None:
    """Compute the number of binary answers with the same variance; None if it is zero."""
    inside = x > 0
    alone = len(y) < 2 or int(inside.sum()) < 2
    spread = share * (1 - share)
    if alone:
        return float(inside.sum()) / left_out
    residuals = (y - share * x) / x.mean()
    variance = left_out * float(residuals.var(ddof=1)) / len(y)
    if variance > _EPSILON:
        return spread / variance
    # All values are equal. Inside (0, 1) this is a property of such items; at 0 or 1 it can be
    # chance.
    return None if spread > _EPSILON else float(inside.sum()) / left_out


def _compute_size_variance(y: Array, x: Array, overall: float, left_out: float) -> float:
    """Compute the variance from the unknown number of stratum items in `whole`."""
    if len(x) < 2 or x.sum() <= 0 or left_out <= 0:
        return 0.0
    share = float(y.sum() / x.sum())
    return left_out * (share - overall) ** 2 * float(x.var(ddof=1)) / len(x)


def estimate_simple_share(yes: int, count: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a share of independent answers with Wilson's interval."""
    if count == 0:
        return NO_ESTIMATE
    z = _compute_normal_quantile(confidence)
    return Estimate(yes / count, *compute_wilson_interval(yes / count, count, z=z), count)


def estimate_median(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the median of independent values, with an interval between two of them.

    The interval assumes no distribution: it lies between the k-th smallest and the k-th largest
    value, with the largest k for which a binomial(n, 1/2) count falls below k with a probability of
    at most `(1 - confidence) / 2`. With fewer than six values there is none at 95%.
    """
    count = len(values)
    if count == 0:
        return NO_ESTIMATE
    ordered = sorted(values)
    rank, below = 0, 0.0
    while True:
        below += math.comb(count, rank) / 2**count
        if below > (1 - confidence) / 2:
            break
        rank += 1
    if rank == 0:
        return Estimate(median(ordered), None, None, count)
    return Estimate(median(ordered), ordered[rank - 1], ordered[count - rank], count)


def estimate_difference(before: Estimate, after: Estimate) -> Estimate:
    """Estimate the difference of two independent estimates, `after` minus `before`, by MOVER."""
    if before.value is None or after.value is None:
        return NO_ESTIMATE
    value, count = after.value - before.value, min(before.count, after.count)
    ends = (before.low, before.high, after.low, after.high)
    if any(end is None for end in ends):
        return Estimate(value, None, None, count)
    low_before, high_before, low_after, high_after = (float(end or 0.0) for end in ends)
    below = math.hypot(after.value - low_after, high_before - before.value)
    above = math.hypot(high_after - after.value, before.value - low_before)
    return Estimate(value, value - below, value + above, count)


def estimate_mean(
    design: SurveyDesign, values: Sequence[float | None], *, confidence: float = CONFIDENCE
) -> Estimate:
    """Estimate the population mean over items that have a value.

    Args:
        values: values of shape [n]; None for an item outside the subpopulation.
    """
    x = np.array([value is not None for value in values], dtype=np.float64)
    y = np.array([value or 0.0 for value in values], dtype=np.float64)
    total = float(design.weights @ x)
    if total <= 0:
        return NO_ESTIMATE
    mean = float(design.weights @ y) / total
    residuals = (y - mean * x) / total
    spread = {
        name: design.compute_unsampled_share(name)
        * design.get_population_weight(name) ** 2
        * float(residuals[positions].var(ddof=1))
        / len(positions)
        for name, positions in design.members.items()
        if len(positions) > 1
    }
    if not spread:
        return Estimate(mean, None, None, int(x.sum()))
    reach = _compute_t_quantile(design, spread, confidence) * math.sqrt(sum(spread.values()))
    return Estimate(mean, mean - reach, mean + reach, int(x.sum()))


def _compute_t_quantile(
    design: SurveyDesign, spread: Mapping[str, float], confidence: float
) -> float:
    """Compute Student's quantile for a sum of variances, one per stratum.

    A stratum with few items that contributes much of the variance lowers the degrees of freedom.
    Source: Satterthwaite 1946.
    """
    total = sum(spread.values())
    doubt = sum(part**2 / max(len(design.members[name]) - 1, 1) for name, part in spread.items())
    freedom = total**2 / doubt if doubt > 0 else float(len(design.strata))
    return compute_t_quantile(freedom, 0.5 + confidence / 2)


def estimate_statistic(
    design: SurveyDesign,
    statistic: WeightedStatistic,
    *,
    count: int,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate a correlation-like statistic in [-1, 1] by a stratified delete-one jackknife.

    The interval is Student's on the scale of Fisher's z, the inverse hyperbolic tangent: on that
    scale the variance hardly depends on the value, and intervals stay within [-1, 1].

    Args:
        statistic: computes m statistics from weights of shape [m, n]; NaN if undefined.
        count: number of items behind the statistic.
    """
    value, reach = _compute_value_and_margin(design, statistic, confidence)
    return _make_fisher_estimate(value, reach, count)


def estimate_statistic_from_share(
    design: SurveyDesign,
    statistic: WeightedStatistic,
    *,
    share: Estimate,
    share_statistic: WeightedStatistic,
    count: int,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate a statistic that increases with a share, as kappa does with agreement.

    Its interval has the width of a jackknife interval and the skew of the share's: if a stratum
    nearly always agrees, a symmetric interval misses too often.

    Args:
        share: estimate of the share with its interval, for the same items and confidence level.
        share_statistic: the same share as a statistic of weights.
    """
    value, reach = _compute_value_and_margin(design, statistic, confidence)
    if value is None or reach is None or share.value is None:
        return _make_fisher_estimate(value, reach, count)
    spread = _compute_jackknife_variances(design, share_statistic, share.value)
    if not spread or sum(spread.values()) <= 0:
        return _make_fisher_estimate(value, reach, count)
    scale = reach / (_compute_normal_quantile(confidence) * math.sqrt(sum(spread.values())))
    low = value - scale * (share.value - (share.low or 0.0))
    high = value + scale * ((share.high or 0.0) - share.value)
    return Estimate(value, max(-1.0, low), min(1.0, high), count)


def _compute_normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _compute_value_and_margin(
    design: SurveyDesign, statistic: WeightedStatistic, confidence: float
) -> tuple[float | None, float | None]:
    """Compute a statistic and its margin; None with too few answers."""
    if not design.strata:
        return None, None
    [found] = statistic(design.weights[None])
    if np.isnan(found):
        return None, None
    return float(found), _compute_margin(design, statistic, float(found), confidence)


def _make_fisher_estimate(value: float | None, reach: float | None, count: int) -> Estimate:
    if value is None or reach is None:
        return Estimate(value, None, None, count)
    return Estimate(value, *compute_fisher_interval(value, reach), count)


def _compute_margin(
    design: SurveyDesign, statistic: WeightedStatistic, value: float, confidence: float
) -> float | None:
    spread = _compute_jackknife_variances(design, statistic, value)
    if spread is None or len(design.strata) - len(spread) < _MIN_DEGREES_OF_FREEDOM:
        return None
    total = sum(spread.values())
    if total <= 0 and any(design.compute_unsampled_share(name) > 0 for name in design.members):
        return None  # all values are equal, which does not show how much others would vary
    return _compute_t_quantile(design, spread, confidence) * math.sqrt(total)


def compute_fisher_interval(value: float, reach: float) -> tuple[float, float]:
    """Compute an interval that is symmetric in z; it is undefined at -1 and 1."""
    slope = 1 - value**2
    if slope < _EPSILON:
        return max(-1.0, value - reach), min(1.0, value + reach)
    middle = math.atanh(value)
    return math.tanh(middle - reach / slope), math.tanh(middle + reach / slope)


def _compute_jackknife_variances(
    design: SurveyDesign, statistic: WeightedStatistic, value: float
) -> dict[str, float] | None:
    """Compute leave-one-out variances by stratum; None if a statistic is undefined."""
    spread: dict[str, float] = {}
    for name, positions in design.members.items():
        n, squares = len(positions), 0.0
        if design.compute_unsampled_share(name) <= 0:
            spread[name] = 0.0
            continue
        for some in np.split(positions, range(_JACKKNIFE_CHUNK, n, _JACKKNIFE_CHUNK)):
            without = statistic(_leave_one_out(design.weights, positions, some))
            if np.isnan(without).any():
                return None
            squares += float(((without - value) ** 2).sum())
        spread[name] = (
            design.compute_unsampled_share(name) * ((n - 1) / n if n > 1 else 1.0) * squares
        )
    return spread


def _leave_one_out(weights: Array, members: IndexArray, some: IndexArray) -> Array:
    """Yield weights without one item each; the rest of its stratum represents it."""
    left = np.tile(weights, (len(some), 1))
    if len(members) > 1:
        left[:, members] *= len(members) / (len(members) - 1)
    left[np.arange(len(some)), some] = 0.0
    return left
