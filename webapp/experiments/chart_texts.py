"""Texts of charts over models: the change of each series, and the number of values behind it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from meta_reward_core.evaluation.confidence_intervals import Interval, compute_difference_interval
from webapp.charts.lines import Ends, Series
from webapp.charts.scales import format_number
from webapp.experiments.outcome_summary import count_decimals, format_signed, judge_change

_DIGITS: Final = 3


def describe_changes(
    series: Sequence[Series], *, good: int = 0, paired: Mapping[str, Ends] | None = None
) -> str:
    """Describe how each series changed from its first model to its last one.

    Args:
        good: 1 if higher is better, -1 if lower is better, 0 if neither is.
        paired: intervals of changes that were measured on the same items, by series. Without one,
            the interval combines those of both models.
    """
    said: dict[str, list[str]] = {}
    for one in series:
        known = [(x, y) for x, y in one.by_x.items() if y is not None]
        if len(known) < 2:
            continue
        (start, first), (end, last) = known[0], known[-1]
        name = f"{one.name} " if len(series) > 1 else ""
        interval = (paired or {}).get(one.name) or combine_intervals(one, one, start, end)
        change = describe_change(first, last, interval, good=good, is_brief=len(series) > 1)
        said.setdefault(f"M{start:g} to M{end:g}", []).append(f"{name}{change}")
    return " ".join(f"{models}: {'; '.join(parts)}." for models, parts in said.items())


def describe_change(
    first: float,
    last: float,
    interval: Ends | None,
    *,
    good: int,
    with_verdict: bool = True,
    is_brief: bool = False,
) -> str:
    """Describe a change with its interval and what follows from it.

    Args:
        is_brief: leave out the verdict if the change is not clear, which the interval shows.
    """
    if interval is None:
        decimals = count_decimals(max(abs(first), abs(last)), digits=_DIGITS)
        return format_signed(last - first, decimals)
    low, high = interval
    decimals = count_decimals((high - low) / 2, digits=2)
    ends = ", ".join(format_signed(end, decimals) for end in interval)
    is_said = with_verdict and not (is_brief and low <= 0 <= high)
    verdict = f", {judge_change(low, high, good=good)}" if is_said else ""
    return f"{format_signed(last - first, decimals)} [{ends}]{verdict}"


def combine_intervals(first: Series, second: Series, start: float, end: float) -> Ends | None:
    """Return the interval of `second` at `end` minus `first` at `start`; None if unknown."""
    ends = first.intervals.get(start), second.intervals.get(end)
    before, after = first.by_x.get(start), second.by_x.get(end)
    if ends[0] is None or ends[1] is None or before is None or after is None:
        return None
    return compute_difference_interval(before, Interval(*ends[0]), after, Interval(*ends[1]))


def describe_counts(series: Sequence[Series], unit: str = "") -> str:
    """Describe the number of values behind the points; empty if it is not known."""
    ranges = {one.name: _format_range(one.counts.values()) for one in series if one.counts}
    if not ranges:
        return ""
    if len(set(ranges.values())) == 1:
        return f"n = {next(iter(ranges.values()))} {unit}".rstrip()
    return "n = " + ", ".join(f"{count} ({name})" for name, count in ranges.items())


def _format_range(counts: Iterable[int]) -> str:
    known = sorted(counts)
    low, high = format_number(known[0]), format_number(known[-1])
    return low if low == high else f"{low} to {high}"
