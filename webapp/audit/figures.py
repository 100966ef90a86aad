"""Figures in the form that templates show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meta_reward_core.audit.estimates import Estimate
from meta_reward_core.audit.findings import OUTCOMES, PairFindings, ResponseFindings
from webapp.audit.models import Batch
from webapp.audit.reporting import Report, TrendPoint
from webapp.charts import Chart, Series, line_chart


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
    """What people said, and the shares of what the meta-judge said."""

    name: str
    shares: tuple[str, ...]


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
    """A batch in a list."""

    batch: Batch
    items: int
    answers: int


@dataclass(frozen=True, slots=True)
class Trend:
    """Agreement over iterations."""

    chart: Chart
    lines: tuple[tuple[TrendPoint, Line], ...]


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
    return BatchFigures(batch, batch.item_count, batch.answer_count)


def report_figures(report: Report) -> ReportFigures:
    """All tables of a report."""
    pairs, responses = report.pairs, report.responses
    return ReportFigures(
        headline=_pair_lines(pairs) if pairs else _response_lines(responses),
        biases=tuple(_biases(pairs)) if pairs else (),
        confusion=_confusion(pairs) if pairs else (),
        groups=_groups(report),
        auditors=_consistency(report),
        coverage="" if report.coverage is None else f"{report.coverage:.0%}",
    )


def _pair_lines(found: PairFindings) -> tuple[Line, ...]:
    return (
        share_line("Agreement with the meta-judge, without ties", found.agreement_decided),
        share_line("Agreement with the meta-judge, ties too", found.agreement),
        _plain("Cohen's kappa", found.kappa),
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
        ConfusionRow(name, tuple(f"{share:.1%}" for share in shares))
        for name, shares in zip(OUTCOMES, found.confusion, strict=True)
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
    alpha = "no item with two auditors" if found.alpha is None else f"{found.alpha:.2f}"
    return (
        share_line("The same auditor gives the same answer again", found.same),
        share_line("Another auditor gives the same answer", found.other),
        Line("Krippendorff's alpha", alpha, "", found.alpha_units),
    )


def trend_figures(points: Sequence[TrendPoint]) -> Trend | None:
    """Agreement over iterations; None without any."""
    if not points:
        return None
    names = {"agreement": "value", "lower end": "low", "upper end": "high"}
    series = [
        Series(name, [(point.iteration, getattr(point.agreement, end)) for point in points])
        for name, end in names.items()
    ]
    chart = line_chart(
        "Agreement of people and meta-judge",
        series,
        x_label="iteration",
        y_label="share of verdicts, without ties",
        description="With 95% intervals; a coin agrees in half of them.",
    )
    return Trend(chart, tuple((p, share_line("agreement", p.agreement)) for p in points))
