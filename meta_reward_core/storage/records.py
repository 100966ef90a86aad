"""Records that the steps of the method pass to each other, one frozen class per table.

Rows of the Parquet tables have the fields of these records; `docs/artifacts.md` explains them.
Results refer to the records that they describe by key, never by position.
"""

from array import array
from dataclasses import dataclass
from typing import Literal, TypedDict

PairKind = Literal["actor", "judge"]
Verdict = Literal["A", "B", "tie"]

Readout = Literal["free", "forced", "expected", "reward_model"]
"""How a score or a verdict was produced. `free`: the model wrote it, and it was parsed.
`forced`: the model was given the start of the line, and one of the allowed values was sampled.
`expected`: as forced, but the score is the probability-weighted mean of the allowed values.
`reward_model`: a reward model produced the score; it has no scale and no text."""

ScoreReadout = Literal["free", "forced", "expected"]
"""How the score of a judge's text is produced."""


VerdictReadout = Literal["free", "forced"]
"""Readouts of a verdict, which has no mean."""


class ValueProbability(TypedDict):
    """An allowed value, as written, and its probability among all allowed values."""

    value: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt. `prompt_id` is the SHA-256 of its text, in hexadecimal."""

    prompt_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Response:
    """A response of the actor, after deduplication. `sample` is its index among the K responses.

    Attributes:
        token_ids: token ids as sampled after the prompt, with the end token if it was sampled; None
            if the engine does not return them, and in records that were read from a table.
    """

    prompt_id: str
    response_id: str
    sample: int
    text: str
    tokens: int
    finish_reason: str
    token_ids: "array[int] | None" = None


@dataclass(frozen=True, slots=True)
class Judgment:
    """A judgment of one response; `score` is None if none could be parsed.

    Attributes:
        finish_reason: why the justification ended; None in tables written before this column
            existed.
        readout: how the score was produced; None in the same tables.
        probabilities: probabilities of the allowed scores; None unless the score was forced.
        token_ids: as in `Response`, including the tokens that were inserted for the model.
        injected_at: positions in `token_ids`, from 0, of the tokens that the model did not sample.
        refusal: why the engine refused the prompt, if it did; stored in a separate table, and
            therefore None in records that were read from a table.
    """

    prompt_id: str
    response_id: str
    judgment_id: str
    sample: int
    text: str
    score: float | None
    unscored_reason: str | None
    tokens: int
    finish_reason: str | None = None
    readout: Readout | None = None
    probabilities: list[ValueProbability] | None = None
    token_ids: "array[int] | None" = None
    injected_at: "array[int] | None" = None
    refusal: str | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether the token limit cut off the text; such a judgment is never chosen."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class ResponseScore:
    """The judge's scores of one response, aggregated.

    Attributes:
        valid: number of judgments that have a score.
        mean: mean of these scores; None if fewer than `min_valid_judgments` are valid.
        variance: population variance (ddof 0) of these scores; None if the mean is None.
        length_chars: number of characters of the response.
        length_tokens: number of tokens of the response.
    """

    prompt_id: str
    response_id: str
    sample: int
    valid: int
    mean: float | None
    variance: float | None
    length_chars: int
    length_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Battle:
    """Two judgments shown to the meta-judge in one order; `verdict` is None if none was parsed.

    Attributes:
        finish_reason: why the reply ended; None in tables written before this column existed.
        readout: how the verdict was produced; None in the same tables.
        probabilities: probabilities of the allowed verdicts; None unless the verdict was forced.
        refusal: as in `Judgment`.
    """

    prompt_id: str
    response_id: str
    first_judgment_id: str
    second_judgment_id: str
    text: str
    verdict: Verdict | None
    unparsed_reason: str | None
    tokens: int
    finish_reason: str | None = None
    readout: Readout | None = None
    probabilities: list[ValueProbability] | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedPrompt:
    """A prompt that the engine refused in one role.

    Attributes:
        response_id: the response that was to be judged; None if the actor's engine refused the
            prompt.
        replies: number of replies that are missing because of the refusal.
        reason: the engine's reason.
    """

    prompt_id: str
    response_id: str | None
    replies: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rating:
    """The Elo rating of one judgment among those of the same response (centered, in nats)."""

    prompt_id: str
    response_id: str
    judgment_id: str
    elo: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A prompt without a pair of a kind, and the reason."""

    prompt_id: str
    kind: PairKind
    reason: str
