"""Read a person's file of prompts: text, JSON lines, CSV or Parquet.

A file that is not what its name promises raises, with the line and what to do. A single row that
cannot serve as a prompt is left out and told, with its line and the reason.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from meta_reward_core.data.file_io import read_source_bytes, read_source_text
from meta_reward_core.errors import MalformedInputError, PromptFileError
from meta_reward_core.storage.records import Prompt
from meta_reward_core.storage.schemas import read_parquet
from meta_reward_core.untrusted_input import FILE_LIMITS, check_value, parse_json

PROMPT_COLUMNS: Final = ("prompt", "instruction", "text", "prompt_text", "messages")
"""Where a row's prompt is looked for; the first that is there counts."""

RejectReason = Literal["empty", "not_a_text", "no_user_turn", "null_byte", "lone_surrogate"]

REJECT_TEXT: Final[dict[RejectReason, str]] = {
    "empty": "The prompt is empty.",
    "not_a_text": "The prompt is neither a text nor a list of messages.",
    "no_user_turn": "The messages hold no text by the user.",
    "null_byte": "The prompt holds a null byte, which databases refuse.",
    "lone_surrogate": "The prompt holds half of a surrogate pair, which is not a character.",
}

Row = Mapping[str, Any]
IndexedRow = tuple[int, Row]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """What a file of prompts holds.

    Attributes:
        prompts: in the order of the file, each text once.
        duplicates: rows left out because the same text came before.
        rejected: (line of a text, JSON or CSV file, or row of a Parquet file, from 1; reason).
        extra: further columns of a row, by prompt id; only where there are any.
        held_out: prompts left out because they are kept for evaluation.
        contaminated: prompts left out because they equal or nearly equal a prompt of
            `evaluation.tasks`; None where there are no such tasks.
    """

    prompts: list[Prompt]
    duplicates: int
    rejected: list[tuple[int, RejectReason]]
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_out: int = 0
    contaminated: int | None = None


def compute_prompt_id(text: str) -> str:
    """The sha256 of a prompt's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_prompts(path: str | Path) -> PromptFile:
    """Read all prompts of a file; its suffix (.txt, .jsonl, .csv, .parquet) says how.

    Texts are kept exactly as they stand, without normalisation; only in a .txt file, where a
    line is a prompt, blank lines mean nothing. Of a list of messages the first user turn counts.
    Of rows with `instruction` and a non-empty `input` (Alpaca) both make the prompt.

    Raises:
        PromptFileError: the file is missing, malformed or holds no prompt; the message names the
            file, the line and what to do.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptFileError(
            f"{path.name}: the suffix {path.suffix or '(none)'} is unknown; "
            f"use one of {', '.join(_READERS)}."
        )
    found = _collect(reader(path))
    if not found.prompts:
        raise PromptFileError(
            f"{path.name}: holds no prompt{_describe_rejections(found)}; add at least one."
        )
    return found


def read_json_lines(path: Path) -> Iterator[IndexedRow]:
    """Objects of a JSON lines file with their line numbers; blank lines are passed over.

    Raises:
        PromptFileError: the file is not UTF-8 or a line is not one JSON object.
    """
    for number, line in enumerate(_iter_lines(path), start=1):
        if line.strip():
            yield number, _parse_json_object(path, number, line)


def _collect(rows: Iterable[IndexedRow]) -> PromptFile:
    """Prompts of the rows, without the ones that came before or cannot serve."""
    found = PromptFile(prompts=[], duplicates=0, rejected=[])
    seen: set[str] = set()
    duplicates = 0
    for number, row in rows:
        prompt = _parse_prompt(row)
        if not isinstance(prompt, Prompt):
            found.rejected.append((number, prompt))
            continue
        if prompt.prompt_id in seen:
            duplicates += 1
            continue
        seen.add(prompt.prompt_id)
        found.prompts.append(prompt)
        if extra := _select_extra(row):
            found.extra[prompt.prompt_id] = extra
    return PromptFile(found.prompts, duplicates, found.rejected, found.extra)


def _parse_prompt(row: Row) -> Prompt | RejectReason:
    """The prompt of a row, or why there is none."""
    column = _find_column(row)
    text = row[column] if column else None
    if column == "messages" or isinstance(text, list):
        text = _find_user_turn(text)
        if text is None:
            return "no_user_turn"
    if not isinstance(text, str):
        return "not_a_text"
    if column == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
        text = f"{text}\n\n{row['input']}"
    return find_reject_reason(text) or Prompt(compute_prompt_id(text), text)


def find_reject_reason(text: str) -> RejectReason | None:
    """Why a text cannot be stored and trained on; None when it can."""
    if not text.strip():
        return "empty"
    if "\x00" in text:
        return "null_byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "lone_surrogate"
    return None


def _find_user_turn(messages: object) -> str | None:
    """Content of the first user message, if it is a text."""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else None
    return None


def _find_column(row: Row) -> str | None:
    """The first known column that holds something; the first known one if none does."""
    known = [name for name in PROMPT_COLUMNS if name in row]
    return next((name for name in known if row[name] is not None), known[0] if known else None)


def _select_extra(row: Row) -> dict[str, Any]:
    used = _find_column(row)
    return {name: value for name, value in row.items() if name != used}


def _describe_rejections(found: PromptFile) -> str:
    if not found.rejected:
        return ""
    number, reason = found.rejected[0]
    return f" (all {len(found.rejected)} rows were rejected; row {number}: {REJECT_TEXT[reason]})"


def _iter_lines(path: Path) -> Iterator[str]:
    # Not str.splitlines: it also splits at characters that may stand inside a prompt.
    return (
        line.rstrip("\n")
        for line in io.StringIO(read_source_text(path, PromptFileError), newline=None)
    )


def _read_text_lines(path: Path) -> Iterator[IndexedRow]:
    for number, line in enumerate(_iter_lines(path), start=1):
        if line.strip():
            yield number, {"prompt": line}


def _read_json_prompts(path: Path) -> Iterator[IndexedRow]:
    for number, row in read_json_lines(path):
        if _find_column(row) is None:
            raise PromptFileError(f"{path.name}, line {number}: {_describe_missing_column(row)}")
        _check_extra_columns(path, number, row)
        yield number, row


def _check_extra_columns(path: Path, number: int, row: Row) -> None:
    """Refuse a value that no table can hold; a prompt that is none is rejected row by row."""
    for name, value in _select_extra(row).items():
        try:
            check_value([name, value], FILE_LIMITS)
        except MalformedInputError as error:
            raise PromptFileError(
                f"{path.name}, line {number}: the column {name!r:.80} {error}; leave it out."
            ) from error


def _parse_json_object(path: Path, number: int, line: str) -> Row:
    try:
        row = parse_json(line, nan_is_null=True, leave_scalars=True)
    except MalformedInputError as error:
        raise PromptFileError(
            f"{path.name}, line {number}: {error}; write one JSON object on each line."
        ) from error
    if not isinstance(row, dict):
        raise PromptFileError(
            f"{path.name}, line {number}: is a JSON {type(row).__name__}, not an object; "
            'write it as {"prompt": "..."}.'
        )
    return row


def _read_csv(path: Path) -> Iterator[IndexedRow]:
    text = read_source_text(path, PromptFileError)
    # The limit is one for the whole process and guards nothing here: raise it, never lower it.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval=None)
    try:
        if reader.fieldnames is not None and _find_column(dict.fromkeys(reader.fieldnames)) is None:
            raise PromptFileError(
                f"{path.name}, line 1: {_describe_missing_column(reader.fieldnames)}"
            )
        for row in reader:
            _check_cells(path, reader.line_num, row)
            yield reader.line_num, row
    except csv.Error as error:
        # The count stands at the last good row, so the bad one begins on the next line.
        raise PromptFileError(
            f"{path.name}, line {reader.line_num + 1}: is not valid CSV ({error}); "
            "put cells that hold commas, quotes or line breaks in double quotes."
        ) from error


def _check_cells(path: Path, number: int, row: dict[Any, Any]) -> None:
    """Refuse a row with more or fewer cells than the header has."""
    if None in row or None in row.values():
        raise PromptFileError(
            f"{path.name}, line {number}: has not as many cells as the header; "
            "put cells that hold commas, quotes or line breaks in double quotes."
        )


def _read_parquet(path: Path) -> Iterator[IndexedRow]:
    try:
        table = read_parquet(read_source_bytes(path, PromptFileError))
        if _find_column(dict.fromkeys(table.column_names)) is None:
            raise PromptFileError(f"{path.name}: {_describe_missing_column(table.column_names)}")
        yield from enumerate(table.to_pylist(), start=1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PromptFileError(
            f"{path.name}: is not a readable Parquet file ({error}); write it again."
        ) from error


def _describe_missing_column(names: Iterable[str]) -> str:
    found = ", ".join(names) or "none"
    return f"has no prompt (found: {found}); name the column {' or '.join(PROMPT_COLUMNS)}."


_READERS = {
    ".txt": _read_text_lines,
    ".jsonl": _read_json_prompts,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
