"""What answers to pairs of judgments say about the meta-judge, for the whole iteration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from meta_reward_core.audit.agreement import Array, weighted_kappa, weighted_share
from meta_reward_core.audit.estimates import (
    Design,
    Estimate,
    estimate_difference,
    estimate_like_share,
    estimate_share,
)
from meta_reward_core.audit.frames import Frame
from meta_reward_core.audit.units import Outcome

Human = Literal["first", "second", "tie", "neither"]
Winner = Literal["first", "second"]

OUTCOMES: Final = ("A", "B", "tie")
"""Rows and columns of a confusion matrix: A is the judgment that the meta-judge saw first."""

COIN: Final = 0.5
ONE_VERDICT_RIGHT: Final = (
    "orders disagree",
    "whatever was shown first won both orders",
    "whatever was shown second won both orders",
)
"""Groups in which one of two verdicts names people's winner whatever people say."""
_ENOUGH: Final = 20


@dataclass(frozen=True, slots=True)
class AuditedPair:
    """A pair of judgments with the meta-judge's two verdicts and a person's answer.

    Attributes:
        stratum: that it was drawn from.
        human: the answer; neither of two bad ones counts as a tie.
        forward, backward: the meta-judge's outcome with `first`, with `second` shown first.
        higher_score, longer, higher_elo: which judgment has more points, more text, the higher
            rating; None if alike or not known.
        shown_left: which one the person saw first.
        groups: from the name of a division to the group that the pair is in.
    """

    stratum: str
    human: Human
    forward: Outcome | None
    backward: Outcome | None
    higher_score: Winner | None
    longer: Winner | None
    higher_elo: Winner | None
    shown_left: Winner
    groups: Mapping[str, str]

    @property
    def outcome(self) -> Outcome:
        """The answer in the meta-judge's words."""
        return "tie" if self.human == "neither" else self.human

    @property
    def orders(self) -> list[tuple[Outcome, Winner]]:
        """For each readable order its outcome, and which judgment was shown first."""
        found: list[tuple[Outcome | None, Winner]] = [
            (self.forward, "first"),
            (self.backward, "second"),
        ]
        return [(outcome, shown) for outcome, shown in found if outcome is not None]


@dataclass(frozen=True, slots=True)
class Bias:
    """How often something wins: by the meta-judge's verdicts, and by people's answers."""

    name: str
    meta_judge: Estimate
    people: Estimate


@dataclass(frozen=True, slots=True)
class Group:
    """Agreement within one group of a division."""

    division: str
    name: str
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class PairFindings:
    """What a batch of pairs of judgments says.

    Attributes:
        agreement: share of readable verdicts, each order counted, that say what people say.
        agreement_decided: the same without people's and the meta-judge's ties.
        elo: share of pairs with a winner of people's whose higher rating is that winner's.
        confusion: share of verdicts by (people, meta-judge) over `OUTCOMES`; counted are the pairs
            that have such a verdict.
        coverage: share of the population in strata with any answer.
    """

    answers: int
    agreement: Estimate
    agreement_decided: Estimate
    elo: Estimate
    kappa: Estimate
    confusion: tuple[tuple[Estimate, ...], ...]
    biases: tuple[Bias, ...]
    groups: tuple[Group, ...]
    coverage: float | None
    sentences: tuple[str, ...]


def find_in_pairs(
    pairs: Sequence[AuditedPair], frame: Frame, *, confidence: float = 0.95
) -> PairFindings:
    """Estimate everything about the meta-judge from answered pairs."""
    design = frame.design(pair.stratum for pair in pairs)
    tables = np.array([_confusion(pair) for pair in pairs]).reshape(-1, 3, 3)
    share = _share_of(pairs, design, confidence)
    decided = estimate_decided_agreement(pairs, frame, confidence=confidence)
    elo = share(lambda pair: _answers_for(pair, pair.higher_elo))
    agreement = share(_verdicts_alike)
    groups = tuple(_groups(pairs, design, confidence))
    biases = tuple(_biases(share))
    return PairFindings(
        answers=len(pairs),
        agreement=agreement,
        agreement_decided=decided,
        elo=elo,
        kappa=_kappa(tables, design, agreement, confidence),
        confusion=_confusion_shares(tables, design, confidence),
        biases=biases,
        groups=groups,
        coverage=design.coverage,
        sentences=(
            *_pair_sentences(decided, groups),
            *_elo_sentences(elo),
            *_bias_sentences(biases),
        ),
    )


def estimate_decided_agreement(
    pairs: Sequence[AuditedPair], frame: Frame, *, confidence: float
) -> Estimate:
    """Estimate how often a verdict names the winner that people name, ties left out."""
    design = frame.design(pair.stratum for pair in pairs)
    agreed, counted = _decided_counts(pairs)
    return estimate_share(design, agreed, counted, confidence=confidence)


def _decided_counts(pairs: Iterable[AuditedPair]) -> tuple[list[float], list[float]]:
    agreed, counted = [], []
    for pair in pairs:
        decided = [won for won, _ in pair.orders if won != "tie" and pair.outcome != "tie"]
        agreed.append(float(sum(won == pair.outcome for won in decided)))
        counted.append(float(len(decided)))
    return agreed, counted


def _confusion(pair: AuditedPair) -> Array:
    """Count of a pair's orders by (people, meta-judge), shape [3, 3]."""
    table = np.zeros((3, 3))
    for outcome, shown in pair.orders:
        table[_by_place(pair.outcome, shown), _by_place(outcome, shown)] += 1
    return table


def _by_place(outcome: Outcome, shown_first: Winner) -> int:
    if outcome == "tie":
        return 2
    return 0 if outcome == shown_first else 1


def _kappa(tables: Array, design: Design, agreement: Estimate, confidence: float) -> Estimate:
    alike, whole = np.trace(tables, axis1=1, axis2=2), tables.sum(axis=(1, 2))
    return estimate_like_share(
        design,
        weighted_kappa(tables),
        share=agreement,
        share_figure=weighted_share(alike, whole),
        count=int(np.count_nonzero(whole)),
        confidence=confidence,
    )


def _confusion_shares(
    tables: Array, design: Design, confidence: float
) -> tuple[tuple[Estimate, ...], ...]:
    whole = tables.sum(axis=(1, 2))

    def cell(row: int, column: int) -> Estimate:
        part = tables[:, row, column]
        found = estimate_share(design, part, whole, confidence=confidence)
        return replace(found, count=int(np.count_nonzero(part)))

    places = range(len(OUTCOMES))
    return tuple(tuple(cell(row, column) for column in places) for row in places)


Says = Callable[[AuditedPair], tuple[float, float]]
"""What a pair adds to the part and to the whole of a share."""
Share = Callable[[Says], Estimate]


def _share_of(pairs: Sequence[AuditedPair], design: Design, confidence: float) -> Share:
    def share(says: Says) -> Estimate:
        counts = np.array([says(pair) for pair in pairs]).reshape(-1, 2)
        return estimate_share(design, counts[:, 0], counts[:, 1], confidence=confidence)

    return share


def _verdicts_alike(pair: AuditedPair) -> tuple[float, float]:
    orders = pair.orders
    return float(sum(outcome == pair.outcome for outcome, _ in orders)), float(len(orders))


def _biases(share: Share) -> Iterable[Bias]:
    yield Bias("the one shown first wins", share(_first_wins), share(_left_wins))
    yield Bias(
        "the higher score wins",
        share(lambda pair: _verdicts_for(pair, pair.higher_score)),
        share(lambda pair: _answers_for(pair, pair.higher_score)),
    )
    yield Bias(
        "the longer one wins",
        share(lambda pair: _verdicts_for(pair, pair.longer)),
        share(lambda pair: _answers_for(pair, pair.longer)),
    )


def _first_wins(pair: AuditedPair) -> tuple[float, float]:
    decided = [(won, shown) for won, shown in pair.orders if won != "tie"]
    return float(sum(won == shown for won, shown in decided)), float(len(decided))


def _left_wins(pair: AuditedPair) -> tuple[float, float]:
    return _answers_for(pair, pair.shown_left)


def _verdicts_for(pair: AuditedPair, what: Winner | None) -> tuple[float, float]:
    """Decided orders that `what` won, and decided orders; none if the two are alike."""
    decided = [won for won, _ in pair.orders if won != "tie"] if what else []
    return float(decided.count(what or "first")), float(len(decided))


def _answers_for(pair: AuditedPair, what: Winner | None) -> tuple[float, float]:
    if what is None or pair.outcome == "tie":
        return 0.0, 0.0
    return float(pair.outcome == what), 1.0


def _groups(pairs: Sequence[AuditedPair], design: Design, confidence: float) -> Iterable[Group]:
    agreed, counted = _decided_counts(pairs)
    names = sorted({(division, name) for pair in pairs for division, name in pair.groups.items()})
    for division, name in names:
        inside = [float(pair.groups.get(division) == name) for pair in pairs]
        yield Group(
            division,
            name,
            estimate_share(
                design,
                [a * i for a, i in zip(agreed, inside, strict=True)],
                [c * i for c, i in zip(counted, inside, strict=True)],
                confidence=confidence,
            ),
        )


def _pair_sentences(decided: Estimate, groups: Sequence[Group]) -> Iterable[str]:
    if decided.value is None or decided.low is None or decided.high is None:
        yield "No answer yet compares a winner of the meta-judge with one of people."
        return
    yield f"{compare_with_coin(decided)} over the whole iteration."
    for group in groups:
        found = group.agreement
        if group.name in ONE_VERDICT_RIGHT:
            continue
        if found.count >= _ENOUGH and found.low is not None and found.low <= COIN < decided.low:
            division = group.division.replace("_", " ")
            yield f"{compare_with_coin(found)} on pairs of this group: {group.name} ({division})."


def _elo_sentences(elo: Estimate) -> Iterable[str]:
    if elo.low is None or elo.high is None:
        return
    shown = f"{elo.value:.0%} ({elo.low:.0%} to {elo.high:.0%}, {elo.count} items)"
    if elo.low > COIN:
        yield f"Elo's order is better than a coin: it names people's winner in {shown}."
    elif elo.high < COIN:
        yield f"Elo's order is worse than a coin: it names people's winner in {shown}."
    else:
        yield f"The answers do not show that Elo's order is better than a coin: {shown}."


def _bias_sentences(biases: Sequence[Bias]) -> Iterable[str]:
    """Say where what wins by the meta-judge differs from what wins by people, beyond doubt."""
    for bias in biases:
        judge, people = bias.meta_judge, bias.people
        ends = (judge.low, judge.high, people.low, people.high)
        if min(judge.count, people.count) < _ENOUGH or any(end is None for end in ends):
            continue
        if (judge.low or 0.0) > (people.high or 0.0) or (judge.high or 0.0) < (people.low or 0.0):
            more = "more" if (judge.value or 0.0) > (people.value or 0.0) else "less"
            yield (
                f"{bias.name.capitalize()} {more} often by the meta-judge ({judge.value:.0%}) "
                f"than by people ({people.value:.0%})."
            )


def compare_with_coin(found: Estimate) -> str:
    """Say in words how a share of agreement compares with a coin's, without the full stop."""
    if found.value is None or found.low is None or found.high is None:
        return "There are too few answers to tell the meta-judge from a coin"
    shown = f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%}, {found.count} items)"
    if found.low > COIN:
        return f"The meta-judge is better than a coin: it names people's winner in {shown}"
    if found.high < COIN:
        return f"The meta-judge is worse than a coin: it names people's winner in {shown}"
    return (
        "The answers do not show that the meta-judge is better than a coin: "
        f"it names people's winner in {shown}"
    )


def compare_iterations(earlier: int, before: Estimate, later: int, after: Estimate) -> str:
    """Say in words how agreement changed between two audited iterations."""
    change = estimate_difference(before, after)
    if change.value is None or change.low is None or change.high is None:
        return f"There are too few answers to compare iterations {earlier} and {later}."
    between = f"{100 * change.low:+.0f} to {100 * change.high:+.0f} points"
    if change.low <= 0 <= change.high:
        return (
            f"The answers do not show that agreement changed from iteration {earlier} to {later} "
            f"({between})."
        )
    moved = "rose" if change.value > 0 else "fell"
    points = f"{100 * abs(change.value):.0f} points"
    return f"Agreement {moved} by {points} from iteration {earlier} to {later} ({between})."
