"""What an evaluation ends in: figures with their intervals, and findings that limit their worth."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about a model.

    Attributes:
        name: in the words of its benchmark.
        value: the figure, in the benchmark's unit; None when it cannot be computed.
        count: how many prompts, pairs or items it was taken from.
        low: lower end of its interval, where it has one; 95% unless the name says another level.
        high: upper end.
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
    """Something about the data that a reader of the figures must know.

    Attributes:
        name: in snake_case, for programs.
        sentence: what is the case.
        advice: what it means and what to do.
        rows: how many rows are concerned.
    """

    name: str
    sentence: str
    advice: str
    rows: int


@dataclass(frozen=True, slots=True)
class Scorecard:
    """All that one evaluation says of one model.

    Attributes:
        benchmark: the scoring rule with its version.
        model: who was evaluated.
        baseline: whom it was compared with, if anybody.
        judge: who preferred or scored.
        figures: in reading order.
        findings: what limits the figures' worth; empty when nothing was found.
        columns: the same numbers under the names of the public leaderboard.
    """

    benchmark: str
    model: str
    baseline: str | None
    judge: str | None
    figures: tuple[Metric, ...]
    findings: tuple[DataIssue, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> Metric:
        """The figure of a name.

        Raises:
            KeyError: there is none.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


def serialize_scorecard(card: Scorecard) -> dict[str, Any]:
    """A scorecard as JSON: the leaderboard's columns on top, everything else below them."""
    return card.columns | {
        "benchmark": card.benchmark,
        "model": card.model,
        "baseline": card.baseline,
        "judge": card.judge,
        "figures": [_to_dict(figure) for figure in card.figures],
        "findings": [_to_dict(finding) for finding in card.findings],
    }


def _to_dict(record: Metric | DataIssue) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def make_issue_if_any(
    rows: Iterable[object], name: str, sentence: str, advice: str
) -> list[DataIssue]:
    """A finding about the rows, if there are any; `{rows}` in the sentence is their number."""
    count = sum(1 for _ in rows)
    if count == 0:
        return []
    return [DataIssue(name, sentence.format(rows=f"{count:,}"), advice, count)]


def count_reasons(reasons: Iterable[str | None]) -> str:
    """` (reason: number; ...)` for the sentence of a finding; empty where no reason is known.

    Braces are doubled, because `make_issue_if_any` formats the sentence.
    """
    counts = Counter(reason for reason in reasons if reason is not None)
    listed = "; ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items()))
    return f" ({listed})".replace("{", "{{").replace("}", "}}") if listed else ""
