"""Detect the format of a prompt file, and read its rows one by one.

The content decides; the suffix only resolves ambiguous cases. An unreadable row is returned with
its reason, so that one bad line does not invalidate the file. A file whose rows cannot be separated
(an incomplete JSON array, a quoted cell that is never closed) raises an error.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pyarrow as pa

from meta_reward_core.data.file_io import read_source_bytes
from meta_reward_core.errors import MalformedInputError, PromptFileError
from meta_reward_core.storage.schemas import read_parquet
from meta_reward_core.system.untrusted_input import (
    FILE_LIMITS,
    InputLimits,
    check_value,
    parse_json,
)

PromptFormat = Literal["txt", "jsonl", "json", "csv", "tsv", "parquet"]
FORMATS: Final[tuple[PromptFormat, ...]] = get_args(PromptFormat)

PROMPT_COLUMNS: Final = (
    "prompt",
    "instruction",
    "text",
    "prompt_text",
    "messages",
    "conversations",
)
"""Columns that may contain the prompt; the first one that exists counts."""

UnreadableReason = Literal[
    "not_utf8", "not_json", "not_an_object", "no_prompt_column", "bad_value", "cells"
]

Row = Mapping[str, Any]
IndexedRow = tuple[int, Row | UnreadableReason]

_DELIMITERS: Final = ",;\t|"
_SAMPLE_CHARS: Final = 65_536
_SAMPLE_RECORDS: Final = 20
MAX_COLUMNS: Final = 1000
"""Maximum columns of a table, because a row with millions of cells uses gigabytes of memory."""
_LINES_PER_ROW: Final = 4
"""Maximum lines per row of a table or JSON file, including blank lines and lines within values."""
_VALUES_PER_ROW: Final = 5
_SEPARATOR_LINE: Final = re.compile(f'"?sep=([{re.escape(_DELIMITERS)}])"?\\r?\\n', re.IGNORECASE)
_JSON_OBJECT: Final = re.compile(r"\s*\{\s*[\"}]")
_JSON_ARRAY: Final = re.compile(r"\s*\[\s*(?:[{\"\[\]]|$)")
_WEB_PAGE: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html[\s>].*</html>)", re.IGNORECASE | re.DOTALL
)
_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\s")
_POINTERS: Final = {
    re.compile(
        rb"version https://(?:git-lfs\.github|hawser\.github)\.com/spec/"
    ): "a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned, or "
    "download the file",
    re.compile(
        rb"(?:\.\./)*(?:\.git)?/?annex/objects/\S+\s*\Z"
    ): "a git-annex pointer, not the file itself; run `git annex get` where it was cloned",
    re.compile(rb"# xet version \d"): "an Xet pointer, not the file itself; download the file",
    re.compile(
        rb"(?:md5: \w+\s+)?outs:\s*\n\s*- (?:md5|hash|etag|checksum): "
    ): "a DVC pointer, not the file itself; run `dvc pull` where it was cloned",
}
_COMPRESSED: Final = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
}
_WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_MAX_NULL_SHARE: Final = 0.05
"""With a larger share of null bytes a file is not text; with a smaller one, only the rows that
contain them are rejected.
"""


def detect_format(data: bytes, name: str) -> PromptFormat:
    """Detect the format of a prompt file.

    Args:
        data: the whole file.
        name: its name, for messages and for its suffix.

    Raises:
        PromptFileError: the format is unknown; the message describes what was found and the remedy.
    """
    suffix = Path(name).suffix.lower().lstrip(".")
    _refuse_other_files(data, name)
    if data.startswith(b"PAR1"):
        return "parquet"
    text = decode_leniently(data)
    start = text.lstrip()[:1]
    if start == "{" and (suffix != "txt" or _JSON_OBJECT.match(text)):
        return "json" if suffix == "json" and _is_one_object(text) else "jsonl"
    if start == "[" and suffix != "jsonl" and (suffix == "json" or _JSON_ARRAY.match(text)):
        return "json"
    if suffix == "jsonl":
        return "json" if start == "[" and _is_json(text) else "jsonl"
    if suffix in ("csv", "tsv"):
        return "tsv" if find_delimiter(text) == "\t" else "csv"
    if suffix == "json":
        return "json"
    return _detect_table(text, suffix) or "txt"


def _refuse_other_files(data: bytes, name: str) -> None:
    """Refuse files that cannot be prompt files, by their first bytes."""
    for pointer, what in _POINTERS.items():
        if pointer.match(data):
            raise PromptFileError(f"{name}: is {what}.")
    for magic, kind in _COMPRESSED.items():
        if data.startswith(magic):
            raise PromptFileError(
                f"{name}: is {kind}; unpack it or export it as one of {', '.join(FORMATS)}."
            )
    if _WEB_PAGE.match(data) or _XML.match(data):
        raise PromptFileError(
            f"{name}: is {'an XML document' if _XML.match(data) else 'a web page'}, not a file of "
            "prompts; download the file itself (on code hosting sites, its raw version)."
        )
    if data.startswith(_WIDE_MARKS):
        raise PromptFileError(f"{name}, line 1: is not UTF-8 text; save the file as UTF-8.")
    head = data[:_SAMPLE_CHARS]
    if head.count(0) > len(head) * _MAX_NULL_SHARE and not data.startswith(b"PAR1"):
        raise PromptFileError(
            f"{name}: is neither text nor Parquet; use one of {', '.join(FORMATS)}."
        )


def _detect_table(text: str, suffix: str) -> PromptFormat | None:
    """Detect CSV or TSV: the first line is a header with a known column; else None.

    A .txt file is a table only if most of its other lines have as many cells as the header: a
    prompt may be a list of words, one of which is "text".
    """
    delimiter = find_delimiter(text)
    sample = list(_iter_sample_records(_split_separator_line(text)[1], delimiter))
    if not sample or find_prompt_column(dict.fromkeys(_fold_names(sample[0]))) is None:
        return None
    if suffix == "txt":
        width, rows = len(sample[0]), sample[1:]
        fitting = sum(len(row) == width for row in rows)
        if width == 1 or (rows and 2 * fitting <= len(rows)):
            return None
    return "tsv" if delimiter == "\t" else "csv"


def _split_separator_line(text: str) -> tuple[str | None, str]:
    """Return the separator that Excel's first line `sep=;` states, if any, and the other lines."""
    stated = _SEPARATOR_LINE.match(text)
    return (stated[1], text[stated.end() :]) if stated else (None, text)


def _fold_names(cells: Sequence[str]) -> list[str]:
    """Write the names of known columns in lower case, as in `PROMPT_COLUMNS`."""
    return [cell.lower() if cell.lower() in PROMPT_COLUMNS else cell for cell in cells]


def _iter_sample_records(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the first non-blank records of a table; the last one can be incomplete."""
    reader = csv.reader(io.StringIO(text[:_SAMPLE_CHARS], newline=""), delimiter=delimiter)
    try:
        for row in itertools.islice(filter(None, reader), _SAMPLE_RECORDS):
            yield [cell.strip() for cell in row]
    except csv.Error:
        return


def find_delimiter(text: str) -> str:
    """Find the delimiter of a table: the one that produces a header with a known column.

    If none or several separators fit, Python's own detection decides from the first lines; for a
    table with one column, a comma is assumed.
    """
    stated, text = _split_separator_line(text)
    if stated is not None:
        return stated
    header = text[:_SAMPLE_CHARS].lstrip("\n\r").split("\n", 1)[0]
    fitting = [
        delimiter
        for delimiter in _DELIMITERS
        for cells in itertools.islice(_iter_sample_records(header, delimiter), 1)
        if len(cells) > 1 and find_prompt_column(dict.fromkeys(_fold_names(cells))) is not None
    ]
    if len(fitting) == 1:
        return fitting[0]
    if header.strip().strip('"').lower() in PROMPT_COLUMNS:
        return ","
    try:
        return csv.Sniffer().sniff(text[:_SAMPLE_CHARS], delimiters=_DELIMITERS).delimiter
    except csv.Error:
        return ","


def find_prompt_column(row: Row) -> str | None:
    """Find the first known column with content, else the first known column."""
    empty = None
    for name in PROMPT_COLUMNS:
        if name in row:
            if row[name] is not None:
                return name
            empty = empty or name
    return empty


def decode_leniently(data: bytes) -> str:
    """Decode UTF-8 without its byte order mark; each invalid byte becomes a lone surrogate.

    `has_wrong_bytes` finds them again, so that one wrong byte only invalidates one row.
    """
    return data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")


def has_wrong_bytes(text: str) -> bool:
    """Whether a text of `decode_leniently` contains bytes that were not UTF-8."""
    return any("\udc80" <= char <= "\udcff" for char in text) if not text.isascii() else False


_WRONG_BYTE: Final = "\ufdd0wrong byte\ufdd1"
"""Placeholder for a wrong byte; Unicode reserves its first and last code point."""


def _mark_wrong_bytes(text: str) -> str:
    """Replace the wrong bytes in a text of `decode_leniently` by a placeholder."""
    return re.sub("[\udc80-\udcff]", _WRONG_BYTE, text)


def iter_rows(
    path: Path, kind: PromptFormat, name: str, *, max_rows: int | None = None
) -> Iterator[IndexedRow]:
    """Yield the rows of a file with their line (text, JSON Lines, CSV) or number (JSON, Parquet).

    Args:
        path: path of the file.
        kind: format of the file, from `detect_format`.
        name: name of the file in messages.
        max_rows: maximum number of rows, including blank and unreadable ones; None: no limit.

    Raises:
        PromptFileError: the file cannot be read or divided into rows, or has too many rows.
    """
    data = read_source_bytes(path, PromptFileError)
    if max_rows is None:
        yield from _iter_all_rows(data, kind, name, FILE_LIMITS)
        return
    limits = replace(FILE_LIMITS, max_nodes=max_rows * _VALUES_PER_ROW)
    lines = 0 if kind == "parquet" else max(data.count(b"\n"), data.count(b"\r"))
    if lines <= max_rows * (1 if kind in ("txt", "jsonl") else _LINES_PER_ROW):
        rows = _iter_all_rows(data, kind, name, limits)
        yield from itertools.islice(rows, max_rows)
        if next(rows, None) is None:
            return
    most = f"{max_rows:,} rows or {max_rows * _LINES_PER_ROW:,} lines"
    raise PromptFileError(f"{name}: has more than {most}; split the file.")


def _iter_all_rows(
    data: bytes, kind: PromptFormat, name: str, limits: InputLimits
) -> Iterator[IndexedRow]:
    if kind == "parquet":
        yield from _iter_parquet_rows(data, name)
        return
    text = decode_leniently(data)
    if kind == "txt":
        yield from _iter_text_rows(text)
    elif kind == "jsonl":
        for number, row in iter_json_lines(data):
            yield number, _require_column(row)
    elif kind == "json":
        yield from _iter_json_rows(text, name, limits)
    else:
        yield from _iter_csv_rows(text, name, "\t" if kind == "tsv" else find_delimiter(text))


def _iter_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines. Not str.splitlines, which also splits within prompts."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line.rstrip("\n")


def _iter_text_rows(text: str) -> Iterator[IndexedRow]:
    for number, line in _iter_lines(text):
        yield number, "not_utf8" if has_wrong_bytes(line) else {"prompt": line}


def iter_json_lines(data: bytes) -> Iterator[IndexedRow]:
    """Yield the objects of a JSON Lines file, with any keys; blank lines are skipped."""
    for number, line in _iter_lines(decode_leniently(data)):
        yield number, "not_utf8" if has_wrong_bytes(line) else _parse_json_row(line)


def _parse_json_row(line: str) -> Row | UnreadableReason:
    try:
        value = parse_json(line, nan_is_null=True, leave_scalars=True)
    except MalformedInputError:
        return "not_json"
    return value if isinstance(value, dict) else "not_an_object"


def _require_column(row: Row | UnreadableReason) -> Row | UnreadableReason:
    if isinstance(row, str):
        return row
    used = find_prompt_column(row)
    if used is None:
        return "no_prompt_column"
    try:
        check_value({name: value for name, value in row.items() if name != used}, FILE_LIMITS)
    except MalformedInputError:
        return "bad_value"
    return row


def _iter_json_rows(text: str, name: str, limits: InputLimits) -> Iterator[IndexedRow]:
    """Yield the elements of a JSON array (objects or texts), or the single object of a file.

    The elements are parsed with a placeholder for each wrong byte, so that only theirs are wrong.
    """
    wrong = has_wrong_bytes(text)
    if wrong:
        text = _mark_wrong_bytes(text)
    try:
        value = parse_json(text, limits, nan_is_null=True, leave_scalars=True)
    except MalformedInputError as error:
        raise PromptFileError(f"{name}: {_describe_json_error(text, error)}") from error
    for number, element in enumerate(value if isinstance(value, list) else [value], start=1):
        if wrong and _WRONG_BYTE in json.dumps(element, ensure_ascii=False):
            yield number, "not_utf8"
            continue
        row = {"prompt": element} if isinstance(element, str) else element
        yield number, _require_column(row) if isinstance(row, dict) else "not_an_object"


def _describe_json_error(text: str, problem: MalformedInputError) -> str:
    error = problem.__context__
    if not isinstance(error, json.JSONDecodeError):
        return f"{problem}; write an array of objects, or one object on each line."
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return (
            f"the JSON is incomplete: it ends at line "
            f"{text.count(chr(10), 0, len(text.rstrip())) + 1}. Download or export the file again."
        )
    return (
        f"line {error.lineno}: is not valid JSON ({error.msg}); write an array of objects, or one "
        "object on each line."
    )


def _is_json(text: str) -> bool:
    try:
        parse_json(text, leave_scalars=True)
    except MalformedInputError:
        return False
    return True


def _is_one_object(text: str) -> bool:
    """Whether a file is one object over several lines instead of one object per line."""
    return _is_json(text)


def _iter_csv_rows(text: str, name: str, delimiter: str) -> Iterator[IndexedRow]:
    # The limit applies to the whole process and protects nothing here, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    stated, text = _split_separator_line(text)
    skipped = int(stated is not None)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header: Sequence[str] | None = None
    while True:
        first = reader.line_num + skipped + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise PromptFileError(
                    f"{name}, line {first}: a quoted cell is never closed; close it with a double "
                    'quote, and write a quote inside a cell as "".'
                ) from error
            for line in range(first, reader.line_num + skipped + 1):
                yield line, "cells"
            continue
        if cells is None:
            return
        is_blank = not any(cell.strip() for cell in cells)
        if not cells or (is_blank and (header is None or len(cells) > 1)):
            continue
        if header is None:
            header = _fold_names([cell.strip() for cell in cells])
            _require_few_columns(len(header), name)
            _require_prompt_column(header, f"{name}, line {first}")
            _require_one_prompt_column(header, f"{name}, line {first}")
            continue
        yield first, _make_row(header, cells)


def _make_row(header: Sequence[str], cells: Sequence[str]) -> Row | UnreadableReason:
    if len(cells) != len(header):
        return "cells"
    if any(has_wrong_bytes(cell) for cell in cells):
        return "not_utf8"
    return dict(zip(header, cells, strict=True))


def _iter_parquet_rows(data: bytes, name: str) -> Iterator[IndexedRow]:
    try:
        table = read_parquet(data)
        _require_few_columns(table.num_columns, name)
        _require_prompt_column(table.column_names, name)
        yield from enumerate(table.to_pylist(), start=1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PromptFileError(
            f"{name}: is not a readable Parquet file ({error}); export it again."
        ) from error


def _require_few_columns(count: int, name: str) -> None:
    if count > MAX_COLUMNS:
        raise PromptFileError(
            f"{name}: has {count:,} columns, more than {MAX_COLUMNS:,}; keep only the column of "
            "prompts."
        )


def _require_prompt_column(names: Iterable[str], place: str) -> None:
    if find_prompt_column(dict.fromkeys(names)) is None:
        found = ", ".join(names) or "none"
        raise PromptFileError(
            f"{place}: has no prompt column (found: {found}); name the column "
            f"{' or '.join(PROMPT_COLUMNS)}."
        )


def _require_one_prompt_column(names: Sequence[str], place: str) -> None:
    used = find_prompt_column(dict.fromkeys(names))
    if used is not None and names.count(used) > 1:
        raise PromptFileError(
            f"{place}: has {names.count(used)} columns named {used}; rename those that are not the "
            "prompt."
        )
