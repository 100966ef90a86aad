"""A chart for the SVG template: shapes with computed coordinates, and a data table.

`lines`, `bars` and `heat_map` build charts. Render one by `{% include "charts/_chart.html" with
chart=chart %}` and link `charts.css` in the page's head. A table behind each chart holds its
numbers.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from django.utils.text import slugify

from webapp.charts.scales import Scale

WIDTH: Final = 360.0
_HEIGHT: Final = 220.0
TOP, _RIGHT, _BOTTOM = 26.0, 14.0, 40.0
CHAR_WIDTH: Final = 6.4


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a position."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a line: the path of its shape, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn series. `path` is empty if no two adjacent points are known.

    Attributes:
        targets: points without a visible mark, which show their value when the pointer is on them.
        intervals: path of the intervals of all points.
    """

    name: str
    colour: int
    dashes: str
    path: str
    swatch: str
    marks: tuple[Mark, ...]
    targets: tuple[Mark, ...] = ()
    intervals: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """A horizontal line at a value to compare with."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: a bar, or a cell of a heat map."""

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
    """The data of a chart: the first cell of each row is its heading."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Swatch:
    """The meaning of a color of a heat map; `tone` as in `Box`."""

    tone: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that is ready to render.

    Attributes:
        drawing: name of the template that draws it; empty if there is nothing to draw.
        identity: stable while values change; depends on the title and the columns.
        left, right, top, bottom: the edges of the plot in the view box.
        has_legend: False where the page shows one legend for several charts.
        verdict: one line that states what the chart shows.
        count: number of values behind the points, as text.
        swatches: the legend of a heat map.
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
    top: float = TOP
    bottom: float = 0.0
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Label, ...] = ()
    y_ticks: tuple[Label, ...] = ()
    lines: tuple[Line, ...] = ()
    boxes: tuple[Box, ...] = ()
    zero: float | None = None
    reference: ReferenceLine | None = None
    has_legend: bool = True
    verdict: str = ""
    count: str = ""
    swatches: tuple[Swatch, ...] = ()


@dataclass(frozen=True, slots=True)
class PlotArea:
    """The part of the view box that contains the values."""

    left: float
    right: float
    bottom: float

    def place_x(self, scale: Scale, value: float) -> float:
        """Compute the x coordinate of a value in the view box."""
        return round(self.left + scale.compute_share(value) * (self.right - self.left), 1)

    def place_y(self, scale: Scale, value: float) -> float:
        """Compute the y coordinate of a value in the view box."""
        return round(self.bottom - scale.compute_share(value) * (self.bottom - TOP), 1)


def make_plot_area(y_scale: Scale) -> PlotArea:
    """Make a plot area that leaves room for the labels of a vertical axis."""
    widest = max(len(y_scale.format_tick(tick)) for tick in y_scale.ticks)
    return PlotArea(round(12 + CHAR_WIDTH * widest, 1), WIDTH - _RIGHT, _HEIGHT - _BOTTOM)


def make_y_ticks(plot: PlotArea, scale: Scale) -> tuple[Label, ...]:
    """Make the labels of a vertical axis."""
    return tuple(
        Label(plot.left - 6, plot.place_y(scale, tick), scale.format_tick(tick))
        for tick in scale.ticks
    )


def make_empty_chart(title: str, description: str, table: Table) -> Chart:
    """Make a chart without a plot, for data that can only be shown as a table."""
    return Chart(title, description, make_identity(title, table), "", table)


def make_identity(title: str, table: Table) -> str:
    """Make the id of a chart's element, which is stable as long as title and columns are."""
    digest = hashlib.sha256("\0".join((title, *table.columns)).encode()).hexdigest()[:8]
    return f"chart-{slugify(title)[:40]}-{digest}"
