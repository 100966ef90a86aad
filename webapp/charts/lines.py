"""Line charts. Series differ by color, dashes and marker shape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from webapp.charts.chart import (
    CHAR_WIDTH,
    Chart,
    Label,
    Line,
    Mark,
    PlotArea,
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
_MARKS_OF_A_LINE: Final = 12
_MOST_STEPS: Final = 8
_FEWEST_STEPS: Final = 4

COLORS: Final = 6
"""Colours in `charts.css`; dashes and shapes have other periods, so styles repeat late."""
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
    """A named line of points (x, y); y is None if unknown, which leaves a gap."""

    name: str
    points: Sequence[Point]


def build_line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    within: tuple[float, float] | None = None,
    is_whole: bool = False,
    from_zero: bool = False,
    description: str = "",
) -> Chart:
    """Plot lines over a numeric axis, such as metrics by iteration or step.

    Args:
        series: of different names.
        within: smallest and largest possible value, such as (0, 1) for shares.
        is_whole: whether the axis covers all of `within`, so that charts can be compared.
        from_zero: start the vertical axis at zero.

    Raises:
        ValueError: a number is not finite.
    """
    known = {one.name: dict(sorted(one.points, key=lambda point: point[0])) for one in series}
    xs = [x for points in known.values() for x in points]
    ys = [y for points in known.values() for y in points.values() if y is not None]
    require_finite([*xs, *ys])
    table = _tabulate_lines(known, x_label)
    if not ys:
        return make_empty_chart(title, description, table)
    shown = [*ys, *within] if within and is_whole else ys
    y_scale = make_wide_scale(shown, within=within, from_zero=from_zero)
    plot = make_plot_area(y_scale)
    x_scale = _make_x_scale(xs, plot)
    lines = tuple(
        _make_line(number, name, points, plot, x_scale, y_scale)
        for number, (name, points) in enumerate(known.items())
    )
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
            Label(plot.place_x(x_scale, tick), plot.bottom + 15, x_scale.format_tick(tick))
            for tick in x_scale.ticks
        ),
        y_ticks=make_y_ticks(plot, y_scale),
        lines=lines,
    )


def _make_x_scale(xs: Sequence[float], plot: PlotArea) -> Scale:
    """Make the horizontal axis with as many ticks as have room for their labels."""
    for about in range(_MOST_STEPS, _FEWEST_STEPS, -1):
        scale = make_snug_scale(xs, about=about)
        widest = max((len(scale.format_tick(tick)) for tick in scale.ticks), default=0)
        step = (plot.right - plot.left) * scale.step / (scale.high - scale.low or scale.step)
        if step >= CHAR_WIDTH * (widest + 1):
            return scale
    return make_snug_scale(xs, about=_FEWEST_STEPS)


def _make_line(
    number: int,
    name: str,
    points: Mapping[float, float | None],
    plot: PlotArea,
    x_scale: Scale,
    y_scale: Scale,
) -> Line:
    shape = _SHAPES[number % len(_SHAPES)]
    marks: list[Mark] = []
    targets: list[Mark] = []
    path = []
    for run in _iter_runs(points):
        positions = [(plot.place_x(x_scale, x), plot.place_y(y_scale, y)) for x, y in run]
        if len(positions) > 1:
            path.append("M" + "L".join(f"{x} {y}" for x, y in positions))
        every = 1 + (len(points) - 1) // _MARKS_OF_A_LINE
        marks += (
            Mark(
                f"M{x} {y}{shape}",
                f"{name} at {format_number(run[at][0])}: {format_number(run[at][1])}",
            )
            for at, (x, y) in enumerate(positions)
            if at % every == 0 or at == len(positions) - 1
        )
        targets += (
            Mark(
                f"M{x} {y}{_TARGET}",
                f"{name} at {format_number(run[at][0])}: {format_number(run[at][1])}",
            )
            for at, (x, y) in enumerate(positions)
            if not (at % every == 0 or at == len(positions) - 1)
        )
    return Line(
        name=name,
        colour=number % COLORS,
        dashes=_DASHES[number % len(_DASHES)],
        path="".join(path),
        swatch=f"M15 6{shape}",
        marks=tuple(marks),
        targets=tuple(targets),
    )


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


def _tabulate_lines(known: Mapping[str, Mapping[float, float | None]], x_label: str) -> Table:
    xs = sorted({x for points in known.values() for x in points})
    rows = (
        (format_number(x), *(format_number(points.get(x)) for points in known.values())) for x in xs
    )
    return Table((x_label, *known), tuple(rows))
