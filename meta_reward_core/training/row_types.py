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
        chosen_drawn: sampled tokens of the chosen completion. If they are missing for either
            completion, the rendered texts are used for training.
        rejected_drawn: sampled tokens of the rejected completion.
        reasoning: the reasoning policy that determines which part of the sampled completions the
            texts contain; absent: `keep`.
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
        completion_drawn: tokens of the completion, if an engine sampled it.
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
        sampled: number of rows that train on tokens sampled by an engine; other rows are rendered.
        not_canonical: number of these rows whose tokens differ from the tokenization of the same
            text.
        rewritten: number of these rows whose text the chat template renders differently.
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
