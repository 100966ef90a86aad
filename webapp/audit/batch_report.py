"""Estimates from the rows of a batch, or of several batches of one iteration."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

from meta_reward_core.review.annotator_consistency import AnnotatorConsistency, measure_consistency
from meta_reward_core.review.judge_results import (
    AuditedResponse,
    JudgeResults,
    estimate_judge_results,
)
from meta_reward_core.review.meta_judge_results import (
    OUTCOMES,
    AuditedPair,
    HumanVerdict,
    MetaJudgeResults,
    Winner,
    estimate_decided_agreement,
    estimate_meta_judge_results,
)
from meta_reward_core.review.stratified_estimators import Estimate
from meta_reward_core.review.stratified_sampling import (
    SamplingFrame,
    name_sample_stratum,
    pool_frames,
)
from webapp.audit.batch_sampling import hash_source_files
from webapp.audit.models import Answer, Batch, Item, ItemKind, RepeatKind

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditorSummary:
    """Answers of one auditor in a batch.

    Attributes:
        seconds: median seconds per answer; None if unknown.
        is_gone: whether the account was deleted or is inactive.
    """

    name: str
    answers: int
    seconds: float | None
    is_gone: bool


@dataclass(frozen=True, slots=True)
class StratumSummary:
    """A stratum with the sampling probability and the number of answers."""

    name: str
    population: int
    sampled: int
    probability: float
    answered: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Results of batches of one kind; `pairs` or `responses` is set, depending on the kind.

    Attributes:
        conflicts: items on which auditors differ.
        adjudicated: items whose decision replaces their answers.
        answers_only: the same estimates from answers alone; None if nothing is adjudicated.
        is_stale: whether a batch has items that were regenerated since or no longer exist.
        is_sample: whether the items are a sample, so that results apply to the whole iteration.
        repeat_answers: how many of the answers repeat an item, to measure the auditors.
    """

    items: int
    answered: int
    pairs: MetaJudgeResults | None
    responses: JudgeResults | None
    consistency: AnnotatorConsistency
    strata: tuple[StratumSummary, ...]
    auditors: tuple[AuditorSummary, ...]
    conflicts: int
    is_stale: bool
    adjudicated: int = 0
    answers_only: MetaJudgeResults | JudgeResults | None = None
    is_sample: bool = True
    repeat_answers: int = 0

    @property
    def sentences(self) -> tuple[str, ...]:
        """Conclusions about the whole iteration in plain sentences; none about picked items."""
        found = (self.pairs or self.responses) if self.is_sample else None
        return found.sentences if found else ()

    @property
    def gone(self) -> tuple[str, ...]:
        """Names of the auditors whose accounts are gone."""
        return tuple(auditor.name for auditor in self.auditors if auditor.is_gone)

    @property
    def counted(self) -> int:
        """Items that estimates count: without repeats, which only measure auditors."""
        found = self.pairs or self.responses
        return found.answers if found else 0

    @property
    def coverage(self) -> float | None:
        """Share of the population in strata that have an answer."""
        found = self.pairs or self.responses
        return found.coverage if found else None


def get_strata_sizes(batch: Batch) -> dict[str, int]:
    """Return the population of each stratum."""
    return {stratum["name"]: stratum["population"] for stratum in batch.strata}


def list_answered_items(batch: Batch) -> list[Item]:
    """List the items that count in estimates: answered or adjudicated, without repeats."""
    items = batch.items.filter(repeat_kind=RepeatKind.NO).select_related("answer", "hidden_verdict")
    return [item for item in items if item.adjudicated or hasattr(item, "answer")]


def get_final_value(item: Item, *, adjudicated: bool = True) -> str | float | None:
    """Return the final value of an item: the decision if there is one, otherwise the answer.

    Args:
        adjudicated: whether to use the decision; False to use only the answer.
    """
    answer: Answer | None = getattr(item, "answer", None)
    given = None
    if answer is not None:
        given = answer.choice or answer.points
    if not (adjudicated and item.adjudicated):
        return given
    return item.adjudicated if item.batch.kind == ItemKind.JUDGMENTS else float(item.adjudicated)


def make_report(*batches: Batch) -> BatchReport:
    """Estimate all results of a batch, or of several pooled batches of one iteration and kind.

    Each batch is a sample of the whole iteration and is weighted by its share of the answers.
    """
    answered = {_format_batch_name(batch): _load_answered_items(batch) for batch in batches}
    frame = _make_frame(batches, answered)
    items = [item for found in answered.values() for item in found]
    is_pairs = batches[0].kind == ItemKind.JUDGMENTS
    answers = list(
        Answer.objects.filter(item__batch__in=batches)
        .exclude(item__repeat_kind=RepeatKind.KNOWN)
        .select_related("item", "auditor")
        .order_by("submitted", "pk")
    )
    consistency, conflicts = _measure_consistency(answers, has_numbers=not is_pairs)
    one = len(batches) == 1
    results = _estimate_results(items, frame, is_pairs=is_pairs, one=one)
    decided = sum(bool(item.adjudicated) for item in items)
    alone = [item for item in items if hasattr(item, "answer")]
    return BatchReport(
        items=Item.objects.filter(batch__in=batches).exclude(repeat_kind=RepeatKind.KNOWN).count(),
        answered=len(answers),
        pairs=results if isinstance(results, MetaJudgeResults) else None,
        responses=results if isinstance(results, JudgeResults) else None,
        consistency=consistency,
        strata=tuple(row for batch in batches for row in _iter_strata(batch, answered, one=one)),
        auditors=tuple(_iter_auditors(answers)),
        conflicts=conflicts,
        is_stale=any(map(is_stale, batches)),
        adjudicated=decided,
        answers_only=_estimate_results(alone, frame, is_pairs=is_pairs, one=one, adjudicated=False)
        if decided
        else None,
        is_sample=not any(batch.is_hand_picked for batch in batches),
        repeat_answers=sum(answer.item.repeat_kind != RepeatKind.NO for answer in answers),
    )


def estimate_batch(batch: Batch, items: Sequence[Item]) -> MetaJudgeResults | JudgeResults:
    """Estimate the results of some items of a batch, each with a decision or an answer."""
    frame = SamplingFrame(get_strata_sizes(batch))
    is_pairs = batch.kind == ItemKind.JUDGMENTS
    return _estimate_results(items, frame, is_pairs=is_pairs, one=True)


def _estimate_results(
    items: Sequence[Item],
    frame: SamplingFrame,
    *,
    is_pairs: bool,
    one: bool,
    adjudicated: bool = True,
) -> MetaJudgeResults | JudgeResults:
    if is_pairs:
        pairs = [to_audited_pair(item, one=one, adjudicated=adjudicated) for item in items]
        return estimate_meta_judge_results(pairs, frame)
    responses = [_to_audited_response(item, one=one, adjudicated=adjudicated) for item in items]
    return estimate_judge_results(responses, frame)


def _format_batch_name(batch: Batch) -> str:
    return f"batch {batch.pk}"


def _get_stratum_name(item: Item, *, one: bool) -> str:
    """Return the name of a stratum, with its batch if there are several."""
    return (
        item.stratum if one else name_sample_stratum(_format_batch_name(item.batch), item.stratum)
    )


def _load_answered_items(batch: Batch) -> list[Item]:
    items = list_answered_items(batch)
    for item in items:
        item.batch = batch
    return items


def _make_frame(batches: Sequence[Batch], answered: Mapping[str, Sequence[Item]]) -> SamplingFrame:
    frames = {
        _format_batch_name(batch): SamplingFrame(get_strata_sizes(batch)) for batch in batches
    }
    if len(batches) == 1:
        return frames[_format_batch_name(batches[0])]
    return pool_frames(frames, {name: len(items) for name, items in answered.items()})


def to_audited_pair(item: Item, *, one: bool = True, adjudicated: bool = True) -> AuditedPair:
    """Convert an answered item for the statistics.

    Args:
        one: whether the report covers a single batch.
        adjudicated: whether a decision replaces the answer.
    """
    facts: Facts = item.hidden_verdict.facts
    return AuditedPair(
        stratum=_get_stratum_name(item, one=one),
        human=cast("HumanVerdict", get_final_value(item, adjudicated=adjudicated)),
        forward=facts["forward"],
        backward=facts["backward"],
        higher_score=_find_larger(facts["score_first"], facts["score_second"]),
        longer=_find_larger(facts["chars_first"], facts["chars_second"]),
        higher_elo=_find_larger(facts["elo_first"], facts["elo_second"]),
        shown_left="second" if item.is_swapped else "first",
        groups=facts["groups"],
    )


def _find_larger(first: float | None, second: float | None) -> Winner | None:
    if first is None or second is None or first == second:
        return None
    return "first" if first > second else "second"


def _to_audited_response(item: Item, *, one: bool, adjudicated: bool) -> AuditedResponse:
    facts: Facts = item.hidden_verdict.facts
    human = float(get_final_value(item, adjudicated=adjudicated) or 0.0)
    return AuditedResponse(_get_stratum_name(item, one=one), human, facts["mean"], facts["groups"])


def _measure_consistency(
    answers: Sequence[Answer], *, has_numbers: bool
) -> tuple[AnnotatorConsistency, int]:
    """Measure self-consistency and agreement of auditors, and count conflicting items."""
    by_key: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_key[answer.item.key].append(answer)
    same: list[tuple[object, object]] = []
    several: list[list[tuple[str, Hashable]]] = []
    conflicts = 0
    for found in by_key.values():
        same += _list_own_repeats(found)
        firsts = list(_get_first_answers(found).items())
        several.append(firsts)
        conflicts += len({value for _, value in firsts}) > 1
    return measure_consistency(same, several, has_numbers=has_numbers), conflicts


def _list_own_repeats(answers: Sequence[Answer]) -> list[tuple[object, object]]:
    firsts = _get_first_answers(
        [answer for answer in answers if answer.item.repeat_kind != RepeatKind.SAME]
    )
    return [
        (firsts[answer.auditor_name], _get_value(answer))
        for answer in answers
        if answer.item.repeat_kind == RepeatKind.SAME and answer.auditor_name in firsts
    ]


def _get_first_answers(answers: Iterable[Answer]) -> dict[str, Hashable]:
    firsts: dict[str, Hashable] = {}
    for answer in answers:
        firsts.setdefault(answer.auditor_name, _get_value(answer))
    return firsts


def _get_value(answer: Answer) -> Hashable:
    return answer.points if answer.points is not None else answer.choice


def _iter_strata(
    batch: Batch, answered: Mapping[str, Sequence[Item]], *, one: bool
) -> Iterable[StratumSummary]:
    items = answered[_format_batch_name(batch)]
    for stratum in batch.strata:
        name = stratum["name"]
        yield StratumSummary(
            name if one else name_sample_stratum(_format_batch_name(batch), name),
            stratum["population"],
            stratum["sampled"],
            stratum["sampled"] / stratum["population"],
            sum(item.stratum == name for item in items),
        )


def _iter_auditors(answers: Sequence[Answer]) -> Iterable[AuditorSummary]:
    for name in sorted({answer.auditor_name for answer in answers}):
        own = [answer for answer in answers if answer.auditor_name == name]
        spent = [answer.seconds for answer in own if answer.seconds > 0]
        seconds = median(spent) if spent else None
        yield AuditorSummary(name, len(own), seconds, any(map(_is_gone, own)))


def _is_gone(answer: Answer) -> bool:
    """Whether an auditor's account is inactive, or was deleted after an answer on the site."""
    if answer.auditor is None:
        return not answer.source
    return not answer.auditor.is_active


def iter_named_estimates(report: BatchReport) -> Iterator[tuple[str, str, Estimate]]:
    """Yield every metric of a report that has an interval: its part, its name, and its estimate."""
    if report.pairs is not None:
        yield from _iter_pair_estimates(report.pairs)
    if report.responses is not None:
        yield from _iter_response_estimates(report.responses)
    if isinstance(report.answers_only, MetaJudgeResults):
        for part, name, one in _iter_pair_estimates(report.answers_only):
            yield f"before adjudication: {part}", name, one
    elif report.answers_only is not None:
        for part, name, one in _iter_response_estimates(report.answers_only):
            yield f"before adjudication: {part}", name, one
    found = report.consistency
    yield "auditors", "the same auditor gives the same answer again", found.same
    yield "auditors", "another auditor gives the same answer", found.other
    yield "auditors", "Krippendorff's alpha", found.alpha


def _iter_pair_estimates(found: MetaJudgeResults) -> Iterator[tuple[str, str, Estimate]]:
    yield "meta-judge", "agreement without ties", found.agreement_decided
    yield "meta-judge", "agreement with ties", found.agreement
    yield "meta-judge", "Cohen's kappa", found.kappa
    yield "Elo", "the Elo order agrees with human preference", found.elo
    for human, cells in zip(OUTCOMES, found.confusion, strict=True):
        for said, cell in zip(OUTCOMES, cells, strict=True):
            yield "people against meta-judge", f"people {human}, meta-judge {said}", cell
    for bias in found.biases:
        yield "bias of the meta-judge", bias.name, bias.meta_judge
        yield "bias of people", bias.name, bias.people
    for group in found.groups:
        yield f"agreement by {group.division}", group.name, group.agreement


def _iter_response_estimates(found: JudgeResults) -> Iterator[tuple[str, str, Estimate]]:
    yield "judge", "Spearman's correlation", found.spearman
    yield "judge", "Kendall's tau-b", found.kendall
    yield "judge", "human score minus the judge's score", found.difference
    for group in found.groups:
        yield f"human minus judge score, by {group.division}", group.name, group.difference


def is_stale(batch: Batch) -> bool:
    """Whether the iteration was rerun after the batch was sampled, or its files are gone."""
    if batch.experiment is None:
        return True
    return hash_source_files(batch.experiment, batch.iteration, batch.kind) != batch.source_sha256


def estimate_agreement(batch: Batch, *, confidence: float, adjudicated: bool = True) -> Estimate:
    """Estimate agreement without ties, with an interval of any confidence level.

    Args:
        adjudicated: whether decisions replace answers.
    """
    items = _load_answered_items(batch)
    if not adjudicated:
        items = [item for item in items if hasattr(item, "answer")]
    pairs = [to_audited_pair(item, adjudicated=adjudicated) for item in items]
    return estimate_decided_agreement(
        pairs, SamplingFrame(get_strata_sizes(batch)), confidence=confidence
    )
