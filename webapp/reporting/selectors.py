"""Read the data of report pages: runs with their summaries, and stored evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meta_reward_core.reporting.document import format_interval, format_number
from meta_reward_core.reporting.run_loader import ExperimentRun, read_run
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.scorecard_store import iter_scorecard_files
from meta_reward_core.reporting.summary import Summary
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment, RunStatus


def load_run(
    row: Experiment, *, seed_model: str | None = None, look: bool = False
) -> ExperimentRun:
    """Load an experiment's files with the summaries of its rows.

    Args:
        seed_model: description of M0; by default its hash.
        look: whether to read all responses and search for ones that imitate the judge.

    Raises:
        ArtifactError: its files are gone or damaged.
    """
    return read_run(
        open_experiment_files(row),
        summaries=get_summaries(row),
        seed_model=seed_model,
        look_at_answers=look,
    )


def get_summaries(row: Experiment) -> dict[int, Summary]:
    """Return the summaries of completed iterations, with the durations from the database."""
    finished = row.iterations.filter(status=RunStatus.FINISHED)
    return {one.number: one.metrics for one in finished if one.metrics}


def format_report_title(names: Sequence[str]) -> str:
    """Format the title of a report of these experiments."""
    return f"Report: {', '.join(names)}"


_DECIMALS: Final = 3
_AGAIN: Final = ("win_rate_repeat_deviation", "deviation_when_asked_again")
"""Metrics that show how far repeats of an evaluation differ."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A displayed metric.

    Attributes:
        interval: 95% interval, or empty.
        absent: why there is no value; empty if there is one.
    """

    name: str
    value: str
    interval: str
    count: int
    absent: str


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """Results of one evaluation of one model.

    Attributes:
        path: path of its file, relative to the experiment's folder.
        facts: details of the evaluation, by heading.
        issues: sentences about its limitations.
        not_evaluated: why there are no metrics; empty if there are some.
    """

    number: int
    path: str
    benchmark: str
    facts: Mapping[str, str]
    metrics: Sequence[MetricRow]
    issues: Sequence[str]
    not_evaluated: str = ""


def list_evaluations(row: Experiment) -> list[StoredEvaluation]:
    """List all stored evaluations by model and benchmark.

    Raises:
        ArtifactError: one of the files is not readable.
    """
    return [
        StoredEvaluation(
            number=made.number,
            path=made.path,
            benchmark=made.card["benchmark"],
            facts=dict(_iter_facts(made.card)),
            metrics=[_make_row(metric) for metric in made.card["figures"]],
            issues=[f"{one['name']}. {one['sentence']} {one['advice']}"
                    for one in made.card.get("findings") or []],
            not_evaluated=made.card.get("not_evaluated") or "",
        )
        for made in iter_scorecard_files(open_experiment_files(row))
    ]  # fmt: skip


def _iter_facts(card: ScorecardDict) -> Iterator[tuple[str, str]]:
    for heading, key in {"Model": "model", "Baseline": "baseline", "Judge": "judge"}.items():
        if card.get(key):
            yield heading, card[key]
    if card.get("reference"):
        yield "Reference", {"humans": "people", "model": "a model"}[card["reference"]]
    if card.get("task"):
        yield "Measured", "by the iteration itself, on the items of evaluation.tasks"
    else:
        yield "Repeats", _describe_repeats(card)


def _describe_repeats(card: ScorecardDict) -> str:
    for metric in card["figures"]:
        if metric["name"] in _AGAIN and metric["value"] is not None:
            deviation = format_number(metric["value"], _DECIMALS)
            return f"standard deviation {deviation} over {metric['count']:,}"
    return "none: the variation between repetitions is not known"


def _make_row(metric: Mapping[str, Any]) -> MetricRow:
    return MetricRow(
        name=metric["name"],
        value=format_number(metric["value"], _DECIMALS),
        interval=format_interval(metric.get("low"), metric.get("high"), _DECIMALS),
        count=metric["count"],
        absent=metric.get("absent") or "",
    )
