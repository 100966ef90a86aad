"""Quality of the auditors of a batch, and the results without flagged auditors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.db.models.functions import Coalesce

from meta_reward_core.review.auditor_quality import (
    AuditorAnswer,
    AuditorQuality,
    Value,
    measure_auditors,
)
from meta_reward_core.review.judge_results import JudgeResults
from meta_reward_core.review.meta_judge_results import MetaJudgeResults
from webapp.audit.batch_report import estimate_batch
from webapp.audit.known_items import iter_known_values
from webapp.audit.models import Answer, Batch, BatchStatus, Item, ItemKind, RepeatKind


@dataclass(frozen=True, slots=True)
class AuditorReport:
    """The auditors of a batch.

    Attributes:
        open_disagreements: items on which auditors differ and that have no decision yet. They are
            excluded, so accuracy is overestimated until they are decided.
        without_flagged: results of the batch without the answers of flagged auditors; None if no
            auditor is flagged.
    """

    auditors: tuple[AuditorQuality, ...]
    open_disagreements: int
    without_flagged: MetaJudgeResults | JudgeResults | None

    @property
    def flagged(self) -> tuple[str, ...]:
        """Names of flagged auditors."""
        return tuple(one.name for one in self.auditors if one.is_flagged)


def find_own_quality(batch: Batch, person: User) -> AuditorQuality | None:
    """Return an auditor's own quality if the batch shows it; None if there is nothing to show.

    Only final answers count: metrics of an answer show which judgment has the higher score, and an
    auditor could undo the answer and give another one. Only answers to items that the auditor
    answered are read.
    """
    if not batch.shows_quality:
        return None
    own = Answer.objects.filter(item__batch=batch, auditor=person)
    if batch.status != BatchStatus.CLOSED:
        own = own.filter(revealed__isnull=False)
    final = set(own.values_list("pk", flat=True))
    roots = own.values_list(Coalesce("item__original", "item"), flat=True)
    answers = _load_answers(
        Answer.objects.filter(Q(item__in=roots) | Q(item__original__in=roots), item__batch=batch)
    )
    graded = _grade_answers(batch, answers)
    measured = measure_auditors(
        (
            replace(one, auditor=person.get_username())
            for answer, one in zip(answers, graded.answers, strict=True)
            if answer.pk in final
        ),
        min_accuracy=batch.min_accuracy,
    )
    return measured[0] if measured else None


def make_auditor_report(batch: Batch) -> AuditorReport:
    """Measure the auditors of a batch."""
    graded = _grade_answers(batch, _load_answers(Answer.objects.filter(item__batch=batch)))
    auditors = tuple(measure_auditors(graded.answers, min_accuracy=batch.min_accuracy))
    flagged = [one.name for one in auditors if one.is_flagged]
    return AuditorReport(
        auditors,
        graded.open_disagreements,
        _estimate_without(batch, flagged) if flagged else None,
    )


@dataclass(frozen=True, slots=True)
class _GradedAnswers:
    """Answers with the correct answers of their items.

    Attributes:
        open_disagreements: items on which auditors differ and that have no decision.
    """

    answers: list[AuditorAnswer]
    open_disagreements: int


def _load_answers(answers: QuerySet[Answer]) -> list[Answer]:
    """Load answers with their items, in the order of submission."""
    related = answers.select_related("item", "item__original", "item__hidden_verdict")
    return list(related.order_by("submitted", "pk"))


def _grade_answers(batch: Batch, answers: Sequence[Answer]) -> _GradedAnswers:
    """Find the correct answers of items, from all answers to these items."""
    by_item: defaultdict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_item[answer.item.original_id or answer.item_id].append(answer)
    decided = dict(
        batch.items.filter(repeat_kind=RepeatKind.NO)
        .exclude(adjudicated="")
        .values_list("pk", "adjudicated")
    )
    decided |= dict(iter_known_values(batch))
    known = {key: _find_known(batch, found, decided.get(key)) for key, found in by_item.items()}
    differing = [key for key, found in by_item.items() if len(_list_values(found)) > 1]
    return _GradedAnswers(
        list(_iter_auditor_answers(answers, known)), sum(key not in decided for key in differing)
    )


def _list_values(answers: Sequence[Answer]) -> set[Value]:
    """Return the answers of different auditors to an item, without same-auditor repeats."""
    return {_get_value(one) for one in answers if one.item.repeat_kind != RepeatKind.SAME}


def _get_value(answer: Answer) -> Value:
    return answer.choice if answer.points is None else float(answer.points)


def _find_known(batch: Batch, answers: Sequence[Answer], decided: str | None) -> Value | None:
    """Return the known value of an item; None if it is not known."""
    if decided:
        return decided if batch.kind == ItemKind.JUDGMENTS else float(decided)
    values = _list_values(answers)
    people = {one.auditor_name for one in answers if one.item.repeat_kind != RepeatKind.SAME}
    return next(iter(values)) if len(values) == 1 and len(people) > 1 else None


def _iter_auditor_answers(
    answers: Sequence[Answer], known: Mapping[int, Value | None]
) -> Iterator[AuditorAnswer]:
    earlier: dict[tuple[int, str], Value] = {}
    for answer in answers:
        item, facts = answer.item, answer.item.hidden_verdict.facts
        key = (item.original_id or item.pk, answer.auditor_name)
        value = _get_value(answer)
        yield AuditorAnswer(
            auditor=answer.auditor_name,
            value=value,
            known=known[key[0]] if item.repeat_kind != RepeatKind.SAME else None,
            shown_first="second" if item.is_swapped else "first",
            longer=_find_larger(facts.get("chars_first"), facts.get("chars_second")),
            higher_score=_find_larger(facts.get("score_first"), facts.get("score_second")),
            earlier=earlier.get(key),
            seconds=answer.seconds,
            is_calibration=item.known_id is not None,
        )
        earlier.setdefault(key, value)


def _find_larger(first: float | None, second: float | None) -> str | None:
    if first is None or second is None or first == second:
        return None
    return "first" if first > second else "second"


def _estimate_without(batch: Batch, flagged: Sequence[str]) -> MetaJudgeResults | JudgeResults:
    """Estimate results from decisions and the answers of other auditors, with the same weights."""
    kept = batch.items.filter(repeat_kind=RepeatKind.NO).filter(
        ~Q(adjudicated="") | Q(answer__isnull=False) & ~Q(answer__auditor_name__in=flagged)
    )
    items: list[Item] = list(kept.select_related("answer", "hidden_verdict", "batch"))
    return estimate_batch(batch, items)
