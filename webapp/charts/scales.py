"""Axes with ticks at round numbers, and number formatting."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 1e150
"""Larger values are rejected: their differences could overflow."""

SHARE: Final = (0.0, 1.0)
"""The range of a share; see `make_wide_scale`."""

_LEAST_SPAN: Final = 0.05
"""Shortest axis as a share of the possible range, so that noise is not drawn as a change."""
_TINY: Final = 1e-100
_SAME: Final = 1e-9
_STEPS: Final = (1.0, 2.0, 5.0, 10.0)
_UNITS: Final = ((1e9, "G"), (1e6, "M"))
_MAX_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high` with ticks at multiples of `step`."""

    low: float
    high: float
    step: float
    ticks: tuple[float, ...]

    def compute_share(self, value: float) -> float:
        """Compute the position of a value, 0 at `low` and 1 at `high`; 0.5 if they are equal."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def format_tick(self, tick: float) -> str:
        """Format a tick with enough decimals to distinguish it from its neighbors."""
        size = max(abs(self.low), abs(self.high))
        unit, sign = next((unit for unit in _UNITS if size >= unit[0]), (1.0, ""))
        decimals = max(0, -math.floor(math.log10(self.step / unit) + _SAME))
        if decimals > _MAX_DECIMALS or size >= 1e15:
            return f"{tick:.3g}"
        return f"{tick / unit + 0.0:,.{decimals}f}{sign}"


def require_finite(values: Iterable[float]) -> None:
    """Reject a value that cannot be plotted.

    Raises:
        ValueError: a value is NaN, infinite, or larger than `LARGEST`.
    """
    for value in values:
        if not abs(value) <= LARGEST:
            raise ValueError(f"{value} cannot be plotted")


def make_wide_scale(
    values: Iterable[float],
    *,
    from_zero: bool = False,
    within: tuple[float, float] | None = None,
    about: int = 5,
) -> Scale:
    """Make an axis that starts and ends at a tick and contains all values.

    Args:
        from_zero: whether to include zero, as bars require.
        within: the smallest and largest possible values; no padding is added beyond them, and the
            axis has at least a twentieth of a range with an upper end.
        about: approximate number of steps.
    """
    known = [*values, 0.0] if from_zero else list(values)
    low, high = _add_padding(min(known), max(known), from_zero=from_zero)
    if within is not None:
        if within[1] < LARGEST:
            missing = max(0.0, _LEAST_SPAN * (within[1] - within[0]) - (high - low))
            low, high = low - missing / 2, high + missing / 2
        low, high = min(max(low, within[0]), min(known)), max(min(high, within[1]), max(known))
    step = _compute_round_step(high - low, about)
    first, last = math.floor(low / step + _SAME), math.ceil(high / step - _SAME)
    ticks = tuple(count * step for count in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], step, ticks)


def make_snug_scale(values: Iterable[float], *, about: int = 5) -> Scale:
    """Make an axis that ends at the extreme values; between integers, ticks are integers."""
    known = list(values)
    low, high = min(known), max(known)
    if high - low <= max(_SAME * max(abs(low), abs(high)), _TINY):
        step = 1.0 if low == round(low) else _compute_round_step(max(abs(low), _TINY), 1000)
        return Scale(low, low, step, (low,))
    step = _compute_round_step(high - low, about)
    if all(value == round(value) for value in known):
        step = max(1.0, step)
    first, last = math.ceil(low / step - _SAME), math.floor(high / step + _SAME)
    return Scale(low, high, step, tuple(count * step for count in range(first, last + 1)))


def _add_padding(low: float, high: float, *, from_zero: bool) -> tuple[float, float]:
    if high - low > max(_SAME * max(abs(low), abs(high)), _TINY):
        return low, high
    if from_zero:
        return 0.0, 1.0
    air = abs(low) / 2 if abs(low) > _TINY else 1.0
    return low - air, low + air


def _compute_round_step(span: float, about: int) -> float:
    power = 10.0 ** math.floor(math.log10(span / about))
    return next(step for step in _STEPS if step * power * about >= span * (1 - _SAME)) * power


def format_number(value: float | None) -> str:
    """Format a number: integers in full, others with four significant digits, None as a dash."""
    if value is None:
        return "–"
    size = abs(value)
    if 1e4 <= size < 1e15 or value == round(value):
        return f"{round(value):,}" if size < 1e15 else f"{value:.4g}"
    return f"{value:,.4g}"
