"""A report's blocks in the form that templates show, its plots drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from django.utils.text import slugify

from meta_reward_core.reporting.document import (
    Absent,
    Block,
    Code,
    Document,
    Grid,
    HeatPlot,
    LinePlot,
    Notes,
    Text,
)
from webapp.charts import Cell, Chart, Series, heat_map, line_chart


@dataclass(frozen=True, slots=True)
class GridCell:
    """A cell under the heading of its column."""

    column: str
    text: str


@dataclass(frozen=True, slots=True)
class GridRow:
    """A row of a table."""

    heading: str
    cells: Sequence[GridCell]
    is_outside: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A block, or charts in a row: what kind it is, and what the template of that kind needs."""

    kind: str
    block: Block | None = None
    charts: Sequence[Chart] = ()
    rows: Sequence[GridRow] = ()


@dataclass(frozen=True, slots=True)
class ShownSection:
    """A section with an address of its own on the page."""

    title: str
    anchor: str
    blocks: Sequence[Shown]


def draw_sections(document: Document) -> list[ShownSection]:
    """Prepare a report for the templates."""
    return [
        ShownSection(
            section.title,
            f"part-{number}-{slugify(section.title)}",
            list(_shown_blocks(section.blocks)),
        )
        for number, section in enumerate(document.sections, 1)
    ]


def _shown_blocks(blocks: Sequence[Block]) -> Iterator[Shown]:
    """Charts that follow one another stand side by side."""
    for is_plot, together in groupby(blocks, lambda one: isinstance(one, LinePlot | HeatPlot)):
        if is_plot:
            yield Shown("charts", charts=[_drawn(one) for one in together])
        else:
            yield from map(_shown, together)


def _drawn(block: Block) -> Chart:
    match block:
        case LinePlot():
            return _lines(block)
        case HeatPlot():
            return _heat(block)
    raise TypeError(f"{type(block).__name__} cannot be drawn")


def _shown(block: Block) -> Shown:
    match block:
        case Text():
            return Shown("text", block)
        case Notes():
            return Shown("notes", block)
        case Code():
            return Shown("code", block)
        case Absent():
            return Shown("absent", block)
        case Grid():
            return Shown("grid", block, rows=list(_rows(block)))
    raise TypeError(f"{type(block).__name__} is a plot")


def _rows(grid: Grid) -> Iterator[GridRow]:
    for number, (heading, *cells) in enumerate(grid.rows):
        named = zip(grid.columns[1:], cells, strict=True)
        yield GridRow(heading, [GridCell(*cell) for cell in named], number < grid.outside)


def _lines(plot: LinePlot) -> Chart:
    return line_chart(
        plot.title,
        [Series(curve.name, curve.points) for curve in plot.curves],
        x_label=plot.x_label,
        y_label=plot.y_label,
        description=plot.note,
    )


def _heat(plot: HeatPlot) -> Chart:
    cells = {place: Cell(share, f"{share:.2f}") for place, share in plot.shares.items()}
    return heat_map(
        plot.title,
        plot.rows,
        plot.columns,
        cells,
        row_label=plot.row_label,
        column_label=plot.column_label,
        scale=(0.0, max(plot.shares.values(), default=1.0)),
        description=plot.note,
    )
