"""Records that the steps of the method pass to each other, one frozen class per table.

Rows of the Parquet tables have the fields of these records; `docs/artifacts.md` explains them.
Results refer to what they describe by keys, never by position.
"""

from array import array
from dataclasses import dataclass
from typing import Literal, TypedDict

PairKind = Literal["actor", "judge"]
Verdict = Literal["A", "B", "tie"]

Readout = Literal["free", "forced", "expected", "reward_model"]
"""How a score or a verdict was produced. `free`: the model wrote it, and it was read from the text.
`forced`: the model was given the start of the line, and one of the allowed values was sampled.
`expected`: as forced, but the score is the probability-weighted mean of the allowed values.
`reward_model`: a reward model gave it; it has no scale and no text."""

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
    """A response of the actor, duplicates removed. `sample` is its index among the K.

    Attributes:
        token_ids: as sampled after the prompt, with the end token if it was sampled; None where
            the engine does not return them, and in records that were read from a table.
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
        finish_reason: why the justification ended; None in tables of before it was written.
        readout: how the score came about; None as well.
        probabilities: of the allowed scores; None unless the score was forced.
        token_ids: as in `Response`, tokens that were put there for the model included.
        injected_at: positions in `token_ids`, from 0, of tokens that the model did not draw.
        refusal: why the engine refused the prompt, if it did; kept in a table of its own, so None
            in records that were read from a table.
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
        valid: how many judgments carry a score.
        mean: their mean, absent when fewer than `min_valid_judgments` are valid.
        variance: their population variance (ddof 0), absent when the mean is.
        length_chars: characters of the response.
        length_tokens: tokens of the response.
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
        finish_reason: why the reply ended; None in tables of before it was written.
        readout: how the verdict came about; None as well.
        probabilities: of the allowed verdicts; None unless the verdict was forced.
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
        response_id: the response that was to be judged; None of the actor.
        replies: that are missing because of it.
        reason: of the engine.
    """

    prompt_id: str
    response_id: str | None
    replies: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rating:
    """The Elo rating of one judgment among those of the same response (centred, in nats)."""

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
