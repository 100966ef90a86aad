"""Scorecards of `evaluation.tasks` with changes from earlier models, from iterations.

A change is a mean over the same items, measured on both models; it is paired, and clustered by
prompt. If the items of a metric differ between two models, only the common items count.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow.compute as pc

from meta_reward_core.evaluation.clustered_intervals import (
    compute_clustered_change_interval,
    compute_clustered_mean_interval,
)
from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.reporting.scorecard_schema import ScorecardDict, parse_scorecard
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles

_ResultKey = tuple[str, str, int]
_Results = Mapping[_ResultKey, tuple[float, str]]
"""(metric, item_id, part) -> (value, prompt_id)"""

_ORDER_AGREEMENT: Final = "judge.order_agreement"
_SCALES: Final = {
    "actor.true_quality": 5.0,
    "actor.true_quality_greedy": 5.0,
    "actor.win_rate": 100.0,
    "judge.single_judgment_exact": 1.0,
    _ORDER_AGREEMENT: 1.0,
    "meta_judge.accuracy": 1.0,
}
"""Width of the scale of metrics that have a scale; other changes are scaled by the largest one.
"""

CHANGE_MARK: Final = "_change_from_M"


def read_task_scorecards(files: ExperimentFiles, number: int) -> list[ScorecardDict]:
    """Read all scorecards of `evaluation.tasks` of M_number, in recipe order.

    Tasks that were not evaluated have no metrics, and the reason under `not_evaluated`.

    Raises:
        DamagedArtifactError: a table cannot be read.
    """
    rows = _open_iteration(files, number).read("task_scorecards").to_pylist()
    return [_make_card(files, number, row) for row in rows if row["model"] == f"M{number}"]


def measure_ground_truth_changes(
    files: ExperimentFiles, *, task: str, before: int, after: int
) -> dict[str, Metric]:
    """Compute changes between models in a task's ground-truth metrics of each held-out item.

    Paired: all models answer the same items. Order agreement is a mean over pairs of items, a
        U-statistic of degree 2, whose standard error is twice that of the mean of the items' shares
        (Hoeffding 1948, The Annals of Mathematical Statistics 19).

    Returns:
        Changes by `<subject>.<metric>`; empty for iterations of a version that did not store the
        results of single items.

    Raises:
        DamagedArtifactError: a table cannot be read.
    """
    return _measure_changes(_read_results(files, before, task), _read_results(files, after, task))


def measure_ground_truth_differences(
    first: ExperimentFiles, second: ExperimentFiles, *, task: str, number: int
) -> dict[str, Metric]:
    """Compute `second` minus `first` in a task's ground-truth metrics of M_number.

    Paired, as in `measure_ground_truth_changes`: both experiments must have the same held-out
    items.

    Returns:
        Differences by `<subject>.<metric>`.

    Raises:
        DamagedArtifactError: a table cannot be read.
    """
    return _measure_changes(_read_results(first, number, task), _read_results(second, number, task))


def _measure_changes(then: _Results, now: _Results) -> dict[str, Metric]:
    names = dict.fromkeys(metric for metric, _, _ in now)
    found = {name: _measure_scaled_change(name, then, now) for name in names}
    return {name: metric for name, metric in found.items() if metric is not None}


def measure_ground_truth_levels(
    files: ExperimentFiles, *, task: str, number: int
) -> dict[str, Metric]:
    """Compute the ground-truth metrics of M_number, as means of the held-out items.

    The interval of order agreement is as in `measure_ground_truth_changes`. Metrics without single
    items have only their value and count.

    Returns:
        By `<subject>.<metric>`.

    Raises:
        DamagedArtifactError: a table is not readable.
    """
    rows = _open_iteration(files, number).read("evaluation").to_pylist()
    found = {
        f"{row['subject']}.{row['metric']}": Metric(
            f"{row['subject']}.{row['metric']}", row["value"], row["count"], None, None
        )
        for row in rows
        if row["model"] == f"M{number}"
    }
    results = _read_results(files, number, task)
    names = dict.fromkeys(metric for metric, _, _ in results)
    return found | {name: _measure_level(name, results) for name in names}


def _measure_level(name: str, results: _Results) -> Metric:
    own = [(value, prompt) for (metric, _, _), (value, prompt) in results.items() if metric == name]
    mean = sum(value for value, _ in own) / len(own)
    scale = _SCALES.get(name)
    if scale is None:
        free = compute_clustered_mean_interval(*_sum_by_prompt(own))
        return Metric(name, mean, len(own), *(free or (None, None)))
    # Grades in [0, scale] as changes in [-1, 1]: the same t interval, with a grade at either end.
    interval = compute_clustered_change_interval(
        [2 * value / scale - 1 for value, _ in own], [prompt for _, prompt in own]
    )
    width = 2 if name == _ORDER_AGREEMENT else 1
    low, high = (
        mean + width * (scale * (end + 1) / 2 - mean) for end in (interval.low, interval.high)
    )
    return Metric(name, mean, len(own), max(0.0, low), min(scale, high))


def _sum_by_prompt(values: Sequence[tuple[float, str]]) -> tuple[list[float], list[float]]:
    """Sum and count the values of each prompt."""
    sums: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for value, prompt in values:
        sums[prompt] = sums.get(prompt, 0.0) + value
        sizes[prompt] = sizes.get(prompt, 0.0) + 1
    return list(sums.values()), list(sizes.values())


def _measure_scaled_change(name: str, then: _Results, now: _Results) -> Metric | None:
    both = [key for key in now if key[0] == name and key in then]
    if not both:
        return None
    changes = [now[key][0] - then[key][0] for key in both]
    scale = _SCALES.get(name) or max(1.0, *map(abs, changes))
    interval = compute_clustered_change_interval(
        [change / scale for change in changes], [now[key][1] for key in both]
    )
    mean = sum(changes) / len(changes)
    width = 2 if name == _ORDER_AGREEMENT else 1
    low, high = (mean + width * (end * scale - mean) for end in (interval.low, interval.high))
    return Metric(name, mean, len(both), low, high)


def _open_iteration(files: ExperimentFiles, number: int) -> IterationFiles:
    """Open the iteration that measured M_number; the first one measures M_0."""
    return files.get_iteration(max(number, 1))


def _make_card(files: ExperimentFiles, number: int, row: Mapping[str, Any]) -> ScorecardDict:
    task: str = row["task"]
    if row["scorecard"] is None:
        return {
            "benchmark": task,
            "task": task,
            "model": row["model"],
            "figures": [],
            "findings": [],
            "not_evaluated": row["not_evaluated_reason"],
        }
    card = parse_scorecard(row["scorecard"], place=f"{files.name}: {task}") | {"task": task}
    names = [metric["name"] for metric in card["figures"]]
    changes = _iter_changes(files, number, task, names)
    card["figures"] = [*card["figures"], *map(_to_dict, changes)]
    return card


def _iter_changes(
    files: ExperimentFiles, number: int, task: str, names: list[str]
) -> Iterator[Metric]:
    earlier = sorted({0, number - 1} - {number, -1})
    if not earlier:
        return
    now = _read_results(files, number, task)
    for other in earlier:
        then = _read_results(files, other, task)
        for name in names:
            yield from _measure_change(name, then, now, label=f"{name}{CHANGE_MARK}{other}")


def _read_results(files: ExperimentFiles, number: int, task: str) -> _Results:
    table = _open_iteration(files, number).read("task_items")
    wanted = pc.and_(pc.equal(table["task"], task), pc.equal(table["model"], f"M{number}"))
    return {
        (row["metric"], row["item_id"], row["part"]): (row["value"], row["prompt_id"])
        for row in table.filter(wanted).to_pylist()
        if row["value"] is not None
    }


def _measure_change(name: str, then: _Results, now: _Results, *, label: str) -> Iterator[Metric]:
    both = [key for key in now if key[0] == name and key in then]
    if not both:
        return
    changes = [now[key][0] - then[key][0] for key in both]
    interval = compute_clustered_change_interval(changes, [now[key][1] for key in both])
    yield Metric(label, sum(changes) / len(changes), len(both), interval.low, interval.high)


def _to_dict(metric: Metric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in metric.__slots__}
