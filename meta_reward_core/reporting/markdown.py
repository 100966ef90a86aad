"""A report as one Markdown file."""

import re
from collections.abc import Iterator, Sequence

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
    format_number,
    split_code_spans,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def write_markdown(document: Document) -> str:
    """Render a report; charts become tables of their data."""
    lines = [f"# {_escape(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {_escape(section.title)}", ""]
        for block in section.blocks:
            lines += [*_render_block(block), ""]
    return "\n".join(lines)


def _render_block(block: Block) -> Iterator[str]:
    match block:
        case Text(text):
            yield _escape(text)
        case Notes(items):
            yield from (f"- {_escape(item)}" for item in items)
        case Code(title, text):
            fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
            yield from (f"{_escape(title)}:", "", fence, text.rstrip("\n"), fence)
        case Absent(title, reason):
            yield f"**{_escape(title)}**: absent. {_escape_text(reason)}"
        case ReportTable():
            yield from _render_table(block.title, block.columns, block.rows, block.note)
        case LinePlot():
            yield from _render_table(block.title, *_tabulate_lines(block), block.note)
        case HeatPlot():
            yield from _render_table(block.title, *_tabulate_cells(block), block.note)


def _render_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str
) -> Iterator[str]:
    yield from (f"**{_escape(title)}**", "")
    yield "| " + " | ".join(map(_escape, columns)) + " |"
    yield "|---|" + "--:|" * (len(columns) - 1)
    yield from ("| " + " | ".join(map(_escape, row)) + " |" for row in rows)
    if note:
        yield from ("", _escape_text(note))


def _tabulate_lines(plot: LinePlot) -> tuple[list[str], list[list[str]]]:
    xs = sorted({x for curve in plot.curves for x, _ in curve.points})
    known = [dict(curve.points) for curve in plot.curves]
    rows = [[f"{x:g}", *(format_number(points.get(x), 3) for points in known)] for x in xs]
    return [plot.x_label, *(curve.name for curve in plot.curves)], rows


def _tabulate_cells(plot: HeatPlot) -> tuple[list[str], list[list[str]]]:
    rows = [
        [row, *(format_number(plot.shares.get((row, column)), 3) for column in plot.columns)]
        for row in plot.rows
    ]
    return [f"{plot.row_label} / {plot.column_label}", *plot.columns], rows


def _escape_text(text: str) -> str:
    """Escape a sentence from this project; code in backquotes stays code."""
    return "".join(
        f"`{span.text}`" if span.is_code else _escape_marks(span.text)
        for span in split_code_spans(" ".join(text.split()))
    )


def _escape_marks(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _escape(text: str) -> str:
    """Escape text of recipes and models, so that it cannot become markup or break a table."""
    return _escape_marks(" ".join(text.split()))
