"""Comparison of M0 with the latest model: actor, judge, meta-judge, length, biases.

A change has an interval if both models answered the same items and the value of each item is stored
(`evaluation.tasks`). Otherwise the summary gives the reason why it has no interval.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.task_scorecards import (
    CHANGE_MARK,
    measure_ground_truth_changes,
    read_task_scorecards,
)
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from webapp.experiments.files import open_experiment_files
from webapp.experiments.ground_truth import find_task
from webapp.experiments.models import Experiment, Iteration, RunStatus

_ACTOR: Final = "Actor"
_JUDGE: Final = "Judge"
_META_JUDGE: Final = "Meta-judge"
_LENGTH: Final = "Length"
_BIASES: Final = "Biases"
MEASURE_GROUPS: Final = (_ACTOR, _JUDGE, _META_JUDGE, _LENGTH, _BIASES)

_TOTALS_ONLY: Final = "only totals over the held-out prompts are stored"
_OTHER_PROMPTS: Final = "each iteration samples different prompts"
_JUDGE_TASKS: Final = ("pair", "judge", "reward")
_MAX_TASK_METRICS: Final = 4
_MAX_DECIMALS: Final = 6

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of models.

    Attributes:
        good: 1 if higher is better, -1 if lower is better, 0 if neither is.
    """

    group: str
    title: str
    good: int


_FROM_GROUND_TRUTH: Final[Mapping[tuple[str, str], Measure]] = {
    ("actor", "true_quality"): Measure(_ACTOR, "true quality (0 to 5)", 1),
    ("actor", "win_rate"): Measure(_ACTOR, "win rate (%)", 1),
    ("judge", "order_agreement"): Measure(_JUDGE, "order agreement", 1),
    ("judge", "single_judgment_exact"): Measure(_JUDGE, "exact single judgments", 1),
    ("meta_judge", "accuracy"): Measure(_META_JUDGE, "accuracy", 1),
    ("actor", "length_chars"): Measure(_LENGTH, "response length (characters)", 0),
    ("judge", "points_per_10_words"): Measure(_BIASES, "score gained by ten filler words", -1),
}
_FROM_OWN_DATA: Final[Mapping[str, Measure]] = {
    "judge.mean": Measure(_JUDGE, "mean score (0 to 5)", 0),
    "judge.parse_rate": Measure(_JUDGE, "readable judgments", 1),
    "meta_judge.inconsistency": Measure(_META_JUDGE, "verdicts that change with the order", -1),
    "response_chars": Measure(_LENGTH, "response length (characters)", 0),
    "meta_judge.won_by_first": Measure(_BIASES, "battles won by the judgment shown first", 0),
    "score_length_correlation": Measure(_BIASES, "correlation of score and length", 0),
}


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One metric of two models.

    Attributes:
        models: the two compared models, such as "M0, M2".
        count: number of items that both models answered; None if it is not stored.
        low, high: bounds of the 95% interval of the change; None without an interval.
        why_no_interval: why there is no interval; empty if there is one.
    """

    measure: Measure
    models: str
    before: float
    after: float
    count: int | None
    change: float
    low: float | None
    high: float | None
    why_no_interval: str

    @property
    def verdict(self) -> str:
        """The verdict of the interval on the change."""
        if self.low is None or self.high is None:
            return "unknown"
        return judge_change(self.low, self.high, good=self.measure.good)

    @property
    def decimals(self) -> int:
        """Number of decimals of all numbers in the row.

        Enough for two significant digits of the interval's half-width or, without an interval,
        three of the larger value. More digits would only show noise.
        """
        if self.low is not None and self.high is not None and self.high > self.low:
            return count_decimals((self.high - self.low) / 2, digits=2)
        return count_decimals(max(abs(self.before), abs(self.after)), digits=3)

    @property
    def before_text(self) -> str:
        """The value of the first model."""
        return f"{self.before:,.{self.decimals}f}"

    @property
    def after_text(self) -> str:
        """The value of the second model."""
        return f"{self.after:,.{self.decimals}f}"

    @property
    def change_text(self) -> str:
        """The change with its sign."""
        return format_signed(self.change, self.decimals)

    @property
    def interval_text(self) -> str:
        """The interval of the change; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        low, high = (format_signed(end, self.decimals) for end in (self.low, self.high))
        return f"[{low}, {high}]"

    @property
    def sentence(self) -> str:
        """The change as a sentence."""
        start = f"{self.measure.group}: {self.measure.title} {self.change_text}"
        if self.interval_text:
            return f"{start} {self.interval_text}, n = {self.count}: {self.verdict}"
        return f"{start}. No interval: {self.why_no_interval}."


@dataclass(frozen=True, slots=True)
class OutcomeSummary:
    """Changes from M0 to the latest model.

    Attributes:
        answer: one sentence: whether the model improved.
    """

    latest: int
    answer: str
    rows: Sequence[OutcomeRow]

    @property
    def has_intervals(self) -> bool:
        """Whether any change has an interval."""
        return any(row.interval_text for row in self.rows)


def build_outcome_summary(
    experiment: Experiment, iterations: Sequence[Iteration]
) -> OutcomeSummary | None:
    """Summarize completed iterations, given in loop order; None if there are none."""
    completed = [row for row in iterations if row.status == RunStatus.FINISHED and row.metrics]
    if not completed:
        return None
    first, last = completed[0], completed[-1]
    rows = [
        *_iter_task_rows(experiment, last),
        *_iter_ground_truth_rows(first, last, find_changes(experiment, first, last)),
    ]
    known = {row.measure.group for row in rows}
    rows += [row for row in _iter_own_rows(first, last) if row.measure.group not in known]
    rows.sort(key=lambda row: MEASURE_GROUPS.index(row.measure.group))
    return OutcomeSummary(last.number, _write_answer(rows, last.number), rows)


def _write_answer(rows: Sequence[OutcomeRow], latest: int) -> str:
    names = {verdict: [_name_measure(row) for row in rows if row.verdict == verdict]
             for verdict in ("better", "worse", "higher", "lower", "no clear change")}  # fmt: skip
    if not any(names.values()):
        return (
            f"Whether M{latest} is better than M0 is unknown: no metric has values per prompt "
            f"for both models. Add tasks to evaluation.tasks to measure every "
            "model on the same prompts."
        )
    unclear = names.pop("no clear change")
    if not any(names.values()):
        return f"No clear change from M0 to M{latest}: each 95% interval includes zero."
    parts = [
        f"M{latest} is {verdict} than M0 in {join_names(names[verdict])}."
        for verdict in ("better", "worse")
        if names[verdict]
    ]
    parts += [
        f"{join_names(names[verdict]).capitalize()}: {verdict}."
        for verdict in ("higher", "lower")
        if names[verdict]
    ]
    if unclear:
        parts.append(f"No clear change in {join_names(unclear)}.")
    return " ".join(parts)


def join_names(names: Sequence[str]) -> str:
    """Join names with commas and "and"; there is at least one."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _name_measure(row: OutcomeRow) -> str:
    """Name a measure without its unit, with the role that it describes."""
    title = row.measure.title.partition(" (")[0]
    has_role = row.measure.group in {_JUDGE, _META_JUDGE}
    return f"{row.measure.group.lower()} {title}" if has_role else title


def describe_difference(first: OutcomeRow, second: OutcomeRow) -> str:
    """Describe the latest value of `second` minus that of `first`, and their models if they differ.

    It has no interval: two experiments are one run each.
    """
    decimals = max(first.decimals, second.decimals)
    text = format_signed(second.after - first.after, decimals)
    latest = [row.models.rpartition(" ")[2] for row in (second, first)]
    return text if latest[0] == latest[1] else f"{text} ({latest[0]} − {latest[1]})"


def _iter_task_rows(experiment: Experiment, last: Iteration) -> Iterator[OutcomeRow]:
    if not experiment.recipe.get("evaluation", {}).get("tasks"):
        return
    files = open_experiment_files(experiment)
    cards = _read_cards(files.store.root, files.layout.folder, last.number, last.model_out)
    for before, after in cards:
        yield from _iter_card_rows(before, after, last.number)


@lru_cache(maxsize=256)
def _read_cards(
    root: str,
    folder: str,
    number: int,
    model: str,  # noqa: ARG001 other weights have other scorecards
) -> list[tuple[ScorecardDict, ScorecardDict]]:
    """Return scorecards of M0 and the latest model by task."""
    files = ExperimentFiles(ArtifactStore(root), folder)
    try:
        first = {card["task"]: card for card in read_task_scorecards(files, 0)}
        latest = read_task_scorecards(files, number)
    except ArtifactError as error:
        _log.warning("cannot summarize task scorecards of %s: %s", folder, error)
        return []
    return [(first[card["task"]], card) for card in latest if card["task"] in first]


def _iter_card_rows(
    before: ScorecardDict, after: ScorecardDict, number: int
) -> Iterator[OutcomeRow]:
    values = {metric["name"]: metric for metric in before["figures"]}
    metrics = {metric["name"]: metric for metric in after["figures"]}
    task = str(after["task"])
    group = _JUDGE if any(word in task for word in _JUDGE_TASKS) else _ACTOR
    shown = 0
    for name, metric in metrics.items():
        change = metrics.get(f"{name}{CHANGE_MARK}0")
        then = values.get(name)
        if change is None or then is None or shown == _MAX_TASK_METRICS:
            continue
        shown += 1
        yield OutcomeRow(
            measure=Measure(group, f"{task}, {name.replace('_', ' ').replace('.', ', ')}", 1),
            models=f"M0, M{number}",
            before=then["value"],
            after=metric["value"],
            count=change["count"],
            change=change["value"],
            low=change["low"],
            high=change["high"],
            why_no_interval="" if change["low"] is not None else _TOTALS_ONLY,
        )


def find_changes(experiment: Experiment, first: Iteration, last: Iteration) -> Mapping[str, Metric]:
    """Return the changes in metrics of held-out items from before `first` to after `last`.

    Empty if the task's ground truth did not store them.
    """
    task = find_task(experiment) if last.metrics.get("truth") else None
    if task is None:
        return {}
    files = open_experiment_files(experiment)
    return _read_changes(
        files.store.root,
        files.layout.folder,
        task,
        first.number - 1,
        last.number,
        last.model_out,
    )


@lru_cache(maxsize=1024)
def _read_changes(
    root: str,
    folder: str,
    task: str,
    before: int,
    after: int,
    model: str,  # noqa: ARG001 other weights give other results
) -> Mapping[str, Metric]:
    try:
        return measure_ground_truth_changes(
            ExperimentFiles(ArtifactStore(root), folder), task=task, before=before, after=after
        )
    except ArtifactError as error:
        _log.warning("cannot summarize results by item of %s: %s", folder, error)
        return {}


def _iter_ground_truth_rows(
    first: Iteration, last: Iteration, changes: Mapping[str, Metric]
) -> Iterator[OutcomeRow]:
    before, after = _read_ground_truth(first, "before"), _read_ground_truth(last, "after")
    for key, measure in _FROM_GROUND_TRUTH.items():
        then, now = before.get(key), after.get(key)
        if then is not None and now is not None:
            models = f"M{first.number - 1}, M{last.number}"
            row = _make_row(measure, models, then, now, _TOTALS_ONLY)
            change = changes.get(".".join(key))
            yield row if change is None else _add_interval(row, change)


def _add_interval(row: OutcomeRow, change: Metric) -> OutcomeRow:
    """Return the interval of a change and its middle, which is displayed as the change."""
    if change.value is None or change.low is None or change.high is None:
        return row
    low = row.change + change.low - change.value
    high = row.change + change.high - change.value
    return replace(row, count=change.count, low=low, high=high, why_no_interval="")


def _read_ground_truth(iteration: Iteration, side: str) -> dict[tuple[str, str], float | None]:
    rows = iteration.metrics.get("truth") or []
    return {(row["subject"], row["metric"]): row.get(side) for row in rows}


def _iter_own_rows(first: Iteration, last: Iteration) -> Iterator[OutcomeRow]:
    """Yield metrics of each iteration's own data, which M_{t-1} generated."""
    if first.number == last.number:
        return
    models = f"M{first.number - 1}, M{last.number - 1}"
    for path, measure in _FROM_OWN_DATA.items():
        then, now = _get_number(first.metrics, path), _get_number(last.metrics, path)
        if then is not None and now is not None:
            yield _make_row(measure, models, then, now, _OTHER_PROMPTS)


def _get_number(values: Any, path: str) -> float | None:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return float(values) if isinstance(values, int | float) else None


def _make_row(measure: Measure, models: str, then: float, now: float, why: str) -> OutcomeRow:
    return OutcomeRow(measure, models, then, now, None, now - then, None, None, why)


def judge_change(low: float, high: float, *, good: int) -> str:
    """Return the verdict of the interval of a change.

    Args:
        good: see `Measure`.
    """
    if low <= 0 <= high:
        return "no clear change"
    direction = good * (1 if low > 0 else -1)
    return {1: "better", -1: "worse", 0: "higher" if low > 0 else "lower"}[direction]


def count_decimals(size: float, *, digits: int) -> int:
    """Count the decimals that show a number of this size with some significant digits."""
    if size <= 0:
        return digits - 1
    return min(_MAX_DECIMALS, max(0, digits - 1 - math.floor(math.log10(size))))


def format_signed(value: float, decimals: int) -> str:
    """Format a change with its sign; 0 has none."""
    text = f"{abs(value):,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"
