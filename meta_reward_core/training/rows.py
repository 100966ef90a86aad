"""Rows of a training: measured before TRL sees them, so that none is cut or lost in silence."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from meta_reward_core.engines.base import Message
from meta_reward_core.engines.rendering import special_token_pattern
from meta_reward_core.errors import TrainingError
from meta_reward_core.training.row_forms import TrainingRow


class RefusedRow(NamedTuple):
    """A row that is not trained on, and why."""

    prompt_id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row and its token ids: of the prompt, and of prompt and reply for each of its replies."""

    row: TrainingRow
    prompt_ids: list[int]
    whole_ids: list[list[int]]


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Rows in = trained + held out + refused."""

    trained: list[EncodedRow]
    held_out: list[EncodedRow]
    refused: list[RefusedRow]


def sort_rows(
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    max_refused_share: float,
    validation_share: float,
) -> SortedRows:
    """Refuse what cannot be trained on and hold prompts out for validation.

    Raises:
        TrainingError: more than `max_refused_share` of the rows are refused, or none is left.
    """
    special = special_token_pattern(tokenizer)
    trained: list[EncodedRow] = []
    held_out: list[EncodedRow] = []
    refused: list[RefusedRow] = []
    for encoded in encode_rows(rows, tokenizer):
        row = encoded.row
        reason = find_refusal(encoded, special, max_length=max_length)
        if reason is not None:
            refused.append(RefusedRow(row["prompt_id"], row["kind"], reason))
        elif is_held_out(row["prompt_id"], share=validation_share):
            held_out.append(encoded)
        else:
            trained.append(encoded)
    _check_enough(rows, len(trained), refused, max_refused_share)
    return SortedRows(trained, held_out, refused)


def encode_rows(
    rows: Sequence[TrainingRow], tokenizer: PreTrainedTokenizerBase
) -> Iterator[EncodedRow]:
    """Yield each row with its token ids, as TRL would make them, all encoded in one call."""
    texts = [
        _render(tokenizer, messages, add_generation_prompt=not replied)
        for row in rows
        for replied, messages in enumerate([row["prompt"], *_dialogues(row)])
    ]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    for row in rows:
        yield EncodedRow(row, next(ids), [next(ids) for _ in _dialogues(row)])


def find_refusal(encoded: EncodedRow, special: re.Pattern[str], *, max_length: int) -> str | None:
    """Say why a row cannot be trained on; None where it can.

    Args:
        special: finds the text of a control token.
        max_length: of prompt and reply, in tokens.
    """
    messages = [message for turns in _dialogues(encoded.row) for message in turns]
    if any(special.search(message["content"]) for message in messages):
        return "control_token_in_text"
    prompt = encoded.prompt_ids
    if any(ids[: len(prompt)] != prompt for ids in encoded.whole_ids):
        return "prompt_is_no_prefix_of_the_row"
    if any(len(ids) == len(prompt) for ids in encoded.whole_ids):
        return "empty_completion"
    return "longer_than_max_length" if max(map(len, encoded.whole_ids)) > max_length else None


def is_held_out(prompt_id: str, *, share: float) -> bool:
    """Whether a prompt belongs to the validation set: the same in every run and iteration."""
    digest = hashlib.sha256(prompt_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def hash_rows(rows: Sequence[TrainingRow]) -> str:
    """A digest of the rows in their order; two trainings on equal rows share it."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(sorted(row.items())).encode() + b"\n")
    return total.hexdigest()


def _dialogues(row: TrainingRow) -> list[list[Message]]:
    """The prompt followed by each reply that the row holds."""
    values: dict[str, Any] = dict(row)
    replies = (values[name] for name in ("chosen", "rejected", "completion") if name in values)
    return [[*row["prompt"], *reply] for reply in replies]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    turns = [{"role": message["role"], "content": message["content"]} for message in messages]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return str(text)


def _check_enough(
    rows: Sequence[TrainingRow],
    trained: int,
    refused: Sequence[RefusedRow],
    max_refused_share: float,
) -> None:
    if len(refused) > max_refused_share * len(rows):
        raise TrainingError(
            f"{len(refused)} of {len(rows)} rows cannot be trained on, more than the allowed "
            f"share of {max_refused_share:g}: {_count(refused, rows)}."
        )
    if not trained:
        raise TrainingError(f"No row is left to train on, of {len(rows)} given.")


def _count(refused: Sequence[RefusedRow], rows: Sequence[TrainingRow]) -> str:
    """Refused rows by kind and reason, beside how many of the kind there were."""
    kinds = Counter(row["kind"] for row in rows)
    reasons = Counter((row.kind, row.reason) for row in refused)
    parts = (
        f"{count} of {kinds[kind]} {kind} rows {reason}"
        for (kind, reason), count in sorted(reasons.items())
    )
    return ", ".join(parts)
