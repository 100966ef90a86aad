"""What the answers of a batch say about the meta-judge and the judge, for the whole iteration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from meta_reward_core.audit.agreement import (
    cohen_kappa,
    krippendorff_alpha,
    weighted_kendall,
    weighted_spearman,
)
from meta_reward_core.audit.estimates import (
    Array,
    Design,
    Estimate,
    estimate_figure,
    estimate_mean,
    estimate_plain_share,
    estimate_share,
)
from meta_reward_core.audit.units import Outcome

Human = Literal["first", "second", "tie", "neither"]
Winner = Literal["first", "second"]

OUTCOMES: Final = ("A", "B", "tie")
"""Rows and columns of a confusion matrix: A is the judgment that the meta-judge saw first."""

COIN: Final = 0.5
_ENOUGH: Final = 20


@dataclass(frozen=True, slots=True)
class AuditedPair:
    """A pair of judgments with the meta-judge's two verdicts and a person's answer.

    Attributes:
        stratum: that it was drawn from.
        human: the answer; neither of two bad ones counts as a tie.
        forward, backward: the meta-judge's outcome with `first`, with `second` shown first.
        higher_score, longer: which judgment has more points, more text; None if alike.
        shown_left: which one the person saw first.
        groups: from the name of a division to the group that the pair is in.
    """

    stratum: str
    human: Human
    forward: Outcome | None
    backward: Outcome | None
    higher_score: Winner | None
    longer: Winner | None
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
class Consistency:
    """What repeats say about the auditors themselves.

    Attributes:
        same: share of items to which the same auditor gave the same answer again.
        other: share of items to which another auditor gave the same answer.
        alpha: Krippendorff's, over items that several auditors answered.
        alpha_units: how many those are.
    """

    same: Estimate
    other: Estimate
    alpha: float | None
    alpha_units: int


@dataclass(frozen=True, slots=True)
class PairFindings:
    """What a batch of pairs of judgments says.

    Attributes:
        agreement: share of readable verdicts, each order counted, that say what people say.
        agreement_decided: the same without people's and the meta-judge's ties.
        confusion: weighted share of verdicts by (people, meta-judge) over `OUTCOMES`.
        coverage: share of the population in strata with any answer.
    """

    answers: int
    agreement: Estimate
    agreement_decided: Estimate
    kappa: Estimate
    confusion: tuple[tuple[float, ...], ...]
    biases: tuple[Bias, ...]
    groups: tuple[Group, ...]
    coverage: float | None
    sentences: tuple[str, ...]


def find_in_pairs(
    pairs: Sequence[AuditedPair], sizes: Mapping[str, int], *, confidence: float = 0.95
) -> PairFindings:
    """Estimate everything about the meta-judge from answered pairs.

    Args:
        sizes: items of each stratum in the population.
    """
    design = Design(tuple(pair.stratum for pair in pairs), sizes)
    tables = [_confusion(pair) for pair in pairs]
    total = _weighted_table(tables, design.weights)
    decided = estimate_decided_agreement(pairs, sizes, confidence=confidence)
    groups = tuple(_groups(pairs, design, confidence))
    return PairFindings(
        answers=len(pairs),
        agreement=estimate_share(
            design,
            [float(np.trace(table)) for table in tables],
            [float(table.sum()) for table in tables],
            confidence=confidence,
        ),
        agreement_decided=decided,
        kappa=estimate_figure(
            design,
            lambda weights: cohen_kappa(_weighted_table(tables, weights)),
            count=sum(table.sum() > 0 for table in tables),
            confidence=confidence,
        ),
        confusion=tuple(map(tuple, (total / max(total.sum(), 1e-300)).tolist())),
        biases=tuple(_biases(pairs, design, confidence)),
        groups=groups,
        coverage=design.coverage,
        sentences=tuple(_pair_sentences(decided, groups)),
    )


def estimate_decided_agreement(
    pairs: Sequence[AuditedPair], sizes: Mapping[str, int], *, confidence: float
) -> Estimate:
    """Estimate how often a verdict names the winner that people name, ties left out."""
    design = Design(tuple(pair.stratum for pair in pairs), sizes)
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


def _weighted_table(tables: Sequence[Array], weights: Array) -> Array:
    total = np.zeros((3, 3))
    for table, weight in zip(tables, weights, strict=True):
        total += weight * table
    return total


Says = Callable[[AuditedPair], tuple[float, float]]


def _biases(pairs: Sequence[AuditedPair], design: Design, confidence: float) -> Iterable[Bias]:
    def share(says: Says) -> Estimate:
        counts = [says(pair) for pair in pairs]
        part, whole = [c[0] for c in counts], [c[1] for c in counts]
        return estimate_share(design, part, whole, confidence=confidence)

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
        if found.count >= _ENOUGH and found.low is not None and found.low <= COIN < decided.low:
            yield f"{compare_with_coin(found)} on pairs of this group: {group.name}."


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


@dataclass(frozen=True, slots=True)
class AuditedResponse:
    """A response with a person's points and the judge's mean, both 0 to 5."""

    stratum: str
    human: float
    judge: float
    groups: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DifferenceGroup:
    """People's points less the judge's within one group of a division."""

    division: str
    name: str
    difference: Estimate


@dataclass(frozen=True, slots=True)
class ResponseFindings:
    """What a batch of responses says. `difference` is people's points less the judge's."""

    answers: int
    spearman: Estimate
    kendall: Estimate
    difference: Estimate
    groups: tuple[DifferenceGroup, ...]
    coverage: float | None
    sentences: tuple[str, ...]


def find_in_responses(
    responses: Sequence[AuditedResponse], sizes: Mapping[str, int], *, confidence: float = 0.95
) -> ResponseFindings:
    """Estimate how the judge's points go with people's.

    Args:
        sizes: items of each stratum in the population.
    """
    design = Design(tuple(found.stratum for found in responses), sizes)
    human = np.array([found.human for found in responses])
    judge = np.array([found.judge for found in responses])
    correlations = [
        estimate_figure(
            design,
            lambda weights, measure=measure: measure(human, judge, weights),  # type: ignore[misc]
            count=len(responses),
            confidence=confidence,
        )
        for measure in (weighted_spearman, weighted_kendall)
    ]
    gaps = [found.human - found.judge for found in responses]
    difference = estimate_mean(design, gaps, confidence=confidence)
    return ResponseFindings(
        answers=len(responses),
        spearman=correlations[0],
        kendall=correlations[1],
        difference=difference,
        groups=tuple(_difference_groups(responses, gaps, design, confidence)),
        coverage=design.coverage,
        sentences=tuple(_response_sentences(correlations[0], difference)),
    )


def _difference_groups(
    responses: Sequence[AuditedResponse], gaps: Sequence[float], design: Design, confidence: float
) -> Iterable[DifferenceGroup]:
    names = sorted({item for found in responses for item in found.groups.items()})
    for division, name in names:
        values = [
            gap if found.groups.get(division) == name else None
            for found, gap in zip(responses, gaps, strict=True)
        ]
        yield DifferenceGroup(division, name, estimate_mean(design, values, confidence=confidence))


def _response_sentences(correlation: Estimate, difference: Estimate) -> Iterable[str]:
    if correlation.low is None or difference.low is None or difference.high is None:
        yield "There are too few answers to compare the judge's scores with people's."
        return
    if correlation.low > 0:
        yield "Responses that people find better get higher scores from the judge."
    else:
        yield "The answers do not show that the judge's scores go with people's at all."
    if difference.high < 0:
        yield f"The judge is too generous, by {-(difference.value or 0.0):.2f} points on average."
    elif difference.low > 0:
        yield f"The judge is too strict, by {difference.value or 0.0:.2f} points on average."


def find_consistency(
    same: Sequence[tuple[object, object]],
    answers_by_item: Sequence[Sequence[tuple[str, object]]],
    *,
    points: bool = False,
) -> Consistency:
    """Measure what repeats say about auditors.

    Args:
        same: two answers of one auditor to one item, each.
        answers_by_item: for each item its (auditor, answer), one for each auditor.
        points: whether answers are numbers; answers within half a point are then alike.
    """
    units = [[answer for _, answer in answers] for answers in answers_by_item if len(answers) > 1]
    alike = _close if points else _equal
    others = [alike(unit[0], unit[1]) for unit in units]
    return Consistency(
        same=estimate_plain_share(sum(alike(a, b) for a, b in same), len(same)),
        other=estimate_plain_share(sum(others), len(others)),
        alpha=krippendorff_alpha(units, level="interval" if points else "nominal"),
        alpha_units=len(units),
    )


def _equal(first: object, second: object) -> bool:
    return first == second


def _close(first: object, second: object) -> bool:
    return abs(float(first) - float(second)) <= 0.5  # type: ignore[arg-type]
