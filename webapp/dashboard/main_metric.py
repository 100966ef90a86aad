"""The main metric of an experiment in the run table: true quality, or else the mean judge score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from webapp.experiments.chart_texts import describe_change
from webapp.experiments.ground_truth import shift_interval
from webapp.experiments.models import Experiment, Iteration, RunStatus
from webapp.experiments.outcome_summary import count_decimals, find_changes

TRUE_QUALITY: Final = "True quality"
MEAN_SCORE: Final = "Mean judge score"
_KEY: Final = "actor.true_quality"
_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class MainMetric:
    """A metric of the latest measured model, and its change from M0.

    Attributes:
        change: with its interval, if both models answered the same items; empty for M0.
    """

    title: str
    model: int
    value: float
    change: str

    @property
    def text(self) -> str:
        """The value, with three digits."""
        return f"{self.value:,.{count_decimals(abs(self.value), digits=_DIGITS)}f}"


def read_main_metric(experiment: Experiment) -> MainMetric | None:
    """Read the main metric from the completed iterations, which should be prefetched."""
    rows = [row for row in experiment.iterations.all() if row.metrics and _is_completed(row)]
    rows.sort(key=lambda row: row.number)
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    before, after = (
        get_true_quality(row.metrics.get("truth"), side)
        for row, side in ((first, "before"), (last, "after"))
    )
    if after is not None:
        change = "" if before is None else _describe_paired(experiment, first, last, before, after)
        return MainMetric(TRUE_QUALITY, last.number, after, change)
    earlier, latest = _get_mean_score(first), _get_mean_score(last)
    if latest is None:
        return None
    change = ""
    if earlier is not None and first.number < last.number:
        change = describe_change(earlier, latest, None, good=0)
    return MainMetric(MEAN_SCORE, last.number - 1, latest, change)


def _get_mean_score(row: Iteration) -> float | None:
    mean = (row.metrics.get("judge") or {}).get("mean")
    return float(mean) if isinstance(mean, int | float) else None


def _is_completed(row: Iteration) -> bool:
    return row.status == RunStatus.FINISHED


def _describe_paired(
    experiment: Experiment, first: Iteration, last: Iteration, before: float, after: float
) -> str:
    found = find_changes(experiment, first, last).get(_KEY)
    interval = shift_interval(found, after - before)
    return describe_change(before, after, interval, good=1, with_verdict=False)


def get_true_quality(truth: Any, side: str) -> float | None:
    """Return the true quality before or after an iteration from its ground-truth metrics."""
    for row in truth or []:
        if isinstance(row, Mapping) and row.get("metric") == "true_quality":
            value = row.get(side)
            return float(value) if isinstance(value, int | float) else None
    return None
