"""Results of all batches of an iteration together, and their trend over iterations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from django.db.models import Q

from meta_reward_core.review.meta_judge_results import describe_agreement_change
from meta_reward_core.review.stratified_estimators import NO_ESTIMATE, Estimate
from webapp.audit.batch_report import BatchReport, is_stale, make_report
from webapp.audit.models import HAND_PICKED, Batch, ItemKind, RepeatKind
from webapp.experiments.models import Experiment


@dataclass(frozen=True, slots=True)
class PooledReport:
    """Pooled results of the batches of one iteration and kind.

    Attributes:
        batches: batches that count: answered ones whose items were not regenerated since.
        left_out: all other batches.
    """

    kind: ItemKind
    batches: tuple[Batch, ...]
    left_out: tuple[Batch, ...]
    report: BatchReport | None


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """Results of all batches of one iteration: verdicts, scores and auditors.

    Attributes:
        alpha: Krippendorff's alpha of verdict answers; without any, of scores.
    """

    iteration: int
    agreement: Estimate
    elo: Estimate
    kappa: Estimate
    alpha: Estimate
    spearman: Estimate
    difference: Estimate


def pool_iteration(experiment: Experiment, number: int) -> list[PooledReport]:
    """Pool the batches of an iteration by kind; kinds without a batch are skipped.

    Hand-picked batches are not samples of the iteration and are left out.
    """
    sampled = experiment.audits.exclude(strategy=HAND_PICKED)
    found = list(sampled.filter(iteration=number).order_by("created", "pk"))
    by_kind = [(kind, [batch for batch in found if batch.kind == kind]) for kind in ItemKind]
    return [_pool_batches(kind, batches) for kind, batches in by_kind if batches]


def _pool_batches(kind: ItemKind, batches: Sequence[Batch]) -> PooledReport:
    counted = tuple(batch for batch in batches if _is_counted(batch))
    left_out = tuple(batch for batch in batches if batch not in counted)
    return PooledReport(kind, counted, left_out, make_report(*counted) if counted else None)


def _is_counted(batch: Batch) -> bool:
    answered = Q(answer__isnull=False) | ~Q(adjudicated="")
    return batch.items.filter(answered, repeat_kind=RepeatKind.NO).exists() and not is_stale(batch)


def compute_trend(experiment: Experiment) -> list[TrendPoint]:
    """Compute the results of each audited iteration in order, without unanswered ones."""
    numbers = experiment.audits.values_list("iteration", flat=True).distinct().order_by("iteration")
    points = [_compute_trend_point(experiment, number) for number in numbers]
    return [point for point in points if point.agreement.count or point.difference.count]


def _compute_trend_point(experiment: Experiment, number: int) -> TrendPoint:
    reports = [pooled.report for pooled in pool_iteration(experiment, number) if pooled.report]
    pairs = [report.pairs for report in reports if report.pairs]
    responses = [report.responses for report in reports if report.responses]
    return TrendPoint(
        number,
        agreement=pairs[0].agreement_decided if pairs else NO_ESTIMATE,
        elo=pairs[0].elo if pairs else NO_ESTIMATE,
        kappa=pairs[0].kappa if pairs else NO_ESTIMATE,
        alpha=reports[0].consistency.alpha if reports else NO_ESTIMATE,
        spearman=responses[0].spearman if responses else NO_ESTIMATE,
        difference=responses[0].difference if responses else NO_ESTIMATE,
    )


def describe_trend(points: Sequence[TrendPoint]) -> list[str]:
    """Describe how agreement changed from each audited iteration to the next."""
    audited = [point for point in points if point.agreement.count]
    return [
        describe_agreement_change(
            before.iteration, before.agreement, after.iteration, after.agreement
        )
        for before, after in pairwise(audited)
    ]
