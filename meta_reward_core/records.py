"""What the steps of the method hand to each other, one frozen record per thing.

Rows of the Parquet tables have the fields of these records; `docs/artifacts.md` explains them.
Keys, never positions, tie an outcome to what it judged.
"""

from dataclasses import dataclass
from typing import Literal

PairKind = Literal["actor", "judge"]
Verdict = Literal["A", "B", "tie"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction. `prompt_id` is the sha256 of its text, in hexadecimal."""

    prompt_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Response:
    """What the actor answered, identical answers removed. `sample` is its index among the K."""

    prompt_id: str
    response_id: str
    sample: int
    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the judge wrote of one response; `score` is None when none could be read."""

    prompt_id: str
    response_id: str
    judgment_id: str
    sample: int
    text: str
    score: float | None
    unscored_reason: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class ResponseScore:
    """The judge's scores of one response, taken together.

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
    """Two judgments shown to the meta-judge in one order; `verdict` None was not readable."""

    prompt_id: str
    response_id: str
    first_judgment_id: str
    second_judgment_id: str
    text: str
    verdict: Verdict | None
    unparsed_reason: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Rating:
    """The Elo rating of one judgment among those of the same response (centred, in nats)."""

    prompt_id: str
    response_id: str
    judgment_id: str
    elo: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A prompt that gave no pair of a kind, and why."""

    prompt_id: str
    kind: PairKind
    reason: str
