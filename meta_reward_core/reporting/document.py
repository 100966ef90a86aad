"""Structure of a report, independent of its output format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

DASH: Final = "–"
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Notes:
    """Short sentences, one per line."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Code:
    """Verbatim text, such as a recipe."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table; the first cell of each row is its heading.

    Attributes:
        note: explanation that a reader needs to interpret the table.
        outside: number of rows at the end that contain the paper's values.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    outside: int = 0


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line through points (x, y); y is None if unknown."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class LinePlot:
    """Curves over a numeric axis."""

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class HeatPlot:
    """A share from 0 to 1 for each (row, column)."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: dict[tuple[str, str], float]
    row_label: str
    column_label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """Something that cannot be computed, with the reason."""

    title: str
    reason: str


Block = Text | Notes | Code | ReportTable | LinePlot | HeatPlot | Absent


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one heading."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A part of a sentence: words, or code."""

    text: str
    is_code: bool


def split_code_spans(text: str) -> list[TextSpan]:
    """Split a sentence at code in backquotes; an unpaired backquote is a plain character."""
    spans: list[TextSpan] = []
    end = 0
    for found in _CODE.finditer(text):
        spans += [
            TextSpan(text[end : found.start()], is_code=False),
            TextSpan(found[1], is_code=True),
        ]
        end = found.end()
    return [span for span in (*spans, TextSpan(text[end:], is_code=False)) if span.text]


def add_reason_if_empty(grid: ReportTable, *, ours: int, reason: str) -> list[Block]:
    """Return the table, followed by the reason if it has no rows from this installation's runs."""
    return [grid] if ours else [grid, Absent(f"{grid.title}, of these models", reason)]


def format_number(value: float | None, decimals: int = 2) -> str:
    """Format a number; None as a dash."""
    return DASH if value is None else f"{value:,.{decimals}f}"


def format_interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """Format an interval; None as an empty text."""
    if low is None or high is None:
        return ""
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}"
