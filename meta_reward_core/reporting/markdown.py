"""A report as one Markdown file."""

import re
from collections.abc import Iterator, Sequence

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
    number,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def write_markdown(document: Document) -> str:
    """Write a report; where the HTML file has a chart, its numbers stand as a table."""
    lines = [f"# {_escaped(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {_escaped(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Text(text):
            yield _escaped(text)
        case Notes(items):
            yield from (f"- {_escaped(item)}" for item in items)
        case Code(title, text):
            fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
            yield from (f"{_escaped(title)}:", "", fence, text.rstrip("\n"), fence)
        case Absent(title, reason):
            yield f"**{_escaped(title)}**: absent. {_escaped(reason)}"
        case Grid():
            yield from _table(block.title, block.columns, block.rows, block.note)
        case LinePlot():
            yield from _table(block.title, *_numbers_of_lines(block), block.note)
        case HeatPlot():
            yield from _table(block.title, *_numbers_of_cells(block), block.note)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str
) -> Iterator[str]:
    yield from (f"**{_escaped(title)}**", "")
    yield "| " + " | ".join(map(_escaped, columns)) + " |"
    yield "|---|" + "--:|" * (len(columns) - 1)
    yield from ("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)
    if note:
        yield from ("", _escaped(note))


def _numbers_of_lines(plot: LinePlot) -> tuple[list[str], list[list[str]]]:
    xs = sorted({x for curve in plot.curves for x, _ in curve.points})
    known = [dict(curve.points) for curve in plot.curves]
    rows = [[f"{x:g}", *(number(points.get(x), 3) for points in known)] for x in xs]
    return [plot.x_label, *(curve.name for curve in plot.curves)], rows


def _numbers_of_cells(plot: HeatPlot) -> tuple[list[str], list[list[str]]]:
    rows = [
        [row, *(number(plot.shares.get((row, column)), 3) for column in plot.columns)]
        for row in plot.rows
    ]
    return [f"{plot.row_label} / {plot.column_label}", *plot.columns], rows


def _escaped(text: str) -> str:
    """Text of recipes and models, so that none of it becomes markup or breaks a table."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
