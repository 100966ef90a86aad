"""From the rows of a batch, or of several batches of one iteration, to what they say."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from meta_reward_core.audit.consistency import Consistency, find_consistency
from meta_reward_core.audit.estimates import Estimate
from meta_reward_core.audit.frames import Frame, in_sample, pool_frames
from meta_reward_core.audit.pair_findings import (
    OUTCOMES,
    AuditedPair,
    Human,
    PairFindings,
    Winner,
    estimate_decided_agreement,
    find_in_pairs,
)
from meta_reward_core.audit.response_findings import (
    AuditedResponse,
    ResponseFindings,
    find_in_responses,
)
from webapp.audit.making import source_digest
from webapp.audit.models import Again, Answer, Batch, Item, Kind

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditorFigures:
    """What one auditor did in a batch.

    Attributes:
        seconds: median of an answer; None where it is not known.
        is_gone: whether the account was removed or is not active.
    """

    name: str
    answers: int
    seconds: float | None
    is_gone: bool


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
    """Everything about batches of a kind; `pairs` or `responses` is set, by that kind.

    Attributes:
        conflicts: items on which auditors differ.
        is_stale: whether a batch is of items that were made again since, or are gone.
    """

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
    def has_gone(self) -> bool:
        """Whether somebody who answered has no account any longer."""
        return any(auditor.is_gone for auditor in self.auditors)

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


def make_report(*batches: Batch) -> Report:
    """Estimate everything that a batch tells, or several of one iteration and kind, pooled.

    Each batch is a sample of the whole iteration; it counts by its share of the answers.
    """
    answered = {_name(batch): _with_batch(batch) for batch in batches}
    frame = _frame(batches, answered)
    items = [item for found in answered.values() for item in found]
    is_pairs = batches[0].kind == Kind.JUDGMENTS
    answers = list(
        Answer.objects.filter(item__batch__in=batches)
        .select_related("item", "auditor")
        .order_by("given", "pk")
    )
    consistency, conflicts = _consistency(answers, points=not is_pairs)
    one = len(batches) == 1
    pairs = [audited_pair(item, one=one) for item in items] if is_pairs else []
    responses = [] if is_pairs else [_audited_response(item, one=one) for item in items]
    return Report(
        items=Item.objects.filter(batch__in=batches).count(),
        answered=len(answers),
        pairs=find_in_pairs(pairs, frame) if is_pairs else None,
        responses=None if is_pairs else find_in_responses(responses, frame),
        consistency=consistency,
        strata=tuple(row for batch in batches for row in _strata(batch, answered, one=one)),
        auditors=tuple(_auditors(answers)),
        conflicts=conflicts,
        is_stale=any(map(is_stale, batches)),
    )


def _name(batch: Batch) -> str:
    return f"batch {batch.pk}"


def _stratum(item: Item, *, one: bool) -> str:
    """Strata of several batches are told apart by their batch."""
    return item.stratum if one else in_sample(_name(item.batch), item.stratum)


def _with_batch(batch: Batch) -> list[Item]:
    items = answered_items(batch)
    for item in items:
        item.batch = batch
    return items


def _frame(batches: Sequence[Batch], answered: Mapping[str, Sequence[Item]]) -> Frame:
    frames = {_name(batch): Frame(strata_sizes(batch)) for batch in batches}
    if len(batches) == 1:
        return frames[_name(batches[0])]
    return pool_frames(frames, {name: len(items) for name, items in answered.items()})


def audited_pair(item: Item, *, one: bool = True) -> AuditedPair:
    """An answered item as the statistics want it.

    Args:
        one: whether its batch is the only one that is looked at.
    """
    facts: Facts = item.truth.facts
    return AuditedPair(
        stratum=_stratum(item, one=one),
        human=cast("Human", final_value(item)),
        forward=facts["forward"],
        backward=facts["backward"],
        higher_score=_larger(facts["score_first"], facts["score_second"]),
        longer=_larger(facts["chars_first"], facts["chars_second"]),
        higher_elo=_larger(facts["elo_first"], facts["elo_second"]),
        shown_left="second" if item.is_swapped else "first",
        groups=facts["groups"],
    )


def _larger(first: float | None, second: float | None) -> Winner | None:
    if first is None or second is None or first == second:
        return None
    return "first" if first > second else "second"


def _audited_response(item: Item, *, one: bool) -> AuditedResponse:
    facts: Facts = item.truth.facts
    human = float(final_value(item) or 0.0)
    return AuditedResponse(_stratum(item, one=one), human, facts["mean"], facts["groups"])


def _consistency(answers: Sequence[Answer], *, points: bool) -> tuple[Consistency, int]:
    """Self-consistency and agreement of auditors, and items on which auditors differ."""
    by_key: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_key[answer.item.key].append(answer)
    same: list[tuple[object, object]] = []
    several: list[list[tuple[str, Hashable]]] = []
    conflicts = 0
    for found in by_key.values():
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


def _first_of_each(answers: Iterable[Answer]) -> dict[str, Hashable]:
    firsts: dict[str, Hashable] = {}
    for answer in answers:
        firsts.setdefault(answer.auditor_name, _value(answer))
    return firsts


def _value(answer: Answer) -> Hashable:
    return answer.points if answer.points is not None else answer.choice


def _strata(
    batch: Batch, answered: Mapping[str, Sequence[Item]], *, one: bool
) -> Iterable[StratumFigures]:
    items = answered[_name(batch)]
    for stratum in batch.strata:
        name = stratum["name"]
        yield StratumFigures(
            name if one else in_sample(_name(batch), name),
            stratum["population"],
            stratum["sampled"],
            stratum["sampled"] / stratum["population"],
            sum(item.stratum == name for item in items),
        )


def _auditors(answers: Sequence[Answer]) -> Iterable[AuditorFigures]:
    for name in sorted({answer.auditor_name for answer in answers}):
        own = [answer for answer in answers if answer.auditor_name == name]
        spent = sorted(answer.seconds for answer in own if answer.seconds > 0)
        median = spent[len(spent) // 2] if spent else None
        yield AuditorFigures(name, len(own), median, any(map(_is_gone, own)))


def _is_gone(answer: Answer) -> bool:
    """Whether who answered on the desk has no account any longer that could."""
    if answer.auditor is None:
        return not answer.source
    return not answer.auditor.is_active


def named_estimates(report: Report) -> Iterator[tuple[str, str, Estimate]]:
    """Every figure of a report that has an interval: which part it is of, its name, and itself."""
    if report.pairs is not None:
        yield from _pair_estimates(report.pairs)
    if report.responses is not None:
        yield from _response_estimates(report.responses)
    found = report.consistency
    yield "auditors", "the same auditor gives the same answer again", found.same
    yield "auditors", "another auditor gives the same answer", found.other
    yield "auditors", "Krippendorff's alpha", found.alpha


def _pair_estimates(found: PairFindings) -> Iterator[tuple[str, str, Estimate]]:
    yield "meta-judge", "agreement without ties", found.agreement_decided
    yield "meta-judge", "agreement with ties", found.agreement
    yield "meta-judge", "Cohen's kappa", found.kappa
    yield "Elo", "its order names the judgment that people prefer", found.elo
    for human, cells in zip(OUTCOMES, found.confusion, strict=True):
        for said, cell in zip(OUTCOMES, cells, strict=True):
            yield "people against meta-judge", f"people {human}, meta-judge {said}", cell
    for bias in found.biases:
        yield "bias of the meta-judge", bias.name, bias.meta_judge
        yield "bias of people", bias.name, bias.people
    for group in found.groups:
        yield f"agreement by {group.division}", group.name, group.agreement


def _response_estimates(found: ResponseFindings) -> Iterator[tuple[str, str, Estimate]]:
    yield "judge", "Spearman's correlation", found.spearman
    yield "judge", "Kendall's tau-b", found.kendall
    yield "judge", "people's points less the judge's", found.difference
    for group in found.groups:
        yield f"people less judge by {group.division}", group.name, group.difference


def is_stale(batch: Batch) -> bool:
    """Whether the iteration's items were made again after the batch was drawn, or are gone."""
    if batch.experiment is None:
        return True
    return source_digest(batch.experiment, batch.iteration, batch.kind) != batch.source_sha256


def passing_estimate(batch: Batch, *, confidence: float) -> Estimate:
    """Agreement without ties, with an interval of any confidence."""
    pairs = [audited_pair(item) for item in _with_batch(batch)]
    return estimate_decided_agreement(pairs, Frame(strata_sizes(batch)), confidence=confidence)
