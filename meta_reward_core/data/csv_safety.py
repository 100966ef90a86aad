r"""CSV that spreadsheets never interpret as formulas, whatever its cells contain.

A spreadsheet interprets a cell that begins with `=`, `+`, `-` or `@` as a formula, and a formula
can read other cells, fetch an address or start a program on the computer of the user who opens the
file. Models, auditors and imported files supply the texts of the tables, so no text is trusted.

A text can become a formula in three ways, and the guard prevents each:

- The cell begins with a formula sign, plain or full-width, possibly after invisible characters:
  blanks, control characters, a byte order mark, zero-width characters, or quotation marks.
- The cell begins with a tab or a line end, which some programs drop.
- The file is split at a character other than the comma. Excel splits by the separator of the
  computer's language, so `a,x;=1+1` becomes the cells `a,x` and `=1+1`; quotation marks do not
  help, because they count only at the beginning of a cell. So the guard treats the text after a
  comma, semicolon, bar, tab or line end like the beginning of a cell. A Markdown list in a CSV file
  therefore has an apostrophe on each line that begins with a dash.

The guard is an apostrophe before each such place, and before the cell. Numbers stay numbers.
`unguard_cell` restores the text. JSONL and Parquet need no guard and have none.

Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
import json
import re
from collections.abc import Iterable
from typing import Final

_GUARD: Final = "'"
_LINE_ENDS: Final = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"
_SEPARATORS: Final = ",;|\uff5c" + _LINE_ENDS

_SIGNS: Final = (
    "=\u207c\u208c\ufe66\uff1d\u2a75\u2a76"
    "+\u207a\u208a\ufb29\ufe62\uff0b"
    "\u207b\u208b\u2212\ufe63\uff0d\\-"
    "@\ufe6b\uff20"
    "|\uff5c"
)
"""Formula signs, and the characters that Unicode normalizes to them (NFKC)."""

_UNSEEN: Final = (
    '"\x00-\x08\x0e-\x1b\x1f\x20\x7f-\x84\x86-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5'
    "\u180b-\u180f\u2000-\u200f\u202a-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
)
"""Blanks, controls, format and default ignorable characters, and the quotation mark of CSV."""

_FORMULA: Final = f"{_GUARD}*+[{_UNSEEN}]*+[{_SIGNS}]"
_BEGINS: Final = re.compile(f"{_GUARD}|[{_UNSEEN}]*+[{_SIGNS}{_LINE_ENDS}]")
_INSIDE: Final = re.compile(f"([{_SEPARATORS}])(?={_FORMULA})")
_GUARDED_INSIDE: Final = re.compile(f"([{_SEPARATORS}]){_GUARD}(?={_FORMULA})")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def is_plain_number(text: str) -> bool:
    """Whether a text is only a decimal number, such as `-1.5` or `2e-05`."""
    return _NUMBER.fullmatch(text) is not None


def guard_cell(value: object) -> str:
    """Escape a value so that no spreadsheet evaluates it; numbers stay numbers.

    Lists and objects are written as JSON, None as an empty cell.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False)
        # only numbers are written without quotation marks
        return _guard_text(text) if '"' in text else text
    text = str(value)
    return text if is_plain_number(text) else _guard_text(text)


def unguard_cell(cell: str) -> str:
    """Undo `guard_cell`; other cells are unchanged."""
    text = cell.removeprefix(_GUARD)
    if text == cell or not _needs_guard(text):
        return cell
    return _GUARDED_INSIDE.sub(r"\1", text)


def format_csv(rows: Iterable[Iterable[object]], *, line_end: str = "\r\n") -> str:
    """Format rows as CSV with every cell escaped. All CSV output goes through this function."""
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator=line_end).writerows(map(guard_cell, row) for row in rows)
    return sink.getvalue()


def _guard_text(text: str) -> str:
    return _GUARD + _INSIDE.sub(rf"\1{_GUARD}", text) if _needs_guard(text) else text


def _needs_guard(text: str) -> bool:
    """Whether a spreadsheet could evaluate a text, or its apostrophe looks like an escape."""
    return bool(_BEGINS.match(text) or _INSIDE.search(text))
