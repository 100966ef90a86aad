"""Heat maps: one cell with a number per row and column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from webapp.charts.chart import (
    CHAR_WIDTH,
    Box,
    Chart,
    Label,
    Swatch,
    Table,
    make_empty_chart,
    make_identity,
)
from webapp.charts.scales import require_finite

Place = tuple[float, float]
_CELL_HEIGHT: Final = 30.0
_ROTATED_LABEL: Final = 18.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a heat map.

    Attributes:
        value: determines the color; None if unknown.
        label: a few characters, written in the cell.
        mark: why the cell is marked with a corner and a border; empty if it is not marked.
        explanation: description of the cell, shown next to the number in the table.
    """

    value: float | None
    label: str
    mark: str = ""
    explanation: str = ""


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
    meanings: Mapping[float, str] | None = None,
) -> Chart:
    """Draw a cell with its number for each (row, column); a missing one stays blank.

    Args:
        meanings: for the legend, what some values mean.
        scale: the values of the faintest and the strongest color, by default the smallest and
            the largest. If the scale includes both signs, negative values have a separate color
            and zero is faintest.

    Raises:
        ValueError: a number is not finite.
    """
    values = [cell.value for cell in cells.values() if cell.value is not None]
    require_finite([*values, *(scale or ())])
    table = _tabulate_cells(rows, columns, cells, row_label)
    if not cells or not rows or not columns:
        return make_empty_chart(title, description, table)
    low, high = scale or (min(values, default=0.0), max(values, default=0.0))
    left = 12 + CHAR_WIDTH * max(map(len, rows)) + (_ROTATED_LABEL if row_label else 0)
    widest = max(len(text) for text in (*columns, *(cell.label for cell in cells.values())))
    width = max(34.0, 12 + CHAR_WIDTH * widest)
    top = 40.0
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
        make_identity(title, table),
        "charts/_heat_map.html",
        table,
        width=round(
            max(left + width * len(columns) + 4, left + CHAR_WIDTH * (len(column_label) + 3)), 1
        ),
        height=round(
            max(top + _CELL_HEIGHT * len(rows) + 4, top + CHAR_WIDTH * (len(row_label) + 3)), 1
        ),
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
        swatches=tuple(
            Swatch(_choose_tone(value, low, high), text) for value, text in (meanings or {}).items()
        ),
    )


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
    """Choose one of four color intensities; negative values of a signed scale differ."""
    if value is None:
        return "none"
    if low < 0 < high:
        share = min(1.0, abs(value) / max(-low, high))
        return f"{'down' if value < 0 else 'up'}-{round(3 * share)}"
    share = (value - low) / (high - low) if high > low else 0.5
    return f"up-{round(3 * min(1.0, max(0.0, share)))}"


def _describe_cell(cell: Cell) -> str:
    return "; ".join(text for text in (cell.label, cell.explanation, cell.mark) if text) or "–"


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
