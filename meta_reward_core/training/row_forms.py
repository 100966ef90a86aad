"""What a row of a training looks like. Light: files of rows are read without loading torch."""

from typing import NotRequired, TypedDict

from meta_reward_core.engines.base import Message


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
