"""Results of an evaluation: metrics with intervals, and data issues."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Subject = Literal["actor", "judge", "meta_judge", "pairs", "training"]
Basis = Literal["own_data", "oracle", "self_judged"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric of a model in one of its roles, measured by the loop itself.

    Attributes:
        model: name of the model, such as `M1`.
        subject: the role, or the subject, that is measured.
        metric: the metric's name.
        value: the metric's value; None if there was nothing to measure.
        count: number of measured items.
        basis: basis of the measurement. `own_data`: the iteration's own files, scored by the
            measured judge. `oracle`: held-out items, evaluated by a program with access to the
            ground truth. `self_judged`: the same held-out items, judged by the model itself.
    """

    model: str
    subject: Subject
    metric: str
    value: float | None
    count: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a model on a benchmark.

    Attributes:
        name: the benchmark's name for the metric.
        value: value in the benchmark's unit; None if it cannot be computed.
        count: number of prompts, pairs or items it was computed from.
        low: lower end of the interval, if any; the level is 95% unless the name contains another
            level.
        high: upper end of this interval.
        absent: why there is no value.
    """

    name: str
    value: float | None
    count: int
    low: float | None = None
    high: float | None = None
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class DataIssue:
    """A data issue that affects the interpretation of the metrics.

    Attributes:
        name: identifier in snake_case, for programs.
        sentence: description of the issue.
        advice: its meaning and what to do.
        rows: number of affected rows.
    """

    name: str
    sentence: str
    advice: str
    rows: int


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Results of one evaluation of one model.

    Attributes:
        benchmark: the scoring rule with its version.
        model: the evaluated model.
        baseline: the model with which it was compared, if any.
        judge: the judge that compared or scored.
        metrics: metrics in reading order.
        issues: limits of the metrics' meaning; empty if none were found.
        columns: the same numbers under the column names of the public leaderboard.
    """

    benchmark: str
    model: str
    baseline: str | None
    judge: str | None
    metrics: tuple[Metric, ...]
    issues: tuple[DataIssue, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)

    def get_metric(self, name: str) -> Metric:
        """Return a metric by name.

        Raises:
            KeyError: there is no metric of this name.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


def serialize_scorecard(card: Scorecard) -> dict[str, Any]:
    """Convert a scorecard to JSON, with the leaderboard's columns at the top level."""
    return card.columns | {
        "benchmark": card.benchmark,
        "model": card.model,
        "baseline": card.baseline,
        "judge": card.judge,
        "figures": [_to_dict(metric) for metric in card.metrics],
        "findings": [_to_dict(issue) for issue in card.issues],
    }


def _to_dict(record: Metric | DataIssue) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def make_issue_if_any(
    rows: Iterable[object], name: str, sentence: str, advice: str
) -> list[DataIssue]:
    """Build an issue about rows, if there are any; `{rows}` is their number."""
    count = sum(1 for _ in rows)
    if count == 0:
        return []
    return [DataIssue(name, sentence.format(rows=f"{count:,}"), advice, count)]


def count_reasons(reasons: Iterable[str | None]) -> str:
    """Format ` (reason: number; ...)` for an issue; empty without known reasons.

    Braces are doubled, because `make_issue_if_any` formats the sentence.
    """
    counts = Counter(reason for reason in reasons if reason is not None)
    listed = "; ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items()))
    return f" ({listed})".replace("{", "{{").replace("}", "}}") if listed else ""
