"""Read evaluation and instruction fine-tuning data: JSON Lines to SFT rows.

EFT teaches the judge: its prompt is the judge's prompt, its response a justification with a score.
IFT teaches the actor. Both are rows of `{prompt, response}`, as `{prompt_text, response_text, ...}`
or, ready for TRL, as `{prompt, completion}`; each text may also be a list of messages. A column
`prompt_id` identifies the prompt to which a row of EFT data belongs, so that all judgments of
answers to this prompt stay on the same side of a validation split.

Source: arXiv 2401.10020, section 2.1 (seed data).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meta_reward_core.data.prompt_files import (
    RejectReason,
    compute_prompt_id,
    find_reject_reason,
    read_json_lines,
)
from meta_reward_core.data.prompt_filters import HeldOutPrompts
from meta_reward_core.data.prompt_formats import Row
from meta_reward_core.engines.base import Conversation, Message
from meta_reward_core.errors import PromptFileError
from meta_reward_core.training.row_types import SftRow

_COLUMN_NAMES = (("prompt", "response"), ("prompt_text", "response_text"), ("prompt", "completion"))


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A rejected row: its line from 1, the column at fault and the reason."""

    line: int
    column: str
    reason: RejectReason | Literal["held_out"]


@dataclass(frozen=True, slots=True)
class SftFile:
    """The rows of a fine-tuning file in order; the file's name is their kind."""

    rows: list[SftRow]
    rejected: list[RejectedRow]


def read_sft_rows(path: str | Path, *, held_out: HeldOutPrompts | None = None) -> SftFile:
    """Read EFT or IFT data from a JSON Lines file.

    Other columns (`language`, `quality_score`) are ignored: rows are not ranked here.

    Args:
        path: path of the file.
        held_out: prompts reserved for evaluation; a row is rejected if its prompt or its
            `prompt_id` is that of a held-out prompt.

    Raises:
        PromptFileError: the file is missing or malformed, a row has none of the known forms, or no
            row can be trained on; the message gives the file, the line and the remedy.
    """
    path = Path(path)
    found = SftFile(rows=[], rejected=[])
    for line, row in read_json_lines(path):
        outcome = _parse_row(
            line, row, *_find_columns(path, line, row), kind=path.stem, held_out=held_out
        )
        if isinstance(outcome, RejectedRow):
            found.rejected.append(outcome)
        else:
            found.rows.append(outcome)
    if not found.rows:
        raise PromptFileError(
            f"{path.name}: contains no row to train on ({len(found.rejected)} were rejected); "
            "add at least one."
        )
    return found


def _find_columns(path: Path, line: int, row: Row) -> tuple[str, str]:
    """Find the names of the prompt and the response column of a row."""
    for prompt, response in _COLUMN_NAMES:
        if prompt in row and response in row:
            return prompt, response
    forms = ", ".join(f"{prompt} + {response}" for prompt, response in _COLUMN_NAMES)
    raise PromptFileError(
        f"{path.name}, line {line}: has no prompt with its response "
        f"(found: {', '.join(row) or 'nothing'}); name the columns {forms}."
    )


def _parse_row(
    line: int, row: Row, prompt: str, response: str, *, kind: str, held_out: HeldOutPrompts | None
) -> SftRow | RejectedRow:
    """Parse a row for SFT, or return what is wrong with it."""
    messages = _parse_messages(row[prompt], "user")
    if isinstance(messages, str):
        return RejectedRow(line, prompt, messages)
    completion = _parse_messages(row[response], "assistant")
    if isinstance(completion, str):
        return RejectedRow(line, response, completion)
    text, named = messages[-1]["content"], row.get("prompt_id")
    if held_out is not None and (text in held_out or named in held_out.prompt_ids):
        return RejectedRow(line, prompt, "held_out")
    prompt_id = named if isinstance(named, str) and named else compute_prompt_id(text)
    return {"prompt": messages, "completion": completion, "kind": kind, "prompt_id": prompt_id}


def _parse_messages(
    value: object, role: Literal["user", "assistant"]
) -> Conversation | RejectReason:
    """Convert a text, or a list of messages that ends with a role, to messages."""
    messages = [{"role": role, "content": value}] if isinstance(value, str) else value
    if not isinstance(messages, list) or not messages:
        return "not_a_text"
    checked: Conversation = []
    for message in messages:
        if not _is_message(message):
            return "not_a_text"
        if (reason := find_reject_reason(message["content"])) is not None:
            return reason
        checked.append(Message(role=message["role"], content=message["content"]))
    if checked[-1]["role"] != role:
        return "no_user_turn" if role == "user" else "not_a_text"
    return checked


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in {"system", "user", "assistant"}
        and isinstance(value.get("content"), str)
    )
