"""Schema of a scorecard in JSON."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from meta_reward_core.errors import ArtifactError, MalformedInputError
from meta_reward_core.system.untrusted_input import parse_json

ScorecardDict = dict[str, Any]
ReferenceKind = Literal["model", "humans"]


class _Stored(BaseModel):
    """Values read from a file; others are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _StoredMetric(_Stored):
    name: str
    value: float | None
    count: int
    low: float | None = None
    high: float | None = None
    absent: str | None = None


class _StoredIssue(_Stored):
    name: str
    sentence: str
    advice: str


class _StoredScorecard(_Stored):
    """Schema of a scorecard file, which can also have leaderboard columns."""

    benchmark: str
    model: str | None = None
    baseline: str | None = None
    judge: str | None = None
    reference: ReferenceKind | None = None
    figures: list[_StoredMetric]
    findings: list[_StoredIssue] | None = None


_ABSENT_PARTS: Final = {"low": None, "high": None, "absent": None}


def parse_scorecard(content: bytes | str, *, place: str) -> ScorecardDict:
    """Parse a scorecard from JSON.

    Args:
        place: location of the file, for messages.

    Raises:
        ArtifactError: the content is not a scorecard.
    """
    try:
        card: ScorecardDict = parse_json(content)
        _StoredScorecard.model_validate(card)
    except (MalformedInputError, ValidationError) as error:
        raise ArtifactError(
            f"{place} is not a scorecard ({_explain(error)}): remove it, or evaluate again"
        ) from error
    figures = [_ABSENT_PARTS | metric for metric in card["figures"]]
    return card | {"figures": figures, "findings": card.get("findings") or []}


def _explain(error: MalformedInputError | ValidationError) -> str:
    if isinstance(error, MalformedInputError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
