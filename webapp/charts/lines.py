"""Line charts. Series differ by color, dashes and marker shape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from webapp.charts.chart import (
    CHAR_WIDTH,
    Chart,
    Label,
    Line,
    Mark,
    PlotArea,
    ReferenceLine,
    Table,
    make_empty_chart,
    make_identity,
    make_plot_area,
    make_y_ticks,
)
from webapp.charts.scales import (
    Scale,
    format_number,
    make_snug_scale,
    make_wide_scale,
    require_finite,
)

Point = tuple[float, float | None]
Ends = tuple[float, float]
"""Lower and upper ends of an interval."""
_MARKS_OF_A_LINE: Final = 12
_MOST_STEPS: Final = 8
_FEWEST_STEPS: Final = 4
_CAP: Final = 3.0
_DODGE: Final = 5.0
"""Distance between points of different series at the same x."""

COLORS: Final = 6
"""Number of colors in `charts.css`; dashes and shapes have other periods, so styles repeat late."""
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "4 2")
_TARGET: Final = "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"
"""Invisible pointer target of a point without a mark."""

_SHAPES: Final = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "m-3 -3h6v6h-6z",
    "m0 -4l4 7h-8z",
    "m0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    "m-3.5 -3.5l7 7m0 -7l-7 7",
    "m0 4l4 -7h-8z",
    "m-4 0h8m-4 -4v8",
)


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of points (x, y); y is None if unknown, which leaves a gap.

    Attributes:
        intervals: 95% intervals by x, where known.
        counts: items behind a point by x, where known.
    """

    name: str
    points: Sequence[Point]
    intervals: Mapping[float, Ends] = field(default_factory=dict)
    counts: Mapping[float, int] = field(default_factory=dict)

    @property
    def by_x(self) -> dict[float, float | None]:
        """The points in the order of x."""
        return dict(sorted(self.points, key=lambda point: point[0]))

    def describe_point(self, x: float, y: float | None, prefix: str = "") -> str:
        """Describe a point with its value, and its interval and count if known."""
        said = f"{self.name} at {prefix}{format_number(x)}: {format_number(y)}"
        if x in self.intervals:
            said += f" (95% CI {_format_interval(self.intervals[x])})"
        return f"{said}, n = {self.counts[x]:,}" if x in self.counts else said


def build_line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    within: tuple[float, float] | None = None,
    is_whole: bool = False,
    from_zero: bool = False,
    reference: tuple[float, str] | None = None,
    shown_x: Sequence[float] = (),
    x_prefix: str = "",
    has_legend: bool = True,
    verdict: str = "",
    count: str = "",
    description: str = "",
) -> Chart:
    """Plot lines over a numeric axis, such as metrics by iteration or step.

    Args:
        series: series with distinct names.
        within: smallest and largest possible value, such as (0, 1) for shares.
        is_whole: whether the axis covers all of `within`, so that charts can be compared.
        from_zero: start the vertical axis at zero.
        reference: a value to compare with and its name, drawn as a horizontal line.
        shown_x: positions that the horizontal axis includes, so that charts can be compared.
        x_prefix: text before each number of the horizontal axis, such as M for models. Points of
            different series at the same x are then drawn next to each other.
        has_legend: False where the page shows one legend for several charts.
        verdict, count: see `Chart`.

    Raises:
        ValueError: a number is not finite.
    """
    known = {one.name: one.by_x for one in series}
    xs = [x for points in known.values() for x in points]
    ys = [y for points in known.values() for y in points.values() if y is not None]
    ends = [end for one in series for interval in one.intervals.values() for end in interval]
    require_finite([*xs, *ys, *ends, *(reference or ())[:1]])
    table = _tabulate_lines(series, x_label, x_prefix)
    if not ys:
        return make_empty_chart(title, description, table)
    shown = [*ys, *ends]
    if within and is_whole:
        shown += within
    if reference is not None:
        shown.append(reference[0])
    y_scale = make_wide_scale(shown, within=within, from_zero=from_zero)
    if reference is not None and reference[0] in (y_scale.low, y_scale.high) and within is None:
        # A reference value on the axis itself could not be seen.
        shown.append(reference[0] + y_scale.step * (1 if reference[0] == y_scale.high else -1) / 2)
        y_scale = make_wide_scale(shown, from_zero=from_zero)
    plot = make_plot_area(y_scale)
    x_scale = _make_x_scale([*xs, *shown_x], plot)
    has_intervals = any(one.intervals for one in series)
    dodged = len(series) if has_intervals or x_prefix else 1
    inset = _compute_inset(dodged) if has_intervals or dodged > 1 else 0.0
    inner = replace(plot, left=plot.left + inset, right=plot.right - inset)
    return Chart(
        title,
        description,
        make_identity(title, table),
        "charts/_lines.html",
        table,
        left=plot.left,
        right=plot.right,
        bottom=plot.bottom,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(
            Label(
                inner.place_x(x_scale, tick),
                plot.bottom + 15,
                f"{x_prefix}{x_scale.format_tick(tick)}",
            )
            for tick in x_scale.ticks
        ),
        y_ticks=make_y_ticks(plot, y_scale),
        lines=tuple(
            _make_line(
                number,
                one,
                _Place(inner, x_scale, y_scale, _compute_shift(number, dodged), x_prefix),
            )
            for number, one in enumerate(series)
        ),
        reference=ReferenceLine(
            plot.place_y(y_scale, reference[0]), f"{reference[1]}: {format_number(reference[0])}"
        )
        if reference
        else None,
        has_legend=has_legend,
        verdict=verdict,
        count=count,
    )


def _make_x_scale(xs: Sequence[float], plot: PlotArea) -> Scale:
    """Make the horizontal axis with as many ticks as fit with their labels."""
    for about in range(_MOST_STEPS, _FEWEST_STEPS, -1):
        scale = make_snug_scale(xs, about=about)
        widest = max((len(scale.format_tick(tick)) for tick in scale.ticks), default=0)
        step = (plot.right - plot.left) * scale.step / (scale.high - scale.low or scale.step)
        if step >= CHAR_WIDTH * (widest + 1):
            return scale
    return make_snug_scale(xs, about=_FEWEST_STEPS)


@dataclass(frozen=True, slots=True)
class _Place:
    """Places the points of a series; `shift` moves it sideways from the others."""

    plot: PlotArea
    x_scale: Scale
    y_scale: Scale
    shift: float
    x_prefix: str

    def place_x(self, x: float) -> float:
        return round(self.plot.place_x(self.x_scale, x) + self.shift, 1)

    def place_y(self, y: float) -> float:
        return self.plot.place_y(self.y_scale, y)


def _compute_inset(count: int) -> float:
    """Compute the margin that the points of several series need at both ends of the axis."""
    return _DODGE * (count - 1) / 2 + _CAP


def _compute_shift(number: int, count: int) -> float:
    """Move series apart, so that the points of one do not cover those of another."""
    return _DODGE * (number - (count - 1) / 2) if count > 1 else 0.0


def _make_line(number: int, series: Series, place: _Place) -> Line:
    shape = _SHAPES[number % len(_SHAPES)]
    points = series.by_x
    marks: list[Mark] = []
    targets: list[Mark] = []
    path = []
    for run in _iter_runs(points):
        positions = [(place.place_x(x), place.place_y(y)) for x, y in run]
        if len(positions) > 1:
            path.append("M" + "L".join(f"{x} {y}" for x, y in positions))
        every = 1 + (len(points) - 1) // _MARKS_OF_A_LINE
        for at, (x, y) in enumerate(positions):
            is_marked = at % every == 0 or at == len(positions) - 1
            found = marks if is_marked else targets
            drawn = shape if is_marked else _TARGET
            found.append(Mark(f"M{x} {y}{drawn}", series.describe_point(*run[at], place.x_prefix)))
    return Line(
        name=series.name,
        colour=number % COLORS,
        dashes=_DASHES[number % len(_DASHES)],
        path="".join(path),
        swatch=f"M15 6{shape}",
        marks=tuple(marks),
        targets=tuple(targets),
        intervals="".join(
            _draw_interval(place, x, ends)
            for x, ends in sorted(series.intervals.items())
            if points.get(x) is not None
        ),
    )


def _draw_interval(place: _Place, x: float, ends: Ends) -> str:
    middle, low, high = place.place_x(x), *map(place.place_y, ends)
    left = round(middle - _CAP, 1)
    return f"M{left} {low}h{2 * _CAP}M{middle} {low}V{high}M{left} {high}h{2 * _CAP}"


def _format_interval(ends: Ends) -> str:
    return " to ".join(map(format_number, ends))


def _iter_runs(points: Mapping[float, float | None]) -> Iterator[list[tuple[float, float]]]:
    """Yield runs of adjacent known points."""
    run: list[tuple[float, float]] = []
    for x, y in points.items():
        if y is not None:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _tabulate_lines(series: Sequence[Series], x_label: str, x_prefix: str) -> Table:
    """Tabulate the values of each series, then its intervals and counts where it has any."""
    xs = sorted({x for one in series for x, _ in one.points})
    columns: dict[str, Mapping[float, str]] = {}
    for one in series:
        columns[one.name] = {x: format_number(y) for x, y in one.points}
        if one.intervals:
            columns[f"{one.name}: 95% CI"] = {
                x: _format_interval(ends) for x, ends in one.intervals.items()
            }
        if one.counts:
            columns[f"{one.name}: n"] = {x: f"{count:,}" for x, count in one.counts.items()}
    rows = (
        (
            f"{x_prefix}{format_number(x)}",
            *(cells.get(x, format_number(None)) for cells in columns.values()),
        )
        for x in xs
    )
    return Table((x_label, *columns), tuple(rows))
