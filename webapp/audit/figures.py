"""Figures in the form that templates show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from meta_reward_core.audit.estimates import Estimate
from meta_reward_core.audit.pair_findings import OUTCOMES, PairFindings
from meta_reward_core.audit.response_findings import ResponseFindings
from meta_reward_core.audit.sampling import STRATEGIES
from webapp.audit.models import Act, Batch, BatchStatus, Otherwise
from webapp.audit.pooling import PooledReport, TrendPoint, trend_sentences
from webapp.audit.reporting import Report
from webapp.charts import Chart, Series, line_chart
from webapp.scales import SHARE

_AS_GOOD_AS_ALL: Final = 0.9995


@dataclass(frozen=True, slots=True)
class Line:
    """A figure with its interval and the items behind it, as text."""

    name: str
    value: str
    interval: str
    count: int


@dataclass(frozen=True, slots=True)
class BiasLine:
    """What wins, by the meta-judge and by people."""

    name: str
    meta_judge: Line
    people: Line


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """What people said, and how often the meta-judge said what to it."""

    name: str
    cells: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """All tables of a report."""

    headline: tuple[Line, ...]
    biases: tuple[BiasLine, ...]
    confusion: tuple[ConfusionRow, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    auditors: tuple[Line, ...]
    coverage: str


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """A batch in a list; `strategy` in words."""

    batch: Batch
    strategy: str
    items: int
    answers: int


@dataclass(frozen=True, slots=True)
class TrendLine:
    """What all audits of one iteration say."""

    iteration: int
    agreement: Line
    elo: Line
    kappa: Line
    alpha: Line
    spearman: Line
    difference: Line

    @property
    def figures(self) -> tuple[Line, ...]:
        """All of them, in the order of `TREND`."""
        return (
            self.agreement, self.elo, self.kappa, self.alpha, self.spearman, self.difference
        )  # fmt: skip


TREND: Final = (
    "Agreement with the meta-judge, without ties",
    "Elo names people's winner",
    "Cohen's kappa",
    "Krippendorff's alpha",
    "Spearman with the judge's mean",
    "People's points less the judge's",
)
"""Headings of what a `TrendLine` shows."""


@dataclass(frozen=True, slots=True)
class Trend:
    """What audits say over iterations."""

    charts: tuple[Chart, ...]
    lines: tuple[TrendLine, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActLine:
    """Who did what to a gate or a batch."""

    when: datetime
    by_name: str
    what: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class PooledFigures:
    """All tables of what an iteration's batches of one kind say together."""

    pooled: PooledReport
    figures: ReportFigures | None


def share_line(name: str, found: Estimate) -> Line:
    """A share in percent."""
    return _line(name, found, lambda value: f"{value:.1%}")


def _line(name: str, found: Estimate, say: Any) -> Line:
    if found.value is None:
        return Line(name, "no answer yet", "", found.count)
    if found.low is None or found.high is None:
        return Line(name, say(found.value), "too few answers", found.count)
    return Line(name, say(found.value), f"{say(found.low)} to {say(found.high)}", found.count)


def _plain(name: str, found: Estimate) -> Line:
    return _line(name, found, lambda value: f"{value:.2f}")


def batch_figures(batch: Any) -> BatchFigures:
    """A batch with its counts, which the query has annotated."""
    strategy = STRATEGIES[batch.strategy].partition(":")[0]
    return BatchFigures(batch, strategy, batch.item_count, batch.answer_count)


def report_figures(report: Report) -> ReportFigures:
    """All tables of a report."""
    pairs, responses = report.pairs, report.responses
    return ReportFigures(
        headline=_pair_lines(pairs) if pairs else _response_lines(responses),
        biases=tuple(_biases(pairs)) if pairs else (),
        confusion=_confusion(pairs) if pairs else (),
        groups=_groups(report),
        auditors=_consistency(report),
        coverage=_coverage(report.coverage),
    )


def _coverage(share: float | None) -> str:
    """How much of an iteration the answers speak for; empty where it is all, or nothing."""
    return "" if share is None or share > _AS_GOOD_AS_ALL else f"{share:.1%}"


def pooled_figures(pooled: PooledReport) -> PooledFigures:
    """All tables of what an iteration's batches say together."""
    report = pooled.report
    return PooledFigures(pooled, report_figures(report) if report else None)


def _pair_lines(found: PairFindings) -> tuple[Line, ...]:
    return (
        share_line("Agreement with the meta-judge, without ties", found.agreement_decided),
        share_line("Agreement with the meta-judge, ties too", found.agreement),
        share_line("Elo's order names the judgment that people prefer", found.elo),
        _plain("Cohen's kappa with the meta-judge", found.kappa),
    )


def _response_lines(found: ResponseFindings | None) -> tuple[Line, ...]:
    if found is None:
        return ()
    return (
        _plain("Spearman's correlation with the judge's mean", found.spearman),
        _plain("Kendall's tau-b with the judge's mean", found.kendall),
        _plain("People's points less the judge's", found.difference),
    )


def _biases(found: PairFindings) -> list[BiasLine]:
    return [
        BiasLine(
            bias.name,
            share_line(bias.name, bias.meta_judge),
            share_line(bias.name, bias.people),
        )
        for bias in found.biases
    ]


def _confusion(found: PairFindings) -> tuple[ConfusionRow, ...]:
    return tuple(
        ConfusionRow(name, tuple(map(share_line, OUTCOMES, cells)))
        for name, cells in zip(OUTCOMES, found.confusion, strict=True)
    )


def _groups(report: Report) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    found: dict[str, list[Line]] = {}
    for group in report.pairs.groups if report.pairs else ():
        line = share_line(group.name, group.agreement)
        found.setdefault(group.division, []).append(line)
    for part in report.responses.groups if report.responses else ():
        found.setdefault(part.division, []).append(_plain(part.name, part.difference))
    return tuple((name.replace("_", " "), tuple(lines)) for name, lines in found.items())


def _consistency(report: Report) -> tuple[Line, ...]:
    found = report.consistency
    return (
        share_line("The same auditor gives the same answer again", found.same),
        share_line("Another auditor gives the same answer", found.other),
        _alpha_line("Krippendorff's alpha", found.alpha),
    )


def _alpha_line(name: str, found: Estimate) -> Line:
    """Alpha, which is none where all answers are alike, however many there are."""
    line = _plain(name, found)
    if found.value is not None:
        return line
    none = "all answers are alike" if found.count else "no item with two auditors"
    return replace(line, value=none)


def describe_act(act: Act) -> ActLine:
    """A deed in words."""
    batch = act.batch_id
    what = f"{act.get_deed_display()}: batch {batch}" if batch else act.get_deed_display()
    return ActLine(act.when, act.by_name, what, _terms(act.before), _terms(act.after), act.reason)


def _terms(values: Mapping[str, Any]) -> str:
    """Plain values of a deed, in words."""
    if "auditors" in values:
        return ", ".join(values["auditors"]) or "nobody"
    if "status" in values:
        return str(BatchStatus(values["status"]).label)
    if not values:
        return "nothing"
    otherwise = Otherwise(values["otherwise"]).label
    return (
        f"above {values['least']:g} with confidence {values['confidence']:g}, from "
        f"{values['answers']} answers; else {otherwise}"
    )


def trend_figures(points: Sequence[TrendPoint]) -> Trend:
    """Agreement and points over iterations, as far as there are any."""
    pairs = [point for point in points if point.agreement.count]
    scored = [point for point in points if point.difference.count]
    charts = []
    if pairs:
        charts.append(
            _chart(
                "Agreement of people and meta-judge",
                [(point.iteration, point.agreement) for point in pairs],
                y_label="share of verdicts, without ties",
                within=SHARE,
                description="With 95% intervals; a coin agrees in half of them.",
            )
        )
    if scored:
        charts.append(
            _chart(
                "People's points less the judge's",
                [(point.iteration, point.difference) for point in scored],
                y_label="points",
                description="With 95% intervals; below 0 the judge is too generous.",
            )
        )
    return Trend(tuple(charts), tuple(map(_trend_line, points)), tuple(trend_sentences(points)))


def _chart(
    title: str,
    found: Sequence[tuple[int, Estimate]],
    *,
    y_label: str,
    description: str,
    within: tuple[float, float] | None = None,
) -> Chart:
    names = {"estimate": "value", "lower end": "low", "upper end": "high"}
    series = [
        Series(name, [(number, getattr(estimate, end)) for number, estimate in found])
        for name, end in names.items()
    ]
    return line_chart(
        title,
        series,
        x_label="iteration",
        y_label=y_label,
        within=within,
        description=description,
    )


def _trend_line(point: TrendPoint) -> TrendLine:
    return TrendLine(
        point.iteration,
        agreement=share_line(TREND[0], point.agreement),
        elo=share_line(TREND[1], point.elo),
        kappa=_plain(TREND[2], point.kappa),
        alpha=_alpha_line(TREND[3], point.alpha),
        spearman=_plain(TREND[4], point.spearman),
        difference=_plain(TREND[5], point.difference),
    )
