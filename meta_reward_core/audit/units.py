"""What can be audited: pairs of judgments that battled, and responses that were scored.

A pair is one item with both orders of the meta-judge; its `first` judgment is the one whose id
sorts first, whatever stood where.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.records import Battle, Judgment, Rating, ResponseScore, Verdict

Kind = Literal["judgments", "responses"]
Outcome = Literal["first", "second", "tie"]

FORWARD: Final[Mapping[Verdict, Outcome]] = {"A": "first", "B": "second", "tie": "tie"}
BACKWARD: Final[Mapping[Verdict, Outcome]] = {"A": "second", "B": "first", "tie": "tie"}

_FAR_POINTS: Final = 1.0
_CLOSE_VARIANCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two judgments of one response that the meta-judge compared.

    Attributes:
        forward: what won with `first` shown first; None if that order was not fought or not read.
        backward: what won with `second` shown first.
        elo_first, elo_second: ratings, where there are any.
        decided_pair: whether these two became a preference pair.
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
        """Names the pair in its iteration."""
        return f"{self.first.judgment_id} {self.second.judgment_id}"


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """A response with the judge's mean points, and whether it became part of a pair."""

    score: ResponseScore
    in_pair: bool

    @property
    def key(self) -> str:
        """Names the response in its iteration."""
        return self.score.response_id


@dataclass(frozen=True, slots=True)
class Unit:
    """An item of the population, as far as sampling looks at it.

    Attributes:
        strata: by strategy, the stratum that the item falls into.
        uncertainty: the larger, the less sure the judges were; compared, never added up.
    """

    key: str
    strata: Mapping[str, str]
    uncertainty: tuple[float, ...]


def find_pairs(
    battles: Iterable[Battle],
    judgments: Mapping[str, Judgment],
    ratings: Iterable[Rating],
    decided: Iterable[frozenset[str]],
) -> list[JudgedPair]:
    """Put both orders of each pair together, by key.

    Args:
        judgments: by id, those that battled.
        decided: judgment ids of each preference pair.
    """
    elo = {rating.judgment_id: rating.elo for rating in ratings}
    chosen = set(decided)
    outcomes: dict[tuple[str, str], dict[bool, Outcome | None]] = {}
    for battle in battles:
        first, second = sorted((battle.first_judgment_id, battle.second_judgment_id))
        is_forward = battle.first_judgment_id == first
        outcomes.setdefault((first, second), {})[is_forward] = _outcome(battle, is_forward)
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


def _outcome(battle: Battle, is_forward: bool) -> Outcome | None:  # noqa: FBT001
    if battle.verdict is None:
        return None
    return (FORWARD if is_forward else BACKWARD)[battle.verdict]


def score_gap(pair: JudgedPair) -> str:
    """Name how far apart the points of two judgments are."""
    if pair.first.score is None or pair.second.score is None:
        return "no score"
    gap = abs(pair.first.score - pair.second.score)
    if gap == 0:
        return "equal score"
    return "score gap up to 1" if gap <= _FAR_POINTS else "score gap above 1"


def certainty(pair: JudgedPair) -> str:
    """Name whether both orders of the meta-judge name the same outcome."""
    if pair.forward is None or pair.backward is None:
        return "one order readable, or none"
    return "orders agree" if pair.forward == pair.backward else "orders disagree"


def position(pair: JudgedPair) -> str:
    """Name what the place of a judgment did."""
    places = {
        ("first", "second"): "whatever was shown first",
        ("second", "first"): "whatever was shown second",
        ("first", "first"): "the same judgment",
        ("second", "second"): "the same judgment",
    }
    won = places.get((pair.forward or "", pair.backward or ""))
    return f"{won} won both orders" if won else "a tie, or an order not readable"


def describe_pairs(pairs: Iterable[JudgedPair]) -> list[Unit]:
    """Say for each pair into which stratum each strategy puts it."""
    listed = list(pairs)
    lengths = {pair.key: len(pair.first.text) + len(pair.second.text) for pair in listed}
    thirds = length_thirds(lengths)
    return [
        Unit(
            pair.key,
            {
                "score_gap": score_gap(pair),
                "certainty": certainty(pair),
                "position": position(pair),
                "length": thirds[pair.key],
                "decided": "decided a pair" if pair.decided_pair else "decided no pair",
            },
            _uncertainty(pair),
        )
        for pair in listed
    ]


def _uncertainty(pair: JudgedPair) -> tuple[float, ...]:
    """Orders that disagree, then ties and unreadable ones; among equals the smaller Elo gap."""
    steps = {"orders disagree": 2.0, "one order readable, or none": 1.0}
    gap = abs((pair.elo_first or 0.0) - (pair.elo_second or 0.0))
    return (steps.get(certainty(pair), 0.0) + (pair.forward == "tie"), -gap)


def describe_responses(responses: Iterable[ScoredResponse]) -> list[Unit]:
    """Say for each scored response into which stratum each strategy puts it."""
    listed = [response for response in responses if response.score.mean is not None]
    thirds = length_thirds({response.key: response.score.length_chars for response in listed})
    return [
        Unit(
            response.key,
            {
                "score": _points(response.score.mean or 0.0),
                "certainty": _spread(response.score.variance or 0.0),
                "length": thirds[response.key],
                "decided": "in a pair" if response.in_pair else "in no pair",
            },
            (response.score.variance or 0.0,),
        )
        for response in listed
    ]


def _points(mean: float) -> str:
    low = min(int(mean), 4)
    return f"judge's mean {low} to {low + 1}"


def _spread(variance: float) -> str:
    if variance == 0:
        return "judgments all alike"
    return "judgments close" if variance <= _CLOSE_VARIANCE else "judgments far apart"


def length_thirds(lengths: Mapping[str, int]) -> dict[str, str]:
    """Name for each key whether its length is in the lower, middle or upper third of all."""
    ordered = sorted(lengths.values())
    count = len(ordered)
    low, high = (ordered[count * third // 3] for third in (1, 2)) if ordered else (0, 0)
    return {key: _third(length, low, high) for key, length in lengths.items()}


def _third(length: int, low: int, high: int) -> str:
    if length < low:
        return "shortest third"
    return "middle third" if length < high else "longest third"
