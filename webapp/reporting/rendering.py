"""A report as HTML: sections for a page, a self-contained file, and files on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from django.template.loader import render_to_string
from django.utils.text import slugify

from meta_reward_core.data.file_io import write_atomically
from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.document import (
    Absent,
    Block,
    Code,
    Document,
    HeatPlot,
    LinePlot,
    Notes,
    ReportTable,
    Text,
)
from meta_reward_core.reporting.markdown import write_markdown
from webapp.charts.chart import Chart
from webapp.charts.heat_map import Cell, build_heat_map
from webapp.charts.lines import Series, build_line_chart
from webapp.paths import STATIC_SOURCES


@dataclass(frozen=True, slots=True)
class ReportTableCell:
    """A cell with the heading of its column."""

    column: str
    text: str


@dataclass(frozen=True, slots=True)
class ReportTableRow:
    """A row of a table."""

    heading: str
    cells: Sequence[ReportTableCell]
    is_outside: bool


@dataclass(frozen=True, slots=True)
class RenderedBlock:
    """A block, or a row of charts: its kind and the context of its template."""

    kind: str
    block: Block | None = None
    charts: Sequence[Chart] = ()
    rows: Sequence[ReportTableRow] = ()


@dataclass(frozen=True, slots=True)
class RenderedSection:
    """A section with its own anchor on the page."""

    title: str
    anchor: str
    blocks: Sequence[RenderedBlock]


def render_sections(document: Document) -> list[RenderedSection]:
    """Prepare a report for the templates."""
    return [
        RenderedSection(
            section.title,
            f"part-{number}-{slugify(section.title)}",
            list(_iter_blocks(section.blocks)),
        )
        for number, section in enumerate(document.sections, 1)
    ]


def _iter_blocks(blocks: Sequence[Block]) -> Iterator[RenderedBlock]:
    """Yield blocks; consecutive charts are shown side by side."""
    for is_plot, together in groupby(blocks, lambda one: isinstance(one, LinePlot | HeatPlot)):
        if is_plot:
            yield RenderedBlock("charts", charts=[_render_chart(one) for one in together])
        else:
            yield from map(_render_block, together)


def _render_chart(block: Block) -> Chart:
    match block:
        case LinePlot():
            return _render_lines(block)
        case HeatPlot():
            return _render_heat_map(block)
    raise TypeError(f"{type(block).__name__} cannot be rendered")


def _render_block(block: Block) -> RenderedBlock:
    match block:
        case Text():
            return RenderedBlock("text", block)
        case Notes():
            return RenderedBlock("notes", block)
        case Code():
            return RenderedBlock("code", block)
        case Absent():
            return RenderedBlock("absent", block)
        case ReportTable():
            return RenderedBlock("grid", block, rows=list(_iter_rows(block)))
    raise TypeError(f"{type(block).__name__} is a plot")


def _iter_rows(grid: ReportTable) -> Iterator[ReportTableRow]:
    for number, (heading, *cells) in enumerate(grid.rows):
        named = zip(grid.columns[1:], cells, strict=True)
        yield ReportTableRow(
            heading,
            [ReportTableCell(*cell) for cell in named],
            number >= len(grid.rows) - grid.outside,
        )


def _render_lines(plot: LinePlot) -> Chart:
    return build_line_chart(
        plot.title,
        [Series(curve.name, curve.points) for curve in plot.curves],
        x_label=plot.x_label,
        y_label=plot.y_label,
        description=plot.note,
    )


def _render_heat_map(plot: HeatPlot) -> Chart:
    cells = {place: Cell(share, f"{share:.2f}") for place, share in plot.shares.items()}
    return build_heat_map(
        plot.title,
        plot.rows,
        plot.columns,
        cells,
        row_label=plot.row_label,
        column_label=plot.column_label,
        scale=(0.0, max(plot.shares.values(), default=1.0)),
        description=plot.note,
    )


_STYLES = ("site.css", "charts.css", "reporting.css")


def write_html(document: Document) -> str:
    """Render a report as HTML with inline styles."""
    return render_to_string(
        "reporting/exported_report.html",
        {
            "title": document.title,
            "sections": render_sections(document),
            "styles": [(STATIC_SOURCES / name).read_text(encoding="utf-8") for name in _STYLES],
        },
    )


def write_report(document: Document, stem: Path) -> list[Path]:
    """Write STEM.html and STEM.md atomically; return their paths.

    Raises:
        ArtifactError: they cannot be written.
    """
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot create the folder {stem.parent}: {error}") from error
    texts = {".html": write_html(document), ".md": write_markdown(document)}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, [text])
    return paths
