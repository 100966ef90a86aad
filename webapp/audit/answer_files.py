"""Imported files of answers: CSV, JSON or JSON Lines, read entry by entry.

An entry is a row in one of the formats of `answer_formats`. Entries that cannot be read are skipped
with a reason; the rest are read.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from meta_reward_core.data.csv_safety import unguard_cell
from meta_reward_core.errors import InputError, MalformedInputError
from meta_reward_core.system.untrusted_input import InputLimits, parse_json
from webapp.audit.answer_formats import (
    AnswerRow,
    Place,
    detect_format,
    explain_validation_error,
    parse_answer_row,
)

MAX_BYTES: Final = 20_000_000
MAX_ENTRIES: Final = 100_000

_ENTRY_LIMITS: Final = InputLimits(max_chars=MAX_BYTES, max_depth=32, max_nodes=100_000)
_JSON_PARTS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An answer or entry that is not imported.

    Attributes:
        where: line or entry of the file.
        item: its item's number; None if that cannot be read.
    """

    where: str
    item: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a file: an item and its answers.

    Attributes:
        names_item: whether it identifies the exact item that it answers, as our own exports do; a
            task of another tool may contain answers of several users, for the item and its
            repeats.
    """

    where: str
    place: Place
    names_item: bool
    answers: tuple[AnswerRow, ...]
    left_out: tuple[LeftOut, ...] = ()


def read_entries(name: str, content: bytes) -> Iterator[Entry | LeftOut]:
    """Read a file of answers: CSV if the file name ends in .csv, otherwise JSON or JSON Lines.

    Yields:
        One entry per row; for a row that cannot be read, the reason instead.

    Raises:
        InputError: the file as a whole is invalid: too large, not UTF-8, a CSV file
            without the required columns, or with too many entries.
    """
    for where, row in iter_rows(name, content, columns=("batch", "item")):
        yield LeftOut(where, None, row) if isinstance(row, str) else _read_entry(where, row)


# From bytes to rows. A string instead of a row is the reason why the row is missing.


def iter_rows(
    name: str, content: bytes, *, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Read the rows of a file: CSV if the file name ends in .csv, otherwise JSON or JSON Lines.

    Args:
        columns: required columns of a CSV file.

    Yields:
        The position of a row, and its values or the reason why they cannot be read.

    Raises:
        InputError: the file is too large, not UTF-8, has too many entries, or lacks a column.
    """
    for count, found in enumerate(_iter_rows(name, content, columns)):
        if count == MAX_ENTRIES:
            raise InputError(f"{name} has more than {MAX_ENTRIES:,} entries")
        yield found


def _iter_rows(name: str, content: bytes, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text") from error
    if name.lower().endswith(".csv"):
        return _iter_csv_rows(name, text, columns)
    if text.lstrip().startswith("["):
        return _iter_array_rows(text)
    return _iter_line_rows(text)


def _iter_csv_rows(name: str, text: str, required: Sequence[str]) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    where = "line 1"
    try:
        columns = _read_header(name, next(reader, []), required)
        where = f"line {reader.line_num + 1}"
        for cells in reader:
            if cells:
                yield where, _parse_csv_row(columns, cells)
            where = f"line {reader.line_num + 1}"
    except csv.Error as error:
        # The start of the next row is unknown, because a text may contain lines that look like
        # rows.
        yield where, f"cannot be read as CSV ({error}); nothing after it was read"


def _read_header(name: str, cells: Sequence[str], required: Sequence[str]) -> list[str]:
    columns = [unguard_cell(cell).strip() for cell in cells]
    for column in required:
        if columns.count(column) != 1:
            raise InputError(f"{name} must be comma-separated and have one column {column!r}")
    return columns


def _parse_csv_row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str] | str:
    if len(cells) > len(columns):
        return "has more cells than the header"
    return dict(zip(columns, map(unguard_cell, cells), strict=False))


def _iter_line_rows(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse_object(line)


def _iter_array_rows(text: str) -> Iterator[tuple[str, Any]]:
    for number, part in enumerate(_split_array(text), start=1):
        yield f"entry {number}", _parse_object(part)


def _parse_object(text: str) -> Any:
    try:
        row = parse_json(text, _ENTRY_LIMITS, leave_scalars=True)
    except MalformedInputError as error:
        # without the position, because reasons are counted by their text
        return str(error).partition(" (")[0]
    return row if isinstance(row, dict) else "is not an object"


def _split_array(text: str) -> Iterator[str]:
    """Split a JSON array into its entries without parsing them, so that each can fail alone."""
    depth, begin = 0, 0
    for part in _JSON_PARTS.finditer(text):
        sign = part[0]
        if sign in "[{":
            depth += 1
            begin = part.end() if depth == 1 else begin
        elif sign in "]}":
            depth -= 1
        if depth == 0 or (depth == 1 and sign == ","):
            if text[begin : part.start()].strip():
                yield text[begin : part.start()]
            begin = part.end()
        if depth == 0:
            break
    if text[begin:].strip():
        yield text[begin:]


# From rows to entries.


def _read_entry(where: str, row: Mapping[str, Any]) -> Entry | LeftOut:
    """Read a row: one answer in our files, possibly several in files of other tools."""
    item = None
    try:
        place_of, said, names_item = detect_format(row)
        place = Place.model_validate(place_of)
        item = place.item
        found = list(map(parse_answer_row, said))
    except ValidationError as error:
        return LeftOut(where, item, explain_validation_error(error))
    if not found:
        return LeftOut(where, item, "has no submitted answer")
    answers = tuple(one for one in found if isinstance(one, AnswerRow))
    left_out = tuple(LeftOut(where, item, one) for one in found if isinstance(one, str))
    return Entry(where, place, names_item, answers, left_out)
