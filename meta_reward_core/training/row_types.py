"""Types of training rows.

This module does not load torch, so that row files can be read quickly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict, TypeVar

from meta_reward_core.engines.base import Message
from meta_reward_core.models.reasoning import ReasoningPolicy


class SampledTokens(TypedDict):
    """The tokens of a completion that an engine sampled after the prompt.

    Attributes:
        token_ids: the ids, including the end token if one was sampled.
        finish_reason: why the completion ended, as in `Completion`; None if unknown.
        injected_at: positions in `token_ids` of tokens given to the model; excluded from the loss.
    """

    token_ids: list[int]
    finish_reason: str | None
    injected_at: NotRequired[list[int]]


class PreferenceRow(TypedDict):
    """A pair in TRL's conversational format with `kind` and `prompt_id`, plus further columns.

    Attributes:
        chosen_drawn: tokens of the chosen completion; without both, the rendered texts are
            trained on.
        rejected_drawn: likewise of the rejected one.
        reasoning: the policy under which the texts are what counts of the drawn completions;
            absent: `keep`.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: str
    prompt_id: str
    iteration: NotRequired[int]
    score_chosen: NotRequired[float]
    score_rejected: NotRequired[float]
    chosen_drawn: NotRequired[SampledTokens]
    rejected_drawn: NotRequired[SampledTokens]
    reasoning: NotRequired[ReasoningPolicy]


class SftRow(TypedDict):
    """A prompt and the completion to learn, in TRL's conversational format.

    Attributes:
        completion_drawn: tokens of the completion, where an engine drew it.
        reasoning: as in `PreferenceRow`.
    """

    prompt: list[Message]
    completion: list[Message]
    kind: str
    prompt_id: str
    completion_drawn: NotRequired[SampledTokens]
    reasoning: NotRequired[ReasoningPolicy]


@dataclass(frozen=True, slots=True)
class TokenSources:
    """Sources of the token ids of accepted rows.

    Attributes:
        sampled: rows that train on the tokens that an engine drew; the others are rendered.
        not_canonical: of these, rows whose tokens are others than the tokenizer makes of the
            same text.
        rewritten: of these, rows of which the chat template renders a text otherwise.
    """

    sampled: int = 0
    not_canonical: int = 0
    rewritten: int = 0


TrainingRow = PreferenceRow | SftRow
Row_co = TypeVar("Row_co", covariant=True)


class RowIterable(Protocol[Row_co]):
    """Ordered rows that can be iterated repeatedly and need not fit in memory."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Row_co]: ...
