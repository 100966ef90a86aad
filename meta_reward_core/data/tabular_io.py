"""Read the rows of an evaluation file, with precise errors.

Formats: a JSON array, JSON Lines, one JSON object of columns, or Parquet. Absent, null and NaN
values are missing; a missing value is never read as a number or an empty text.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from meta_reward_core.data.file_io import read_source_bytes, read_source_text, write_atomically
from meta_reward_core.errors import EvaluationFileError, MalformedInputError
from meta_reward_core.storage.schemas import read_parquet
from meta_reward_core.system.untrusted_input import parse_json

_MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class NumberedRow:
    """A row of a file and its position.

    Attributes:
        place: the file's name and the row's number or line, for messages.
        values: values by column.
    """

    place: str
    values: Mapping[str, Any]

    def refuse(self, problem: str) -> NoReturn:
        """Raise an error for this row; `problem` describes the cause and the remedy."""
        raise EvaluationFileError(f"{self.place}: {problem}")

    def read_optional_text(self, column: str) -> str | None:
        """Read a text; None if it is missing.

        Raises:
            EvaluationFileError: the value is not a text.
        """
        value = self.values.get(column)
        if is_missing(value):
            return None
        if not isinstance(value, str):
            self.refuse(f"{column} must be a string, not {format_for_message(value)}.")
        return value

    def read_text(self, column: str) -> str:
        """Read a required text, which can be empty.

        Raises:
            EvaluationFileError: the value is missing or not a text.
        """
        value = self.read_optional_text(column)
        if value is None:
            found = ", ".join(self.values) or "nothing"
            self.refuse(f"has no {column} (found: {found}); add it to every row.")
        return value

    def read_name(self, column: str) -> str:
        """Read a required name, which is a text or an integer, as a text."""
        value = self.values.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.read_text(column)

    def read_number(self, column: str) -> float | None:
        """Read a finite number; None if it is missing.

        Raises:
            EvaluationFileError: the value is not a finite number.
        """
        value = self.values.get(column)
        if is_missing(value):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
            self.refuse(f"{column} must be a number, not {format_for_message(value)}.")
        return float(value)


def is_missing(value: object) -> bool:
    """Whether a value is absent, null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_for_message(value: object) -> str:
    """Format a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def read_rows(path: str | Path) -> list[NumberedRow]:
    """Read all rows of a file: a JSON array, JSON Lines, one object of columns, or Parquet.

    Raises:
        EvaluationFileError: the file is missing, malformed or empty; the message gives the file,
            the row and the remedy.
    """
    path = Path(path)
    rows = list(_read_parquet(path) if path.suffix == ".parquet" else _read_json(path))
    if not rows:
        raise EvaluationFileError(
            f"{path.name}: contains no rows, so there is nothing to evaluate."
        )
    return rows


def read_csv(path: str | Path) -> list[NumberedRow]:
    """Read a CSV file with a header; all cells are texts.

    Raises:
        EvaluationFileError: the file is missing, malformed or empty.
    """
    path = Path(path)
    reader = csv.DictReader(
        io.StringIO(read_source_text(path, EvaluationFileError), newline=""), strict=True
    )
    try:
        rows = [NumberedRow(f"{path.name}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise EvaluationFileError(f"{path.name}: is not valid CSV ({error}).") from error
    if not rows:
        raise EvaluationFileError(f"{path.name}: contains no row below its header.")
    return rows


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    write_atomically(path, (f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _read_json(path: Path) -> Iterator[NumberedRow]:
    text = read_source_text(path, EvaluationFileError)
    opening = text.lstrip()[:1]
    if opening == "[":
        yield from _iter_array_rows(path, text)
    elif opening == "{" and isinstance(columns := _parse_whole_object(text), dict):
        yield from _iter_column_rows(path, columns)
    else:
        yield from _iter_line_rows(path, text)


def _iter_array_rows(path: Path, text: str) -> Iterator[NumberedRow]:
    for number, value in enumerate(_parse_json(path.name, text), start=1):
        place = f"{path.name}, row {number}"
        yield NumberedRow(place, _require_object(place, value))


def _iter_line_rows(path: Path, text: str) -> Iterator[NumberedRow]:
    # Not str.splitlines, which also splits at characters that can occur inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path.name}, line {number}"
            yield NumberedRow(place, _require_object(place, _parse_json(place, line)))


def _iter_column_rows(path: Path, columns: dict[str, Any]) -> Iterator[NumberedRow]:
    """Yield rows from an object of columns (lists of one length; scalars apply to every row).

    An object whose columns are not all lists of one length is one row.
    """
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    lengths = {len(column) for column in lists.values()}
    if "id" not in lists or len(lengths) != 1:
        yield NumberedRow(f"{path.name}, row 1", columns)
        return
    shared = {name: value for name, value in columns.items() if name not in lists}
    for number in range(lengths.pop()):
        row = {name: column[number] for name, column in lists.items()}
        yield NumberedRow(f"{path.name}, row {number + 1}", shared | row)


def _parse_whole_object(text: str) -> dict[str, Any] | None:
    """Parse a text that is one object; None for several lines of objects or invalid JSON."""
    try:
        value = parse_json(text, nan_is_null=True, unique_keys=True)
    except MalformedInputError:
        return None
    return value if isinstance(value, dict) else None


def _parse_json(place: str, text: str) -> Any:
    try:
        return parse_json(text, nan_is_null=True, unique_keys=True)
    except MalformedInputError as error:
        raise EvaluationFileError(
            f"{place}: {error}; write a JSON array of objects, or one object on each line."
        ) from error


def _require_object(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EvaluationFileError(
            f"{place}: must be a JSON object, not {format_for_message(value)}."
        )
    return value


def _read_parquet(path: Path) -> Iterator[NumberedRow]:
    try:
        rows = read_parquet(read_source_bytes(path, EvaluationFileError)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise EvaluationFileError(
            f"{path.name}: is not a readable Parquet file ({error}); write it again."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield NumberedRow(f"{path.name}, row {number}", row)
