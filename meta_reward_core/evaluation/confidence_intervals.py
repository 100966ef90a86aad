"""95% intervals that remain valid for few, equal, or missing rows.

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference",
JASA 22; Efron 1979, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Z_95: Final = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""


class Interval(NamedTuple):
    """Both ends of an interval, in the unit of the metric."""

    low: float
    high: float


def compute_bounded_mean_interval(
    mean: float, count: int, *, lowest: float, highest: float, missing: int = 0
) -> Interval:
    """Compute Wilson's interval of a mean of values in [lowest, highest].

    With the mean p scaled to [0, 1] and z = 1.96:
    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    For values between the ends it is too wide rather than too narrow, because their variance is at
    most p(1-p) (Bhatia and Davis 2000). It never has width 0, not even when all values are equal.

    Args:
        mean: mean of the `count` values.
        count: number of values, >= 1.
        lowest: smallest possible value.
        highest: largest possible value.
        missing: number of missing values. The lower end counts each of them as `lowest`, the
            upper end as `highest`, because the reason why they are missing is unknown.
    """
    share = (mean - lowest) / (highest - lowest)
    total = count + missing
    low = compute_wilson_interval(share * count / total, total).low
    high = compute_wilson_interval((share * count + missing) / total, total).high
    return Interval(lowest + low * (highest - lowest), lowest + high * (highest - lowest))


def compute_wilson_interval(share: float, size: float, *, z: float = Z_95) -> Interval:
    """Compute Wilson's interval of a share of `size` independent answers.

    Args:
        share: clipped to [0, 1], because rounding may have moved it outside.
        size: number of answers, or their effective number.
        z: quantile of the normal distribution for half of the excluded probability.
    """
    share = min(max(share, 0.0), 1.0)
    spread = z**2 / size
    half = z * np.sqrt(share * (1 - share) / size + spread / (4 * size))
    low, high = (share + spread / 2 - half, share + spread / 2 + half)
    return Interval(max(0.0, float(low / (1 + spread))), min(1.0, float(high / (1 + spread))))


def compute_exact_interval(count: int, total: int) -> Interval:
    """Compute the exact interval of Clopper and Pearson, which covers at least 95%.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 26.

    Args:
        count: number of successes among `total` independent attempts, at least one.
    """
    from scipy.special import betaincinv  # imports for longer than most commands run

    low = betaincinv(count, total - count + 1, 0.025) if count else 0.0
    high = betaincinv(count + 1, total - count, 0.975) if count < total else 1.0
    return Interval(float(low), float(high))


def compute_graded_mean_interval(
    values: Sequence[float] | Array, *, lowest: float, highest: float, missing: int = 0
) -> Interval:
    """Compute a t interval of a mean of grades, with one extra grade at each end of the scale.

    The two added grades keep the width above 0 if all grades are equal, and have little effect
    among many; Wilson's interval would be far too wide for grades between the extremes. Our choice,
    after Agresti and Coull 1998, "Approximate is better than 'exact' for interval estimation of
    binomial proportions", The American Statistician 52.

    Args:
        values: the grades, at least one.
        lowest: smallest possible grade.
        highest: largest possible grade.
        missing: number of missing grades; the lower end counts each of them as `lowest`, the upper
            end as `highest`.
    """
    low, _ = _compute_t_interval([*values, lowest, highest, *[lowest] * missing])
    _, high = _compute_t_interval([*values, lowest, highest, *[highest] * missing])
    return Interval(max(lowest, low), min(highest, high))


def compute_difference_interval(
    first: float, of_first: Interval, second: float, of_second: Interval
) -> Interval:
    """Compute the interval of `second` minus `first`, measured on different items.

    Combines the intervals of both, which may be asymmetric: Zou and Donner 2008, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27.
    """
    change = second - first
    down = np.hypot(second - of_second.low, of_first.high - first)
    up = np.hypot(of_second.high - second, first - of_first.low)
    return Interval(change - float(down), change + float(up))


def _compute_t_interval(values: Sequence[float]) -> Interval:
    mean, error = float(np.mean(values)), compute_standard_error(values) or 0.0
    half = compute_t_quantile(len(values) - 1, 0.975) * error
    return Interval(mean - half, mean + half)


def compute_t_quantile(freedom: float, probability: float) -> float:
    """Compute a quantile of Student's distribution."""
    from scipy.special import stdtrit  # imports for longer than most commands run

    return float(stdtrit(freedom, probability))


def compute_standard_error(values: Sequence[float] | Array) -> float | None:
    """Compute the standard error (ddof 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def resample_counts(size: int, rounds: int, rng: np.random.Generator) -> Array:
    """Count how often each item is sampled in each bootstrap round: [rounds, size]."""
    resampled = rng.multinomial(size, np.full(size, 1 / size), size=rounds)
    return resampled.astype(np.float64)


def compute_percentile_interval(values: Array, *, low: float = 2.5, high: float = 97.5) -> Interval:
    """Compute percentiles of bootstrap values [rounds], linearly interpolated."""
    ends = np.percentile(values, [low, high])
    return Interval(float(ends[0]), float(ends[1]))


def enclose_intervals(*intervals: Interval) -> Interval:
    """Return the smallest interval that contains all of them."""
    return Interval(min(i.low for i in intervals), max(i.high for i in intervals))
