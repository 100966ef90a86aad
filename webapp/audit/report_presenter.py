"""Metrics of audits in the form that templates show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any, Final

from django.contrib.auth.models import User

from meta_reward_core.review.auditor_quality import AuditorQuality
from meta_reward_core.review.judge_results import JudgeResults
from meta_reward_core.review.meta_judge_results import (
    OUTCOMES,
    MetaJudgeResults,
    format_share,
)
from meta_reward_core.review.sample_size import (
    HALF_WIDTHS,
    SampleSize,
    compute_items_above,
    plan_sample_sizes,
)
from meta_reward_core.review.stratified_estimators import Estimate
from meta_reward_core.review.stratified_sampling import STRATEGY_GUIDE
from webapp.activity.models import Activity, ObjectType
from webapp.audit.auditor_report import AuditorReport
from webapp.audit.batch_report import BatchReport
from webapp.audit.batch_sampling import format_strategy
from webapp.audit.gate import format_percent, read_terms
from webapp.audit.models import Batch, BatchStatus, Gate, OnGateFailure
from webapp.audit.pooled_report import PooledReport, TrendPoint, describe_trend
from webapp.audit.selectors import list_answer_seconds
from webapp.charts.chart import Chart
from webapp.charts.lines import Series, build_line_chart
from webapp.charts.scales import SHARE
from webapp.experiments.models import Experiment

USUAL_REPEAT_SHARE: Final = 0.3
"""Default share of repeats in the form of a new batch."""
_AGREEMENTS: Final = (70, 80, 90)
"""Rates of agreement in percent, for which the gate's page lists the number of items."""
_FULL_COVERAGE: Final = 0.9995
_PERCENT: Final = (0.0, 100.0)


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric with its interval and number of items, as text.

    Attributes:
        excluded: how many items it leaves out, and why; empty if none.
        flag: what the interval shows to be wrong; empty if nothing.
    """

    name: str
    value: str
    interval: str
    count: int
    excluded: str = ""
    flag: str = ""


@dataclass(frozen=True, slots=True)
class BiasLine:
    """How often one side wins according to the meta-judge and to auditors."""

    name: str
    meta_judge: MetricLine
    people: MetricLine


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """A human verdict with the shares of meta-judge verdicts."""

    name: str
    cells: tuple[MetricLine, ...]


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric with its values in the order of the columns."""

    name: str
    values: tuple[tuple[str, MetricLine], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Headline metrics from different answers to the same items, side by side.

    Attributes:
        flagged: names of the flagged auditors without whose answers the last column is.
        is_changed: whether decisions change any metric.
    """

    columns: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]
    flagged: tuple[str, ...]
    is_changed: bool


@dataclass(frozen=True, slots=True)
class ReportView:
    """All tables of a report.

    Attributes:
        compared: the headline with and without decisions and flagged auditors; None if nothing is
            decided and no auditor is flagged.
    """

    headline: tuple[MetricLine, ...]
    compared: Comparison | None
    biases: tuple[BiasLine, ...]
    confusion: tuple[ConfusionRow, ...]
    groups: tuple[tuple[str, tuple[MetricLine, ...]], ...]
    auditors: tuple[MetricLine, ...]
    coverage: str


@dataclass(frozen=True, slots=True)
class AuditorLine:
    """Quality of an auditor, as text.

    Attributes:
        quality: accuracy, self-consistency and change.
        preferences: how often the answers name a judgment for its position, length or score.
    """

    name: str
    answers: int
    quality: tuple[MetricLine, ...]
    preferences: tuple[MetricLine, ...]
    seconds: MetricLine
    is_flagged: bool

    @property
    def metrics(self) -> tuple[MetricLine, ...]:
        """All metrics but the time."""
        return (*self.quality, *self.preferences)

    @property
    def biases(self) -> tuple[str, ...]:
        """What the intervals show to be wrong with the preferences."""
        return tuple(line.flag for line in self.preferences if line.flag)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch in a list; `strategy` is a label."""

    batch: Batch
    strategy: str
    items: int
    answers: int
    undecided: int
    undecided_text: str
    auditors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrendLine:
    """Results of all audits of one iteration."""

    iteration: int
    agreement: MetricLine
    elo: MetricLine
    kappa: MetricLine
    alpha: MetricLine
    spearman: MetricLine
    difference: MetricLine

    @property
    def metrics(self) -> tuple[MetricLine, ...]:
        """All metrics, in the order of `TREND`."""
        return (
            self.agreement, self.elo, self.kappa, self.alpha, self.spearman, self.difference
        )  # fmt: skip


_AGREEMENT: Final = "Meta-judge agrees with human preference"
_DECIDED_AGREEMENT: Final = f"{_AGREEMENT}, without ties"
_ACCURACY: Final = "Accuracy"
_SHOWN_FIRST: Final = "Prefers the judgment shown first"
_NO_PREFERENCE: Final = 0.5
_ANSWERS_ONLY: Final = "Answers only"
_WITHOUT_FLAGGED: Final = "Without flagged auditors"
_ELO_AGREEMENT: Final = "Elo order agrees with human preference"

TREND: Final = (
    _DECIDED_AGREEMENT,
    _ELO_AGREEMENT,
    "Cohen's kappa",
    "Krippendorff's alpha",
    "Spearman with the judge's mean",
    "Human score minus judge score",
)
"""Headings of a `TrendLine`."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Audit results over iterations."""

    charts: tuple[Chart, ...]
    lines: tuple[TrendLine, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditLogLine:
    """An action on a gate or a batch."""

    created: datetime
    created_by_name: str
    what: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class PooledView:
    """All tables of the pooled batches of one iteration and kind."""

    pooled: PooledReport
    metrics: ReportView | None


def format_share_line(name: str, found: Estimate) -> MetricLine:
    """Format a share as a percentage."""
    return _make_line(name, found, lambda value: format_share(value, found.count))


def _make_line(name: str, found: Estimate, say: Any) -> MetricLine:
    if found.value is None:
        return MetricLine(name, "no answer yet", "", found.count)
    if found.low is None or found.high is None:
        return MetricLine(name, say(found.value), "too few answers", found.count)
    return MetricLine(name, say(found.value), f"{say(found.low)} to {say(found.high)}", found.count)


def _make_number_line(name: str, found: Estimate) -> MetricLine:
    return _make_line(name, found, lambda value: f"{value:z.2f}")


def make_batch_view(batch: Any) -> BatchView:
    """Build the view of a batch from a query with annotated counts and loaded auditors."""
    return BatchView(
        batch,
        format_strategy(batch.strategy),
        batch.item_count,
        batch.answer_count,
        batch.undecided_count,
        describe_undecided(batch, batch.undecided_count),
        tuple(sorted(auditor.username for auditor in batch.auditors.all())),
    )


@dataclass(frozen=True, slots=True)
class PlanningView:
    """Data that helps to plan a batch.

    Attributes:
        wanted: size for the interval that the user entered; None if there is none.
        seconds: median of the timed answers; None if there are none.
        timed: number of timed answers.
        guide: strategies with their purposes.
    """

    sizes: tuple[SampleSize, ...]
    wanted: SampleSize | None
    repeat_share: float
    seconds: float | None
    timed: int
    guide: tuple[tuple[str, str], ...]


def make_planning_view(
    person: User, experiment: Experiment, *, half_width: float | None = None
) -> PlanningView:
    """Compute the items needed for an interval and their cost, and describe each strategy.

    Args:
        half_width: of the interval that the user entered, as a share; None if there is none.
    """
    spent = list_answer_seconds(person, experiment)
    seconds = median(spent) if spent else None
    sizes = plan_sample_sizes(
        repeat_share=USUAL_REPEAT_SHARE,
        seconds=seconds,
        half_widths=HALF_WIDTHS if half_width is None else (half_width, *HALF_WIDTHS),
    )
    wanted = sizes.pop(0) if half_width is not None else None
    guide = ((format_strategy(name), text) for name, text in STRATEGY_GUIDE.items())
    return PlanningView(tuple(sizes), wanted, USUAL_REPEAT_SHARE, seconds, len(spent), tuple(guide))


@dataclass(frozen=True, slots=True)
class GateEffort:
    """What a passed audit takes if answers agree with the meta-judge at some rate.

    Attributes:
        items: answered items without ties, at least the gate's minimum.
        minutes: time of all auditors with the usual repeats; None if no answer has been timed.
        is_minimum: whether fewer items would be sufficient without the gate's minimum.
    """

    percent: int
    items: int
    minutes: float | None
    is_minimum: bool


def list_gate_efforts(person: User, experiment: Experiment, gate: Gate) -> list[GateEffort]:
    """List what a passed audit takes, for several rates of agreement above the gate's minimum."""
    spent = list_answer_seconds(person, experiment)
    efforts = []
    for percent in _AGREEMENTS:
        needed = compute_items_above(gate.min_agreement, percent / 100, confidence=gate.confidence)
        if needed is None:
            continue
        items = max(needed, gate.min_answers)
        answers = items + round(USUAL_REPEAT_SHARE * items)
        minutes = answers * median(spent) / 60 if spent else None
        efforts.append(GateEffort(percent, items, minutes, needed < items))
    return efforts


def make_report_view(report: BatchReport, auditors: AuditorReport | None = None) -> ReportView:
    """Build all tables of a report.

    Args:
        auditors: quality of the auditors; None if the user may not see it.
    """
    pairs = report.pairs
    headline = _make_headline(pairs or report.responses)
    return ReportView(
        headline=headline,
        compared=_compare_headlines(headline, report, auditors),
        biases=tuple(_make_bias_lines(pairs)) if pairs else (),
        confusion=_make_confusion_rows(pairs) if pairs else (),
        groups=_make_groups(report),
        auditors=_make_consistency_lines(report),
        coverage=_format_coverage(report.coverage),
    )


def make_auditor_lines(report: AuditorReport) -> list[AuditorLine]:
    """Build a line for each auditor of a batch, without metrics that no auditor has."""
    lines = [_make_auditor_line(one) for one in report.auditors]
    used = {metric.name for line in lines for metric in line.metrics if metric.count} | {_ACCURACY}
    return [
        replace(
            line,
            quality=tuple(metric for metric in line.quality if metric.name in used),
            preferences=tuple(metric for metric in line.preferences if metric.name in used),
        )
        for line in lines
    ]


def make_own_line(found: AuditorQuality | None) -> AuditorLine | None:
    """Build the line of one auditor; None if there is nothing to show."""
    return _make_auditor_line(found) if found else None


def make_accuracy_charts(report: AuditorReport, *, min_accuracy: float) -> list[Chart]:
    """Build a chart of accuracy over time for each auditor with enough answers."""
    return [
        replace(
            _make_chart(
                one.name,
                [(block.last, _to_percent(block.accuracy)) for block in one.trend],
                x_label="answers so far",
                y_label="accuracy in %",
                within=_PERCENT,
                description="Each point covers the answers since the previous point.",
                reference=(100 * min_accuracy, "bound"),
                is_whole=True,
            ),
            verdict=_describe_change(one),
        )
        for one in report.auditors
        if one.trend
    ]


def _to_percent(found: Estimate) -> Estimate:
    value, low, high = (
        None if one is None else 100 * one for one in (found.value, found.low, found.high)
    )
    return Estimate(value, low, high, found.count)


def _describe_change(found: AuditorQuality) -> str:
    """Describe how accuracy changed in the answers that a chart shows."""
    first, second = (format_share(half.value, half.count) for half in found.halves)
    change = _make_change_line(found)
    return f"First half {first}, second half {second}: {change.value} ({change.interval})."


def _make_change_line(found: AuditorQuality) -> MetricLine:
    line = _make_line("Change in accuracy", found.drift, lambda value: f"{100 * value:+z.0f}")
    if found.drift.value is None:
        return line
    graded = sum(half.count for half in found.halves)
    return replace(line, value=f"{line.value} points", count=graded)


def _make_auditor_line(found: AuditorQuality) -> AuditorLine:
    quality = (
        format_share_line(_ACCURACY, found.accuracy),
        format_share_line("Known items correct", found.known_accuracy),
        format_share_line("Same answer on repeats", found.consistency),
        _make_change_line(found),
    )
    preferences = (
        _flag_bias(format_share_line(_SHOWN_FIRST, found.prefers_first), found.prefers_first),
        format_share_line("Prefers the longer judgment", found.prefers_longer),
        format_share_line("Prefers the higher score", found.prefers_higher_score),
    )
    seconds = _make_line("Median seconds", found.seconds, lambda value: f"{value:.0f}")
    return AuditorLine(found.name, found.answers, quality, preferences, seconds, found.is_flagged)


def _flag_bias(line: MetricLine, found: Estimate) -> MetricLine:
    """Flag a preference for one position that chance does not explain."""
    if found.low is None or found.high is None:
        return line
    is_biased = not found.low <= _NO_PREFERENCE <= found.high
    return replace(line, flag="position bias") if is_biased else line


def _make_headline(found: MetaJudgeResults | JudgeResults | None) -> tuple[MetricLine, ...]:
    """Build the headline metrics of results of either kind."""
    if found is None:
        return ()
    return (
        _make_pair_lines(found)
        if isinstance(found, MetaJudgeResults)
        else _make_response_lines(found)
    )


def _compare_headlines(
    headline: tuple[MetricLine, ...], report: BatchReport, auditors: AuditorReport | None
) -> Comparison | None:
    """Set the headline beside those without decisions and without flagged auditors."""
    alone = _make_headline(report.answers_only)
    trusted = _make_headline(auditors.without_flagged) if auditors else ()
    versions = {"Final": headline, _ANSWERS_ONLY: alone, _WITHOUT_FLAGGED: trusted}
    shown = {title: lines for title, lines in versions.items() if lines}
    if len(shown) < 2:
        return None
    metrics = tuple(
        ComparedMetric(lines[0].name, tuple(zip(shown, lines, strict=True)))
        for lines in zip(*shown.values(), strict=True)
    )
    flagged = auditors.flagged if auditors else ()
    return Comparison(tuple(shown), metrics, flagged, bool(alone) and alone != headline)


def _format_coverage(share: float | None) -> str:
    """Format the share of an iteration that the answers cover; empty if it is 0% or 100%."""
    return "" if share is None or share > _FULL_COVERAGE else f"{share:.1%}"


def make_pooled_view(pooled: PooledReport) -> PooledView:
    """Build all tables of the pooled batches of an iteration."""
    report = pooled.report
    return PooledView(pooled, make_report_view(report) if report else None)


def _make_pair_lines(found: MetaJudgeResults) -> tuple[MetricLine, ...]:
    lines = (
        (format_share_line(_DECIDED_AGREEMENT, found.agreement_decided),
         "a human tie, or no verdict A or B"),
        (format_share_line(f"{_AGREEMENT}, with ties", found.agreement), "no readable verdict"),
        (format_share_line(_ELO_AGREEMENT, found.elo),
         "a human tie, or equal or unknown Elo ratings"),
        (_make_number_line("Cohen's kappa of meta-judge and humans", found.kappa),
         "no readable verdict"),
    )  # fmt: skip
    return tuple(_add_excluded(line, found.answers, reason) for line, reason in lines)


def _add_excluded(line: MetricLine, answered: int, reason: str) -> MetricLine:
    if line.count == answered:
        return line
    left_out = f"{answered - line.count:,} of {answered:,} items excluded: {reason}"
    return replace(line, excluded=left_out)


def _make_response_lines(found: JudgeResults) -> tuple[MetricLine, ...]:
    return (
        _make_number_line("Spearman's correlation with the judge's mean", found.spearman),
        _make_number_line("Kendall's tau-b with the judge's mean", found.kendall),
        _make_number_line("Human score minus judge score", found.difference),
    )


def _make_bias_lines(found: MetaJudgeResults) -> list[BiasLine]:
    return [
        BiasLine(
            bias.name,
            format_share_line(bias.name, bias.meta_judge),
            format_share_line(bias.name, bias.people),
        )
        for bias in found.biases
    ]


def _make_confusion_rows(found: MetaJudgeResults) -> tuple[ConfusionRow, ...]:
    return tuple(
        ConfusionRow(name, tuple(map(format_share_line, OUTCOMES, cells)))
        for name, cells in zip(OUTCOMES, found.confusion, strict=True)
    )


def _make_groups(report: BatchReport) -> tuple[tuple[str, tuple[MetricLine, ...]], ...]:
    found: dict[str, list[MetricLine]] = {}
    for group in report.pairs.groups if report.pairs else ():
        line = format_share_line(group.name, group.agreement)
        found.setdefault(group.division, []).append(line)
    for part in report.responses.groups if report.responses else ():
        found.setdefault(part.division, []).append(_make_number_line(part.name, part.difference))
    return tuple(
        (name.replace("_", " ").capitalize(), tuple(lines)) for name, lines in found.items()
    )


def _make_consistency_lines(report: BatchReport) -> tuple[MetricLine, ...]:
    found = report.consistency
    return (
        format_share_line("The same auditor gives the same answer again", found.same),
        format_share_line("Another auditor gives the same answer", found.other),
        _make_alpha_line("Krippendorff's alpha", found.alpha),
    )


def _make_alpha_line(name: str, found: Estimate) -> MetricLine:
    """Format alpha, which is undefined if all answers are equal."""
    line = _make_number_line(name, found)
    if found.value is not None:
        return line
    none = "all answers are identical" if found.count else "no item was answered by two auditors"
    return replace(line, value=none)


def describe_undecided(batch: Batch, count: int) -> str:
    """Describe how many items of a batch have a disagreement and no decision."""
    said = f"{count or 'no'} item{'s' if count != 1 else ''} without a decision"
    return said if batch.status == BatchStatus.OPEN else f"closed, {said}"


def describe_closing(*, answers: int, given: int, undecided: int) -> tuple[str, ...]:
    """Describe in sentences what closing a batch does."""
    items = f"{undecided} item{'s' if undecided != 1 else ''} with a disagreement"
    return (
        f"Auditors can no longer answer: {answers - given} of {answers} answers are missing."
        if given < answers
        else f"Auditors can no longer change their answers: all {answers} answers are given.",
        f"Review leads can no longer decide: {items} will have no decision."
        if undecided
        else "Review leads can no longer decide: no items are left to adjudicate.",
        "The results are final. An audit gate counts a closed sample as complete, so training can "
        "start.",
        "A review lead can reopen the batch. The activity log records both.",
    )


REOPENING: Final = (
    "Auditors can answer and review leads can decide again, so the results can change.",
    "The audit gate counts the batch again when all items are answered or the batch is closed.",
    "The activity log records the reopening.",
)
"""Effects of reopening a batch, one per sentence."""


def describe_log_entry(act: Activity) -> AuditLogLine:
    """Format an action on a gate or a batch."""
    what = act.get_action_display()
    if act.object_type == ObjectType.BATCH:
        what = f"{what}: {act.object_name}"
    return AuditLogLine(
        act.created,
        act.actor_name,
        what,
        _describe_terms(act.before),
        _describe_terms(act.after),
        act.reason,
    )


def _describe_terms(values: Mapping[str, Any]) -> str:
    """Format the values before or after an action."""
    if "auditors" in values:
        return ", ".join(values["auditors"]) or "nobody"
    if "status" in values:
        return str(BatchStatus(values["status"]).label)
    if not values:
        return "nothing"
    terms = read_terms(values)
    return (
        f"agreement above {format_percent(terms['min_agreement'])}% with "
        f"{format_percent(terms['confidence'])}% confidence, from at least "
        f"{terms['min_answers']} answers; if not passed: "
        f"{OnGateFailure(terms['on_failure']).label}"
    )


def make_trend(points: Sequence[TrendPoint]) -> Trend:
    """Build the trend of agreement and scores over iterations, as far as available."""
    pairs = [point for point in points if point.agreement.count]
    scored = [point for point in points if point.difference.count]
    charts = []
    if pairs:
        charts.append(
            _make_chart(
                "Agreement of humans and meta-judge",
                [(point.iteration, point.agreement) for point in pairs],
                y_label="share of verdicts, without ties",
                within=SHARE,
                reference=(0.5, "chance"),
                description="With 95% confidence intervals.",
            )
        )
    if scored:
        charts.append(
            _make_chart(
                "Human score minus judge score",
                [(point.iteration, point.difference) for point in scored],
                y_label="difference",
                reference=(0.0, "no difference"),
                description="95% confidence intervals. Below 0, the judge is too generous.",
            )
        )
    return Trend(tuple(charts), tuple(map(_make_trend_line, points)), tuple(describe_trend(points)))


def _make_chart(
    title: str,
    found: Sequence[tuple[int, Estimate]],
    *,
    y_label: str,
    description: str,
    x_label: str = "iteration",
    within: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    is_whole: bool = False,
) -> Chart:
    """Draw an estimate with its interval over a number.

    Args:
        reference: value and name of a reference line.
        is_whole: whether the axis covers all of `within`, so that charts can be compared.
    """
    series = Series(
        "estimate",
        [(number, estimate.value) for number, estimate in found],
        intervals={
            number: (estimate.low, estimate.high)
            for number, estimate in found
            if estimate.low is not None and estimate.high is not None
        },
        counts={number: estimate.count for number, estimate in found},
    )
    return build_line_chart(
        title,
        [series],
        x_label=x_label,
        y_label=y_label,
        within=within,
        is_whole=is_whole,
        reference=reference,
        description=description,
    )


def _make_trend_line(point: TrendPoint) -> TrendLine:
    return TrendLine(
        point.iteration,
        agreement=format_share_line(TREND[0], point.agreement),
        elo=format_share_line(TREND[1], point.elo),
        kappa=_make_number_line(TREND[2], point.kappa),
        alpha=_make_alpha_line(TREND[3], point.alpha),
        spearman=_make_number_line(TREND[4], point.spearman),
        difference=_make_number_line(TREND[5], point.difference),
    )
