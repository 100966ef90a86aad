"""Units of sampling: pairs of judgments that battled, and scored responses.

A pair is one item with both orders of the meta-judge; its `first` judgment is the one whose id
sorts first, regardless of positions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.storage.records import Battle, Judgment, Rating, ResponseScore, Verdict

UnitKind = Literal["judgments", "responses"]
Outcome = Literal["first", "second", "tie"]

FORWARD_OUTCOMES: Final[Mapping[Verdict, Outcome]] = {"A": "first", "B": "second", "tie": "tie"}
BACKWARD_OUTCOMES: Final[Mapping[Verdict, Outcome]] = {"A": "second", "B": "first", "tie": "tie"}

_MAX_SMALL_SCORE_GAP: Final = 1.0
_MAX_CLOSE_VARIANCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two judgments of one response that the meta-judge compared.

    Attributes:
        forward: outcome with `first` shown first; None if that battle did not run or has no
            readable verdict.
        backward: outcome with `second` shown first; None as for `forward`.
        elo_first, elo_second: Elo ratings, if any.
        decided_pair: whether these two judgments became a preference pair.
    """

    first: Judgment
    second: Judgment
    forward: Outcome | None
    backward: Outcome | None
    elo_first: float | None
    elo_second: float | None
    decided_pair: bool

    @property
    def key(self) -> str:
        """Key of the pair in its iteration."""
        return f"{self.first.judgment_id} {self.second.judgment_id}"


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """A response with the judge's mean score, and whether it is in a pair."""

    score: ResponseScore
    in_pair: bool

    @property
    def key(self) -> str:
        """Key of the response in its iteration."""
        return self.score.response_id


@dataclass(frozen=True, slots=True)
class SamplingUnit:
    """A population item with its data for sampling.

    Attributes:
        strata: stratum of the item, by strategy.
        uncertainty: sort key; larger values mean that the judges were less certain.
    """

    key: str
    strata: Mapping[str, str]
    uncertainty: tuple[float, ...]


def build_judged_pairs(
    battles: Iterable[Battle],
    judgments: Mapping[str, Judgment],
    ratings: Iterable[Rating],
    decided: Iterable[frozenset[str]],
) -> list[JudgedPair]:
    """Combine both orders of each pair, ordered by key.

    Args:
        judgments: the judgments that battled, by id.
        decided: judgment ids of each preference pair.
    """
    elo = {rating.judgment_id: rating.elo for rating in ratings}
    chosen = set(decided)
    outcomes: dict[tuple[str, str], dict[bool, Outcome | None]] = {}
    for battle in battles:
        first, second = sorted((battle.first_judgment_id, battle.second_judgment_id))
        is_forward = battle.first_judgment_id == first
        outcomes.setdefault((first, second), {})[is_forward] = _to_outcome(battle, is_forward)
    return [
        JudgedPair(
            judgments[first],
            judgments[second],
            orders.get(True),
            orders.get(False),
            elo.get(first),
            elo.get(second),
            frozenset((first, second)) in chosen,
        )
        for (first, second), orders in sorted(outcomes.items())
    ]


def _to_outcome(battle: Battle, is_forward: bool) -> Outcome | None:  # noqa: FBT001
    if battle.verdict is None:
        return None
    return (FORWARD_OUTCOMES if is_forward else BACKWARD_OUTCOMES)[battle.verdict]


def classify_score_gap(pair: JudgedPair) -> str:
    """Classify the gap between the scores of two judgments."""
    if pair.first.score is None or pair.second.score is None:
        return "no score"
    gap = abs(pair.first.score - pair.second.score)
    if gap == 0:
        return "equal score"
    return "score gap up to 1" if gap <= _MAX_SMALL_SCORE_GAP else "score gap above 1"


def classify_certainty(pair: JudgedPair) -> str:
    """Classify whether both orders of the meta-judge agree."""
    if pair.forward is None or pair.backward is None:
        return "one order readable, or none"
    return "orders agree" if pair.forward == pair.backward else "orders disagree"


def classify_position(pair: JudgedPair) -> str:
    """Classify the effect of position."""
    positions = {
        ("first", "second"): "the judgment shown first",
        ("second", "first"): "the judgment shown second",
        ("first", "first"): "the same judgment",
        ("second", "second"): "the same judgment",
    }
    won = positions.get((pair.forward or "", pair.backward or ""))
    return f"{won} won both orders" if won else "a tie, or an order not readable"


def build_pair_units(pairs: Iterable[JudgedPair]) -> list[SamplingUnit]:
    """Assign each pair to its stratum of each strategy."""
    listed = list(pairs)
    lengths = {pair.key: len(pair.first.text) + len(pair.second.text) for pair in listed}
    thirds = classify_lengths(lengths)
    return [
        SamplingUnit(
            pair.key,
            {
                "score_gap": classify_score_gap(pair),
                "certainty": classify_certainty(pair),
                "position": classify_position(pair),
                "length": thirds[pair.key],
                "decided": "decided a pair" if pair.decided_pair else "decided no pair",
            },
            _compute_uncertainty(pair),
        )
        for pair in listed
    ]


def _compute_uncertainty(pair: JudgedPair) -> tuple[float, ...]:
    """Rank pairs with disagreeing orders first, then ties and unreadable verdicts, then Elo gap."""
    steps = {"orders disagree": 2.0, "one order readable, or none": 1.0}
    gap = abs((pair.elo_first or 0.0) - (pair.elo_second or 0.0))
    return (steps.get(classify_certainty(pair), 0.0) + (pair.forward == "tie"), -gap)


def build_response_units(responses: Iterable[ScoredResponse]) -> list[SamplingUnit]:
    """Assign each scored response to its stratum of each strategy."""
    listed = [response for response in responses if response.score.mean is not None]
    thirds = classify_lengths({response.key: response.score.length_chars for response in listed})
    return [
        SamplingUnit(
            response.key,
            {
                "score": _classify_mean_score(response.score.mean or 0.0),
                "certainty": _classify_variance(response.score.variance or 0.0),
                "length": thirds[response.key],
                "decided": "in a pair" if response.in_pair else "in no pair",
            },
            (response.score.variance or 0.0,),
        )
        for response in listed
    ]


def _classify_mean_score(mean: float) -> str:
    low = min(int(mean), 4)
    return f"judge's mean {low} to {low + 1}"


def _classify_variance(variance: float) -> str:
    if variance == 0:
        return "judgments all alike"
    return "judgments close" if variance <= _MAX_CLOSE_VARIANCE else "judgments far apart"


def classify_lengths(lengths: Mapping[str, int]) -> dict[str, str]:
    """Classify each length into the lower, middle or upper third."""
    ordered = sorted(lengths.values())
    count = len(ordered)
    low, high = (ordered[count * third // 3] for third in (1, 2)) if ordered else (0, 0)
    return {key: _classify_length(length, low, high) for key, length in lengths.items()}


def _classify_length(length: int, low: int, high: int) -> str:
    if length < low:
        return "shortest third"
    return "middle third" if length < high else "longest third"
