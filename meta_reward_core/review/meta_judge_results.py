"""Results about the meta-judge for the whole iteration, from answers to pairs of judgments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from meta_reward_core.evaluation.rater_agreement import (
    Array,
    make_weighted_kappa,
    make_weighted_share,
)
from meta_reward_core.review.sampling_units import Outcome
from meta_reward_core.review.stratified_estimators import (
    Estimate,
    SurveyDesign,
    estimate_difference,
    estimate_share,
    estimate_statistic_from_share,
)
from meta_reward_core.review.stratified_sampling import SamplingFrame

HumanVerdict = Literal["first", "second", "tie", "neither"]
Winner = Literal["first", "second"]

OUTCOMES: Final = ("A", "B", "tie")
"""Rows and columns of a confusion matrix: A is the judgment that the meta-judge saw first."""

CHANCE_AGREEMENT: Final = 0.5
ONE_VERDICT_RIGHT: Final = (
    "orders disagree",
    "the judgment shown first won both orders",
    "the judgment shown second won both orders",
)
"""Groups in which exactly one of the two verdicts is right, regardless of human preference."""
_MIN_ANSWERS: Final = 20
_MIN_COUNT_OF_DECIMALS: Final = 200


@dataclass(frozen=True, slots=True)
class AuditedPair:
    """A pair of judgments with the meta-judge's two verdicts and a human answer.

    Attributes:
        stratum: the stratum it was sampled from.
        human: the human answer; "neither" (both judgments are bad) counts as a tie.
        forward, backward: the meta-judge's outcome with `first` and with `second` shown first,
            respectively.
        higher_score, longer, higher_elo: which judgment has the higher score, the longer text, or
        the higher rating; None if equal or unknown. shown_left: the judgment that the auditor saw
        first. groups: group of the pair, by the name of the division into groups.
    """

    stratum: str
    human: HumanVerdict
    forward: Outcome | None
    backward: Outcome | None
    higher_score: Winner | None
    longer: Winner | None
    higher_elo: Winner | None
    shown_left: Winner
    groups: Mapping[str, str]

    @property
    def outcome(self) -> Outcome:
        """The human answer as a verdict of the meta-judge."""
        return "tie" if self.human == "neither" else self.human

    @property
    def orders(self) -> list[tuple[Outcome, Winner]]:
        """Outcome of each readable order, and which judgment was shown first."""
        found: list[tuple[Outcome | None, Winner]] = [
            (self.forward, "first"),
            (self.backward, "second"),
        ]
        return [(outcome, shown) for outcome, shown in found if outcome is not None]


@dataclass(frozen=True, slots=True)
class Bias:
    """How often one side wins, by the meta-judge's verdicts and by human answers."""

    name: str
    meta_judge: Estimate
    people: Estimate


@dataclass(frozen=True, slots=True)
class AgreementGroup:
    """Agreement within one group."""

    division: str
    name: str
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class MetaJudgeResults:
    """Results of a batch of pairs of judgments.

    Attributes:
        agreement: share of readable verdicts, each order counted, that match the human answer.
        agreement_decided: the same without ties of humans or the meta-judge.
        elo: share of pairs with a human-preferred judgment that has the higher rating.
        confusion: share of verdicts by (human, meta-judge) over `OUTCOMES`, among the pairs that
            have such a verdict.
        coverage: share of the population in strata with any answer.
    """

    answers: int
    agreement: Estimate
    agreement_decided: Estimate
    elo: Estimate
    kappa: Estimate
    confusion: tuple[tuple[Estimate, ...], ...]
    biases: tuple[Bias, ...]
    groups: tuple[AgreementGroup, ...]
    coverage: float | None
    sentences: tuple[str, ...]


def estimate_meta_judge_results(
    pairs: Sequence[AuditedPair], frame: SamplingFrame, *, confidence: float = 0.95
) -> MetaJudgeResults:
    """Estimate all results about the meta-judge from answered pairs."""
    design = frame.make_design(pair.stratum for pair in pairs)
    tables = np.array([_count_confusion(pair) for pair in pairs]).reshape(-1, 3, 3)
    share = _make_share_estimator(pairs, design, confidence)
    decided = estimate_decided_agreement(pairs, frame, confidence=confidence)
    elo = share(lambda pair: _count_answers_for(pair, pair.higher_elo))
    agreement = share(_count_agreeing_verdicts)
    groups = tuple(_estimate_groups(pairs, design, confidence))
    biases = tuple(_estimate_biases(share))
    return MetaJudgeResults(
        answers=len(pairs),
        agreement=agreement,
        agreement_decided=decided,
        elo=elo,
        kappa=_estimate_kappa(tables, design, agreement, confidence),
        confusion=_estimate_confusion(tables, design, confidence),
        biases=biases,
        groups=groups,
        coverage=design.coverage,
        sentences=(
            *_describe_agreement(decided, groups),
            *_describe_elo(elo),
            *_describe_biases(biases),
        ),
    )


def estimate_decided_agreement(
    pairs: Sequence[AuditedPair], frame: SamplingFrame, *, confidence: float
) -> Estimate:
    """Estimate how often a verdict is the human-preferred judgment, without ties."""
    design = frame.make_design(pair.stratum for pair in pairs)
    agreed, counted = _count_decided(pairs)
    return estimate_share(design, agreed, counted, confidence=confidence)


def _count_decided(pairs: Iterable[AuditedPair]) -> tuple[list[float], list[float]]:
    agreed, counted = [], []
    for pair in pairs:
        decided = [won for won, _ in pair.orders if won != "tie" and pair.outcome != "tie"]
        agreed.append(float(sum(won == pair.outcome for won in decided)))
        counted.append(float(len(decided)))
    return agreed, counted


def _count_confusion(pair: AuditedPair) -> Array:
    """Count the orders of a pair by (human, meta-judge), shape [3, 3]."""
    table = np.zeros((3, 3))
    for outcome, shown in pair.orders:
        table[_get_outcome_index(pair.outcome, shown), _get_outcome_index(outcome, shown)] += 1
    return table


def _get_outcome_index(outcome: Outcome, shown_first: Winner) -> int:
    if outcome == "tie":
        return 2
    return 0 if outcome == shown_first else 1


def _estimate_kappa(
    tables: Array, design: SurveyDesign, agreement: Estimate, confidence: float
) -> Estimate:
    alike, whole = np.trace(tables, axis1=1, axis2=2), tables.sum(axis=(1, 2))
    return estimate_statistic_from_share(
        design,
        make_weighted_kappa(tables),
        share=agreement,
        share_statistic=make_weighted_share(alike, whole),
        count=int(np.count_nonzero(whole)),
        confidence=confidence,
    )


def _estimate_confusion(
    tables: Array, design: SurveyDesign, confidence: float
) -> tuple[tuple[Estimate, ...], ...]:
    whole = tables.sum(axis=(1, 2))

    def cell(row: int, column: int) -> Estimate:
        part = tables[:, row, column]
        found = estimate_share(design, part, whole, confidence=confidence)
        return replace(found, count=int(np.count_nonzero(part)))

    positions = range(len(OUTCOMES))
    return tuple(tuple(cell(row, column) for column in positions) for row in positions)


PairCounter = Callable[[AuditedPair], tuple[float, float]]
"""Contribution of a pair to the numerator and the denominator of a share."""
ShareEstimator = Callable[[PairCounter], Estimate]


def _make_share_estimator(
    pairs: Sequence[AuditedPair], design: SurveyDesign, confidence: float
) -> ShareEstimator:
    def share(says: PairCounter) -> Estimate:
        counts = np.array([says(pair) for pair in pairs]).reshape(-1, 2)
        return estimate_share(design, counts[:, 0], counts[:, 1], confidence=confidence)

    return share


def _count_agreeing_verdicts(pair: AuditedPair) -> tuple[float, float]:
    orders = pair.orders
    return float(sum(outcome == pair.outcome for outcome, _ in orders)), float(len(orders))


def _estimate_biases(share: ShareEstimator) -> Iterable[Bias]:
    yield Bias("the one shown first wins", share(_count_first_wins), share(_count_left_wins))
    yield Bias(
        "the higher score wins",
        share(lambda pair: _count_verdicts_for(pair, pair.higher_score)),
        share(lambda pair: _count_answers_for(pair, pair.higher_score)),
    )
    yield Bias(
        "the longer one wins",
        share(lambda pair: _count_verdicts_for(pair, pair.longer)),
        share(lambda pair: _count_answers_for(pair, pair.longer)),
    )


def _count_first_wins(pair: AuditedPair) -> tuple[float, float]:
    decided = [(won, shown) for won, shown in pair.orders if won != "tie"]
    return float(sum(won == shown for won, shown in decided)), float(len(decided))


def _count_left_wins(pair: AuditedPair) -> tuple[float, float]:
    return _count_answers_for(pair, pair.shown_left)


def _count_verdicts_for(pair: AuditedPair, what: Winner | None) -> tuple[float, float]:
    """Count the decided orders won by `what`, and all decided orders; none if both are equal."""
    decided = [won for won, _ in pair.orders if won != "tie"] if what else []
    return float(decided.count(what or "first")), float(len(decided))


def _count_answers_for(pair: AuditedPair, what: Winner | None) -> tuple[float, float]:
    if what is None or pair.outcome == "tie":
        return 0.0, 0.0
    return float(pair.outcome == what), 1.0


def _estimate_groups(
    pairs: Sequence[AuditedPair], design: SurveyDesign, confidence: float
) -> Iterable[AgreementGroup]:
    agreed, counted = _count_decided(pairs)
    names = sorted({(division, name) for pair in pairs for division, name in pair.groups.items()})
    for division, name in names:
        inside = [float(pair.groups.get(division) == name) for pair in pairs]
        yield AgreementGroup(
            division,
            name,
            estimate_share(
                design,
                [a * i for a, i in zip(agreed, inside, strict=True)],
                [c * i for c, i in zip(counted, inside, strict=True)],
                confidence=confidence,
            ),
        )


def _describe_agreement(decided: Estimate, groups: Sequence[AgreementGroup]) -> Iterable[str]:
    if decided.value is None or decided.low is None or decided.high is None:
        yield "No answer compares a decided verdict of the meta-judge with a human preference yet."
        return
    yield f"{describe_agreement_vs_chance(decided)}, estimated for the whole iteration."
    for group in groups:
        found = group.agreement
        if group.name in ONE_VERDICT_RIGHT:
            continue
        if (
            found.count >= _MIN_ANSWERS
            and found.low is not None
            and found.low <= CHANCE_AGREEMENT < decided.low
        ):
            division = group.division.replace("_", " ")
            agreement = describe_agreement_vs_chance(found)
            yield f"{agreement} on pairs of this group: {group.name} ({division})."


def _describe_elo(elo: Estimate) -> Iterable[str]:
    if elo.low is None or elo.high is None:
        return
    value, low, high = (format_share(one, elo.count) for one in (elo.value, elo.low, elo.high))
    shown = f"{value} of the time (95% CI {low} to {high}, n = {elo.count})"
    if elo.low > CHANCE_AGREEMENT:
        yield f"The Elo order beats chance: it agrees with human preference {shown}."
    elif elo.high < CHANCE_AGREEMENT:
        yield f"The Elo order is worse than chance: it agrees with human preference {shown}."
    else:
        yield f"The Elo order is not shown to beat chance: it agrees with human preference {shown}."


def _describe_biases(biases: Sequence[Bias]) -> Iterable[str]:
    """Describe where the meta-judge's biases clearly differ from human biases."""
    for bias in biases:
        judge, people = bias.meta_judge, bias.people
        ends = (judge.low, judge.high, people.low, people.high)
        if min(judge.count, people.count) < _MIN_ANSWERS or any(end is None for end in ends):
            continue
        if (judge.low or 0.0) > (people.high or 0.0) or (judge.high or 0.0) < (people.low or 0.0):
            more = "more" if (judge.value or 0.0) > (people.value or 0.0) else "less"
            yield (
                f"{bias.name.capitalize()} {more} often for the meta-judge "
                f"({format_share(judge.value, judge.count)}) than for humans "
                f"({format_share(people.value, people.count)})."
            )


def format_share(value: float | None, count: int) -> str:
    """Format a share in percent: with a decimal only if it is based on many items."""
    if value is None:
        return "unknown"
    return f"{value:.1%}" if count >= _MIN_COUNT_OF_DECIMALS else f"{value:.0%}"


def describe_agreement_vs_chance(found: Estimate) -> str:
    """Compare agreement with chance in a sentence without a period."""
    if found.value is None or found.low is None or found.high is None:
        return "There are too few answers to compare the meta-judge with chance"
    value, low, high = (
        format_share(one, found.count) for one in (found.value, found.low, found.high)
    )
    shown = (
        f"without ties, it agrees with human preference {value} of the time "
        f"(95% CI {low} to {high}, n = {found.count})"
    )
    if found.low > CHANCE_AGREEMENT:
        return f"The meta-judge beats chance: {shown}"
    if found.high < CHANCE_AGREEMENT:
        return f"The meta-judge is worse than chance: {shown}"
    return f"The meta-judge is not shown to beat chance: {shown}"


def describe_agreement_change(earlier: int, before: Estimate, later: int, after: Estimate) -> str:
    """Describe how agreement changed between two audited iterations."""
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
