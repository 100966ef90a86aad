"""Charts as SVG drawn on the server: what a template needs to draw one, all places computed.

Series differ by colour, dashes and the shape of their points, and the numbers stand in a table
behind each chart. Render one by `{% include "charts/chart.html" with chart=chart %}` and link
`charts.css` in the page's head.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.text import slugify

from webapp.charts.scales import (
    Scale,
    format_number,
    make_snug_scale,
    make_wide_scale,
    require_finite,
)

Point = tuple[float, float | None]
Place = tuple[float, float]

WIDTH: Final = 360.0
_HEIGHT: Final = 220.0
_TOP, _RIGHT, _BOTTOM = 26.0, 14.0, 40.0
_CHAR: Final = 6.4
_MARKS_OF_A_LINE: Final = 12
_BAR_ROW: Final = 36.0
_CELL_HEIGHT: Final = 30.0

COLORS: Final = 6
"""How many colours `charts.css` has; dashes and shapes repeat otherwise, so pairs differ longer."""
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "4 2")
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
    """A named line: points (x, y), y None where nothing is known, which leaves a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a heat map.

    Attributes:
        value: decides the colour; None for what is not known.
        label: written in the field; a few characters.
        mark: in words, what is special about the field; it gets a corner and a border.
        explanation: in words, what the field says; shown beside the number in the table.
    """

    value: float | None
    label: str
    mark: str = ""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a place."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a line: the path of its shape, and what it says."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A series as it is drawn. `path` is empty where no two neighbouring points are known."""

    name: str
    colour: int
    dashes: str
    path: str
    swatch: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: a bar, or a field of a heat map."""

    x: float
    y: float
    width: float
    height: float
    name: str
    label: Label
    text: str
    tone: str = ""
    corner: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers behind a chart: each row's first cell is its heading."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to be drawn.

    Attributes:
        drawing: name of the template that draws it; empty where there is nothing to draw.
        identity: the same while numbers come in, another for another title or other columns.
        left, right, top, bottom: the edges of the plot in the view box.
    """

    title: str
    description: str
    identity: str
    drawing: str
    table: Table
    width: float = WIDTH
    height: float = _HEIGHT
    left: float = 0.0
    right: float = 0.0
    top: float = _TOP
    bottom: float = 0.0
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Label, ...] = ()
    y_ticks: tuple[Label, ...] = ()
    lines: tuple[Line, ...] = ()
    boxes: tuple[Box, ...] = ()
    zero: float | None = None


def build_line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    within: tuple[float, float] | None = None,
    description: str = "",
) -> Chart:
    """Draw lines over a number, such as figures over iterations or steps.

    Args:
        series: of different names.
        within: the least and the largest value that there can be, such as 0 and 1 for shares.

    Raises:
        ValueError: a number is not finite.
    """
    known = {one.name: dict(sorted(one.points, key=lambda point: point[0])) for one in series}
    xs = [x for points in known.values() for x in points]
    ys = [y for points in known.values() for y in points.values() if y is not None]
    require_finite([*xs, *ys])
    table = _tabulate_lines(known, x_label)
    if not ys:
        return _make_empty_chart(title, description, table)
    x_scale, y_scale = make_snug_scale(xs), make_wide_scale(ys, within=within)
    plot = _make_plot(y_scale)
    lines = tuple(
        _make_line(number, name, points, plot, x_scale, y_scale)
        for number, (name, points) in enumerate(known.items())
    )
    return Chart(
        title,
        description,
        _make_identity(title, table),
        "charts/lines.html",
        table,
        left=plot.left,
        right=plot.right,
        bottom=plot.bottom,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(
            Label(plot.x(x_scale, tick), plot.bottom + 15, x_scale.label(tick))
            for tick in x_scale.ticks
        ),
        y_ticks=_make_y_ticks(plot, y_scale),
        lines=lines,
    )


def build_bar_chart(
    title: str, bars: Sequence[tuple[str, float]], *, y_label: str, description: str = ""
) -> Chart:
    """Draw one bar for each name, lying, so that long names fit.

    Args:
        y_label: what the bars' length says.

    Raises:
        ValueError: a number is not finite.
    """
    require_finite(value for _, value in bars)
    table = Table(("", y_label), tuple((name or "–", format_number(value)) for name, value in bars))
    if not bars:
        return _make_empty_chart(title, description, table)
    scale = make_wide_scale((value for _, value in bars), from_zero=True)
    left, right = 8.0, WIDTH - 64.0
    bottom = _TOP + _BAR_ROW * len(bars)
    plot = _Plot(left, right, bottom)
    zero = plot.x(scale, 0.0)
    return Chart(
        title,
        description,
        _make_identity(title, table),
        "charts/bars.html",
        table,
        height=bottom + 12,
        left=left,
        right=right,
        bottom=bottom,
        y_label=y_label,
        boxes=tuple(
            _make_bar(name, value, y=_TOP + _BAR_ROW * row, zero=zero, end=plot.x(scale, value))
            for row, (name, value) in enumerate(bars)
        ),
        zero=zero,
    )


def build_histogram(
    title: str, counts: Sequence[tuple[str, int]], *, x_label: str, description: str = ""
) -> Chart:
    """Draw how often each value, or range of values, occurs, in the order given.

    Raises:
        ValueError: a count is not finite.
    """
    require_finite(count for _, count in counts)
    table = Table((x_label, "count"), tuple((name, format_number(count)) for name, count in counts))
    if not any(count for _, count in counts):
        return _make_empty_chart(title, description, table)
    scale = make_wide_scale((count for _, count in counts), from_zero=True)
    plot = _make_plot(scale)
    width = (plot.right - plot.left) / len(counts)
    boxes = tuple(
        _make_column(name, count, x=plot.left + place * width, width=width, plot=plot, scale=scale)
        for place, (name, count) in enumerate(counts)
    )
    return Chart(
        title,
        description,
        _make_identity(title, table),
        "charts/histogram.html",
        table,
        left=plot.left,
        right=plot.right,
        bottom=plot.bottom,
        x_label=x_label,
        y_label="count",
        x_ticks=tuple(_iter_column_labels(boxes, plot.bottom + 15)),
        y_ticks=_make_y_ticks(plot, scale),
        boxes=boxes,
    )


def build_heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Cell],
    *,
    row_label: str = "",
    column_label: str = "",
    scale: tuple[float, float] | None = None,
    description: str = "",
) -> Chart:
    """Draw a field for each (row, column), its number in it; a missing one stays blank.

    Args:
        scale: the values of the faintest and the strongest colour, by default the smallest and
            the largest. Where it holds both signs, negative values have a colour of their own
            and zero is faintest.

    Raises:
        ValueError: a number is not finite.
    """
    values = [cell.value for cell in cells.values() if cell.value is not None]
    require_finite([*values, *(scale or ())])
    table = _tabulate_cells(rows, columns, cells, row_label)
    if not cells or not rows or not columns:
        return _make_empty_chart(title, description, table)
    low, high = scale or (min(values, default=0.0), max(values, default=0.0))
    left = 12 + _CHAR * max(map(len, rows))
    widest = max(len(text) for text in (*columns, *(cell.label for cell in cells.values())))
    width = max(34.0, 12 + _CHAR * widest)
    top = 56.0
    boxes = tuple(
        _make_field(
            f"{row}, {column}",
            cells[row, column],
            place=(left + place * width, top + line * _CELL_HEIGHT),
            width=width,
            tone=_choose_tone(cells[row, column].value, low, high),
        )
        for line, row in enumerate(rows)
        for place, column in enumerate(columns)
        if (row, column) in cells
    )
    return Chart(
        title,
        description,
        _make_identity(title, table),
        "charts/heat_map.html",
        table,
        width=round(left + width * len(columns) + 4, 1),
        height=top + _CELL_HEIGHT * len(rows) + 4,
        left=left,
        top=top,
        x_label=column_label,
        y_label=row_label,
        x_ticks=tuple(
            Label(round(left + (place + 0.5) * width, 1), top - 8, column)
            for place, column in enumerate(columns)
        ),
        y_ticks=tuple(
            Label(left - 6, top + (line + 0.5) * _CELL_HEIGHT + 4, row)
            for line, row in enumerate(rows)
        ),
        boxes=boxes,
    )


@dataclass(frozen=True, slots=True)
class _Plot:
    """The part of the view box in which values are drawn."""

    left: float
    right: float
    bottom: float

    def x(self, scale: Scale, value: float) -> float:
        return round(self.left + scale.share(value) * (self.right - self.left), 1)

    def y(self, scale: Scale, value: float) -> float:
        return round(self.bottom - scale.share(value) * (self.bottom - _TOP), 1)


def _make_plot(y_scale: Scale) -> _Plot:
    widest = max(len(y_scale.label(tick)) for tick in y_scale.ticks)
    return _Plot(round(12 + _CHAR * widest, 1), WIDTH - _RIGHT, _HEIGHT - _BOTTOM)


def _make_y_ticks(plot: _Plot, scale: Scale) -> tuple[Label, ...]:
    return tuple(
        Label(plot.left - 6, plot.y(scale, tick), scale.label(tick)) for tick in scale.ticks
    )


def _make_line(
    number: int,
    name: str,
    points: Mapping[float, float | None],
    plot: _Plot,
    x_scale: Scale,
    y_scale: Scale,
) -> Line:
    shape = _SHAPES[number % len(_SHAPES)]
    marks: list[Mark] = []
    path = []
    for run in _iter_runs(points):
        places = [(plot.x(x_scale, x), plot.y(y_scale, y)) for x, y in run]
        if len(places) > 1:
            path.append("M" + "L".join(f"{x} {y}" for x, y in places))
        every = 1 + (len(points) - 1) // _MARKS_OF_A_LINE
        marks += (
            Mark(
                f"M{x} {y}{shape}",
                f"{name} at {format_number(run[at][0])}: {format_number(run[at][1])}",
            )
            for at, (x, y) in enumerate(places)
            if at % every == 0 or at == len(places) - 1
        )
    return Line(
        name=name,
        colour=number % COLORS,
        dashes=_DASHES[number % len(_DASHES)],
        path="".join(path),
        swatch=f"M15 6{shape}",
        marks=tuple(marks),
    )


def _iter_runs(points: Mapping[float, float | None]) -> Iterator[list[tuple[float, float]]]:
    """Yield stretches of neighbouring points that are known."""
    run: list[tuple[float, float]] = []
    for x, y in points.items():
        if y is not None:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _make_bar(name: str, value: float, *, y: float, zero: float, end: float) -> Box:
    text = format_number(value)
    x, width = min(zero, end), round(abs(end - zero), 1)
    return Box(
        x=x,
        y=y + 17,
        width=width,
        height=13,
        name=name,
        label=Label(round(x + width + 5, 1), y + 28, text),
        text=f"{name}: {text}",
    )


def _make_column(
    name: str, count: int, *, x: float, width: float, plot: _Plot, scale: Scale
) -> Box:
    top = plot.y(scale, count)
    return Box(
        x=round(x + 0.5, 1),
        y=top,
        width=round(max(1.0, width - 1), 1),
        height=round(plot.bottom - top, 1),
        name=name,
        label=Label(round(x + width / 2, 1), top - 4, format_number(count)),
        text=f"{name}: {format_number(count)}",
    )


def _iter_column_labels(boxes: Sequence[Box], y: float) -> Iterator[Label]:
    """Yield the names that have room, from the first on, as often as the widest one fits."""
    widest = _CHAR * max(len(box.name) for box in boxes) + 6
    every = max(1, -int(-widest // (boxes[0].width + 1)))
    for box in boxes[::every]:
        yield Label(box.label.x, y, box.name)


def _make_field(name: str, cell: Cell, *, place: Place, width: float, tone: str) -> Box:
    x, y = round(place[0], 1), round(place[1], 1)
    said = f"{name}: {_describe_cell(cell)}"
    return Box(
        x=x + 1,
        y=y + 1,
        width=round(width - 2, 1),
        height=_CELL_HEIGHT - 2,
        name=name,
        label=Label(round(x + width / 2, 1), y + _CELL_HEIGHT / 2 + 4, cell.label),
        text=said,
        tone=tone,
        corner=f"M{x + 1} {y + 1}h9l-9 9z" if cell.mark else "",
    )


def _choose_tone(value: float | None, low: float, high: float) -> str:
    """Name one of four strengths of a colour; negative values of a scale with both signs differ."""
    if value is None:
        return "none"
    if low < 0 < high:
        share = min(1.0, abs(value) / max(-low, high))
        return f"{'down' if value < 0 else 'up'}-{round(3 * share)}"
    share = (value - low) / (high - low) if high > low else 0.5
    return f"up-{round(3 * min(1.0, max(0.0, share)))}"


def _describe_cell(cell: Cell) -> str:
    return "; ".join(text for text in (cell.label, cell.explanation, cell.mark) if text) or "–"


def _tabulate_lines(known: Mapping[str, Mapping[float, float | None]], x_label: str) -> Table:
    xs = sorted({x for points in known.values() for x in points})
    rows = (
        (format_number(x), *(format_number(points.get(x)) for points in known.values())) for x in xs
    )
    return Table((x_label, *known), tuple(rows))


def _tabulate_cells(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Cell],
    row_label: str,
) -> Table:
    blank = Cell(None, "")
    return Table(
        (row_label, *columns),
        tuple(
            (row, *(_describe_cell(cells.get((row, column), blank)) for column in columns))
            for row in rows
        ),
    )


def _make_empty_chart(title: str, description: str, table: Table) -> Chart:
    return Chart(title, description, _make_identity(title, table), "", table)


def _make_identity(title: str, table: Table) -> str:
    digest = hashlib.sha256("\0".join((title, *table.columns)).encode()).hexdigest()[:8]
    return f"chart-{slugify(title)[:40]}-{digest}"
