"""Rows of a training: measured before TRL sees them, so that none is cut or lost in silence."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

from transformers import PreTrainedTokenizerBase

from meta_reward_core.engines.base import Message
from meta_reward_core.engines.rendering import special_token_pattern
from meta_reward_core.errors import TrainingError


class PreferenceRow(TypedDict):
    """A pair in TRL's conversational form; `kind` and `prompt_id` name it, the rest rides along."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: str
    prompt_id: str
    iteration: NotRequired[int]
    score_chosen: NotRequired[float]
    score_rejected: NotRequired[float]


class SftRow(TypedDict):
    """A prompt and the completion to be learned, in TRL's conversational form."""

    prompt: list[Message]
    completion: list[Message]
    kind: str
    prompt_id: str


TrainingRow = PreferenceRow | SftRow


class RefusedRow(NamedTuple):
    """A row that is not trained on, and why."""

    prompt_id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Rows in = trained + held out + refused."""

    trained: list[TrainingRow]
    held_out: list[TrainingRow]
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
    find_refusal = refusal_finder(tokenizer, max_length=max_length)
    trained: list[TrainingRow] = []
    held_out: list[TrainingRow] = []
    refused: list[RefusedRow] = []
    for row in rows:
        reason = find_refusal(row)
        if reason is not None:
            refused.append(RefusedRow(row["prompt_id"], row["kind"], reason))
        elif is_held_out(row["prompt_id"], share=validation_share):
            held_out.append(row)
        else:
            trained.append(row)
    _check_enough(rows, trained, refused, max_refused_share)
    return SortedRows(trained, held_out, refused)


def refusal_finder(
    tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Callable[[TrainingRow], str | None]:
    """A function that says why a row cannot be trained on, or None where it can."""
    special = special_token_pattern(tokenizer)

    def find_refusal(row: TrainingRow) -> str | None:
        prompt, completions = row["prompt"], list(_completions(row))
        messages = [*prompt, *(message for turns in completions for message in turns)]
        if any(special.search(message["content"]) for message in messages):
            return "control_token_in_text"
        prompt_ids = _token_ids(tokenizer, prompt, add_generation_prompt=True)
        whole = [_token_ids(tokenizer, [*prompt, *turns]) for turns in completions]
        if any(ids[: len(prompt_ids)] != prompt_ids for ids in whole):
            return "prompt_is_no_prefix_of_the_row"
        if any(len(ids) == len(prompt_ids) for ids in whole):
            return "empty_completion"
        return "longer_than_max_length" if max(map(len, whole)) > max_length else None

    return find_refusal


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


def _completions(row: TrainingRow) -> Iterator[list[Message]]:
    values: dict[str, Any] = dict(row)
    for column in ("chosen", "rejected", "completion"):
        if column in values:
            yield values[column]


def _token_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """Token ids as TRL makes them."""
    ids = tokenizer.apply_chat_template(
        [{"role": message["role"], "content": message["content"]} for message in messages],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=add_generation_prompt,
    )
    return list(ids)


def _check_enough(
    rows: Sequence[TrainingRow],
    trained: Sequence[TrainingRow],
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
