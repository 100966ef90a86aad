"""Read a file of prompts: text, JSON, JSON Lines, CSV, TSV or Parquet.

All interfaces read prompts through `read_prompts`. A row that is unusable as a prompt is listed
with its line and the reason; the user decides whether the other rows are used
(`PromptFile.require_good_rows`).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from meta_reward_core.data.file_io import read_source_bytes
from meta_reward_core.data.prompt_formats import (
    IndexedRow,
    PromptFormat,
    Row,
    UnreadableReason,
    detect_format,
    find_prompt_column,
    iter_json_lines,
    iter_rows,
)
from meta_reward_core.errors import PromptFileError
from meta_reward_core.storage.records import Prompt

TextReason = Literal["empty", "not_a_text", "no_user_turn", "null_byte", "lone_surrogate"]
RejectReason = TextReason | UnreadableReason

REJECT_TEXT: Final[dict[RejectReason, str]] = {
    "empty": "The prompt is empty.",
    "not_a_text": "The prompt is neither a string nor a list of messages.",
    "no_user_turn": "The messages contain no text from the user.",
    "null_byte": "The prompt contains a null byte, which databases reject.",
    "lone_surrogate": "The prompt contains half of a surrogate pair, which is not a character.",
    "not_utf8": "The row is not UTF-8 text; save the file as UTF-8.",
    "not_json": "The line is not valid JSON; write one JSON object on each line.",
    "not_an_object": 'The row is not a JSON object; write it as {"prompt": "..."}.',
    "no_prompt_column": "The row has no prompt column.",
    "bad_value": "Another column contains a value that cannot be stored; remove it.",
    "cells": (
        "The row does not have as many cells as the header; enclose cells with separators, "
        "quotes or line breaks in double quotes."
    ),
}

_SHOWN_REJECTS: Final = 10
_USER_ROLES: Final = frozenset({"user", "human", "prompter"})
_OTHER_ROLES: Final = frozenset(
    {"assistant", "gpt", "bot", "model", "chatgpt", "ai", "system", "developer", "tool", "function"}
)
_NO_PARENT: Final = frozenset({"", "none", "null", "nan", "na", "n/a"})
"""Texts that tables contain for a message without a parent."""

_FIRST_TURN: Final = re.compile(r"\s*(?:#{1,6} ?(?:human|user|prompter)|\n\nhuman):", re.IGNORECASE)
_NEXT_TURN: Final = re.compile(r"(?:#{1,6} ?|\n\n)(?:assistant|gpt|bot):", re.IGNORECASE)
"""Turns of a conversation in one text: `### Human: ... ### Assistant: ...`, or after blank lines.
"""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The contents of a prompt file.

    Attributes:
        prompts: the distinct prompts, in file order.
        duplicates: number of rows left out because an earlier row has the same text.
        rejected: pairs of a position and a reason. The position is the line in a text, JSON Lines
            or CSV file, or the row number, from 1, in a JSON array or Parquet file.
        extra: additional columns of each row, by prompt id; rows without such columns have no
            entry.
        held_out: number of prompts left out because they are reserved for evaluation.
        contaminated: number of prompts left out because they equal or nearly equal a prompt of
            `evaluation.tasks` or `development.tasks`; None if there are no such tasks.
        other_turns: number of rows that contain a message of a conversation other than the first
            user message.
        format: the format as which the file was read; None for prompts that were not read from a
            file.
    """

    prompts: list[Prompt]
    duplicates: int
    rejected: list[tuple[int, RejectReason]]
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_out: int = 0
    contaminated: int | None = None
    other_turns: int = 0
    format: PromptFormat | None = None

    @property
    def row_noun(self) -> Literal["line", "row"]:
        """Unit of the numbers in `rejected`."""
        return "row" if self.format in ("parquet", "json") else "line"

    def require_good_rows(self, name: str, *, skip: bool = False, option: str = "") -> None:
        """Refuse a file with rejected rows unless the user chose to skip them.

        Args:
            name: name of the file in messages.
            skip: whether the user chose to skip rejected rows.
            option: how the user can choose that, for the message; empty if there is no such option.

        Raises:
            PromptFileError: a row was rejected; the message lists the first rejected rows with
                their reasons.
        """
        if self.rejected and not skip:
            noun = "row" if len(self.rejected) == 1 else "rows"
            raise PromptFileError(
                f"{name}: {len(self.rejected):,} {noun} cannot be used as prompts: "
                f"{self.describe_rejected()} "
                + (f"Correct them, or skip them with {option}." if option else "Correct them.")
            )

    def describe_rejected(self, limit: int = _SHOWN_REJECTS) -> str:
        """Describe the first rejected rows with their reasons."""
        shown = [
            f"{self.row_noun} {number}: {REJECT_TEXT[reason]}"
            for number, reason in self.rejected[:limit]
        ]
        more = len(self.rejected) - len(shown)
        return " ".join([*shown, *([f"({more:,} more.)"] if more else [])])


def compute_prompt_id(text: str) -> str:
    """Return the SHA-256 of a prompt's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_prompts(
    path: str | Path, *, name: str | None = None, max_rows: int | None = None
) -> PromptFile:
    """Read all prompts of a file. The format is detected from the content, then from the suffix.

    Texts are kept exactly as written, without normalization, except that blank lines of a text file
    are ignored. In a conversation (a list of messages, an OpenAssistant tree or message row, or one
    text with `### Human:` and `### Assistant:`), the first user turn is the prompt, never an
    assistant's turn; its content may be a list of text parts. In rows with `instruction` and a
    non-empty `input` (Alpaca), the prompt consists of both.

    Args:
        path: path of the file.
        name: the user's name for the file, for messages and for its suffix; default: the path's
            name.
        max_rows: maximum number of rows, including blank and unreadable ones; None: no limit.

    Raises:
        PromptFileError: the file is missing, has an unknown format or too many rows, cannot be
            divided into rows, or contains no prompt; the message gives the file, the location and
            the remedy.
    """
    path = Path(path)
    name = name or path.name
    kind = detect_format(read_source_bytes(path, PromptFileError), name)
    found = _collect_prompts(iter_rows(path, kind, name, max_rows=max_rows), kind)
    if not found.prompts:
        raise PromptFileError(
            f"{name}: contains no prompt{_describe_rejections(found)}; add at least one."
        )
    return found


def read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Read the objects of a JSON Lines file with their line numbers; blank lines are skipped.

    Raises:
        PromptFileError: the file is missing, or a line is not UTF-8 or not one JSON object.
    """
    for number, row in iter_json_lines(read_source_bytes(path, PromptFileError)):
        if isinstance(row, str):
            raise PromptFileError(f"{path.name}, line {number}: {REJECT_TEXT[row]}")
        yield number, row


def _describe_rejections(found: PromptFile) -> str:
    if found.other_turns and not found.rejected:
        return f" (only {found.other_turns:,} later or assistant turns of conversations)"
    if not found.rejected:
        return ""
    return f" (all {len(found.rejected):,} rows were rejected: {found.describe_rejected(3)})"


def _collect_prompts(rows: Iterable[IndexedRow], kind: PromptFormat) -> PromptFile:
    """Collect the usable prompts of the rows without duplicates."""
    prompts: dict[str, Prompt] = {}
    extra: dict[str, dict[str, Any]] = {}
    rejected: list[tuple[int, RejectReason]] = []
    duplicates = other_turns = 0
    for number, row in rows:
        if isinstance(row, str):
            rejected.append((number, row))
            continue
        if _is_other_turn(row):
            other_turns += 1
            continue
        prompt = _parse_prompt(row)
        if isinstance(prompt, str):
            rejected.append((number, prompt))
        elif prompt.prompt_id in prompts:
            duplicates += 1
        else:
            prompts[prompt.prompt_id] = prompt
            if len(row) > 1:
                extra[prompt.prompt_id] = _select_extra(row)
    return PromptFile(
        list(prompts.values()),
        duplicates,
        rejected,
        extra,
        other_turns=other_turns,
        format=kind,
    )


def _is_other_turn(row: Row) -> bool:
    """Whether a row is a message of a conversation other than its first user message.

    OpenAssistant's flat files have one message per row, with its role and the id of its parent.
    """
    role = _fold_role(row.get("role"))
    if role is None or "text" not in row:
        return False
    parent = str(row.get("parent_id") or "").strip().lower()
    return role in _OTHER_ROLES or (role in _USER_ROLES and parent not in _NO_PARENT)


def _fold_role(role: object) -> str | None:
    return role.strip().lower() if isinstance(role, str) else None


def _parse_prompt(row: Row) -> Prompt | TextReason:
    """Return the prompt of a row, or why there is none."""
    column = find_prompt_column(row)
    text = row[column] if column else None
    if isinstance(text, dict) and "role" in text:  # the root of an OpenAssistant tree
        if _fold_role(text["role"]) not in _USER_ROLES:
            return "no_user_turn"
        text = text.get("text")
    elif column in ("messages", "conversations") or isinstance(text, list):
        text = _find_user_turn(text)
        if text is None:
            return "no_user_turn"
    if not isinstance(text, str):
        return "not_a_text"
    text = _take_first_turn(text)
    if column == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
        text = f"{text}\n\n{row['input']}"
    return find_reject_reason(text) or Prompt(compute_prompt_id(text), text)


def find_reject_reason(text: str) -> TextReason | None:
    """Return why a text cannot be stored and trained on; None if it can."""
    if not text.strip():
        return "empty"
    if "\x00" in text:
        return "null_byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "lone_surrogate"
    return None


def _take_first_turn(text: str) -> str:
    """Return the first user turn of a conversation in one text, or any other text unchanged."""
    first = _FIRST_TURN.match(text)
    following = _NEXT_TURN.search(text, first.end()) if first else None
    return text[first.end() : following.start()].strip() if first and following else text


def _find_user_turn(messages: object) -> str | None:
    """Return the content of the first user message if it is text."""
    for message in messages if isinstance(messages, list) else []:
        role = message.get("role", message.get("from")) if isinstance(message, dict) else None
        if _fold_role(role) in _USER_ROLES:
            content = message.get("content", message.get("value"))
            if isinstance(content, list):
                return _join_text_parts(content)
            return content if isinstance(content, str) else None
    return None


def _join_text_parts(parts: Sequence[object]) -> str | None:
    """Join the content of a message that is a list of texts; None if a part is something else."""
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        return None
    return "".join(map(str, texts))


def _select_extra(row: Row) -> dict[str, Any]:
    used = find_prompt_column(row)
    return {name: value for name, value in row.items() if name != used}
