"""From the rows of a batch to what they say."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from meta_reward_core.audit.estimates import Estimate
from meta_reward_core.audit.findings import (
    AuditedPair,
    AuditedResponse,
    Consistency,
    Human,
    PairFindings,
    ResponseFindings,
    Winner,
    estimate_decided_agreement,
    find_consistency,
    find_in_pairs,
    find_in_responses,
)
from webapp.audit.making import source_digest
from webapp.audit.models import Again, Answer, Batch, Item, Kind
from webapp.experiments.models import Experiment

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditorFigures:
    """What one auditor did in a batch."""

    name: str
    answers: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class StratumFigures:
    """A stratum, with the chance of its items and how many are answered."""

    name: str
    population: int
    sampled: int
    probability: float
    answered: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a batch; `pairs` or `responses` is set, by its kind."""

    items: int
    answered: int
    pairs: PairFindings | None
    responses: ResponseFindings | None
    consistency: Consistency
    strata: tuple[StratumFigures, ...]
    auditors: tuple[AuditorFigures, ...]
    conflicts: int
    is_stale: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """What follows, in plain words."""
        found = self.pairs or self.responses
        return found.sentences if found else ()

    @property
    def coverage(self) -> float | None:
        """Share of the population whose strata have any answer."""
        found = self.pairs or self.responses
        return found.coverage if found else None


def strata_sizes(batch: Batch) -> dict[str, int]:
    """Population of each stratum."""
    return {stratum["name"]: stratum["population"] for stratum in batch.strata}


def answered_items(batch: Batch) -> list[Item]:
    """Items that count in estimates: answered or adjudicated, repeats left out."""
    items = batch.items.filter(again=Again.NO).select_related("answer", "truth")
    return [item for item in items if item.adjudicated or hasattr(item, "answer")]


def final_value(item: Item) -> str | float | None:
    """The answer that counts: who adjudicated has the last word."""
    answer: Answer | None = getattr(item, "answer", None)
    given = None if answer is None else (answer.choice or answer.points)
    if not item.adjudicated:
        return given
    return item.adjudicated if item.batch.kind == Kind.JUDGMENTS else float(item.adjudicated)


def make_report(batch: Batch) -> Report:
    """Estimate everything that a batch tells."""
    items = answered_items(batch)
    for item in items:
        item.batch = batch
    sizes = strata_sizes(batch)
    is_pairs = batch.kind == Kind.JUDGMENTS
    answers = list(
        Answer.objects.filter(item__batch=batch).select_related("item").order_by("given", "pk")
    )
    consistency, conflicts = _consistency(answers, points=not is_pairs)
    return Report(
        items=batch.items.count(),
        answered=len(answers),
        pairs=find_in_pairs(list(map(audited_pair, items)), sizes) if is_pairs else None,
        responses=(
            None if is_pairs else find_in_responses(list(map(_audited_response, items)), sizes)
        ),
        consistency=consistency,
        strata=tuple(_strata(batch, items)),
        auditors=tuple(_auditors(answers)),
        conflicts=conflicts,
        is_stale=is_stale(batch),
    )


def audited_pair(item: Item) -> AuditedPair:
    """An answered item as the statistics want it."""
    facts: Facts = item.truth.facts
    return AuditedPair(
        stratum=item.stratum,
        human=cast("Human", final_value(item)),
        forward=facts["forward"],
        backward=facts["backward"],
        higher_score=_larger(facts["score_first"], facts["score_second"]),
        longer=_larger(facts["chars_first"], facts["chars_second"]),
        shown_left="second" if item.is_swapped else "first",
        groups=facts["groups"],
    )


def _larger(first: float | None, second: float | None) -> Winner | None:
    if first is None or second is None or first == second:
        return None
    return "first" if first > second else "second"


def _audited_response(item: Item) -> AuditedResponse:
    facts: Facts = item.truth.facts
    human = float(final_value(item) or 0.0)
    return AuditedResponse(item.stratum, human, facts["mean"], facts["groups"])


def _consistency(answers: Sequence[Answer], *, points: bool) -> tuple[Consistency, int]:
    """Self-consistency and agreement of auditors, and items on which auditors differ."""
    by_original: defaultdict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_original[answer.item.original_id or answer.item_id].append(answer)
    same: list[tuple[object, object]] = []
    several: list[list[tuple[str, object]]] = []
    conflicts = 0
    for found in by_original.values():
        same += _own_repeats(found)
        firsts = list(_first_of_each(found).items())
        several.append(firsts)
        conflicts += len({value for _, value in firsts}) > 1
    return find_consistency(same, several, points=points), conflicts


def _own_repeats(answers: Sequence[Answer]) -> list[tuple[object, object]]:
    firsts = _first_of_each([answer for answer in answers if answer.item.again != Again.SAME])
    return [
        (firsts[answer.auditor_name], _value(answer))
        for answer in answers
        if answer.item.again == Again.SAME and answer.auditor_name in firsts
    ]


def _first_of_each(answers: Iterable[Answer]) -> dict[str, object]:
    firsts: dict[str, object] = {}
    for answer in answers:
        firsts.setdefault(answer.auditor_name, _value(answer))
    return firsts


def _value(answer: Answer) -> object:
    return answer.points if answer.points is not None else answer.choice


def _strata(batch: Batch, items: Sequence[Item]) -> Iterable[StratumFigures]:
    for stratum in batch.strata:
        yield StratumFigures(
            stratum["name"],
            stratum["population"],
            stratum["sampled"],
            stratum["sampled"] / stratum["population"],
            sum(item.stratum == stratum["name"] for item in items),
        )


def _auditors(answers: Sequence[Answer]) -> Iterable[AuditorFigures]:
    for name in sorted({answer.auditor_name for answer in answers}):
        own = [answer.seconds for answer in answers if answer.auditor_name == name]
        spent = sorted(seconds for seconds in own if seconds > 0)
        yield AuditorFigures(name, len(own), spent[len(spent) // 2] if spent else None)


def is_stale(batch: Batch) -> bool:
    """Whether the iteration's items were made again after the batch was drawn, or are gone."""
    if batch.experiment is None:
        return True
    return source_digest(batch.experiment, batch.iteration, batch.kind) != batch.source_sha256


def passing_estimate(batch: Batch, *, confidence: float) -> Estimate:
    """Agreement without ties, with an interval of any confidence."""
    items = answered_items(batch)
    for item in items:
        item.batch = batch
    pairs = [audited_pair(item) for item in items]
    return estimate_decided_agreement(pairs, strata_sizes(batch), confidence=confidence)


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """What the latest batch with answers says of one iteration."""

    iteration: int
    batch: Batch
    agreement: Estimate


def agreement_by_iteration(experiment: Experiment) -> list[TrendPoint]:
    """Agreement without ties of each audited iteration, in order."""
    latest: dict[int, TrendPoint] = {}
    batches = experiment.audits.filter(kind=Kind.JUDGMENTS).order_by("created", "pk")
    for batch in batches:
        found = passing_estimate(batch, confidence=0.95)
        if found.count:
            latest[batch.iteration] = TrendPoint(batch.iteration, batch, found)
    return [latest[number] for number in sorted(latest)]
