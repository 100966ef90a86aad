"""Ground-truth metrics of the models of an experiment, with intervals, from stored items."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

from meta_reward_core.errors import ArtifactError, RecipeError
from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.task_scorecards import measure_ground_truth_levels
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.system.untrusted_input import FILE_LIMITS, parse_json
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment, Iteration

Levels = Mapping[int, Mapping[str, Metric]]
"""Metrics by model number and `<subject>.<metric>`."""

_log = logging.getLogger(__name__)


def find_task(experiment: Experiment) -> str | None:
    """Return the task whose ground truth measures the models; None without one."""
    recipe = find_recipe(experiment)
    return None if recipe is None else recipe.task


def find_recipe(experiment: Experiment) -> Recipe | None:
    """Return the recipe of future iterations; None if this version cannot read it."""
    return _parse_recipe(json.dumps(experiment.recipe, sort_keys=True))


@lru_cache(maxsize=512)
def _parse_recipe(recipe: str) -> Recipe | None:
    try:
        return parse_stored_recipe(parse_json(recipe, FILE_LIMITS), origin="experiment")
    except RecipeError:
        return None


def read_ground_truth_levels(experiment: Experiment, iterations: Sequence[Iteration]) -> Levels:
    """Return the metrics of M0 and of the model of each iteration with ground-truth metrics."""
    measured = [row for row in iterations if (row.metrics or {}).get("truth")]
    task = find_task(experiment) if measured else None
    if task is None:
        return {}
    files = open_experiment_files(experiment)
    models = {row.number: row.model_out for row in measured}
    models |= {row.number - 1: row.model_in for row in measured if row.number == 1}
    return {
        number: _read_levels(files.store.root, files.layout.folder, task, number, model)
        for number, model in models.items()
    }


def list_intervals(
    levels: Levels, key: str, values: Mapping[float, float | None]
) -> dict[float, tuple[float, float]]:
    """Return the 95% intervals of a metric by model, around its displayed values.

    The mean over all judgments and that over items can differ; the interval is of the latter.
    """
    found = {}
    for number, metrics in levels.items():
        value = values.get(number)
        interval = None if value is None else shift_interval(metrics.get(key), value)
        if interval is not None:
            found[float(number)] = interval
    return found


def shift_interval(metric: Metric | None, value: float) -> tuple[float, float] | None:
    """Return the interval of a metric around a displayed value; None if it has no interval."""
    if metric is None or metric.value is None or metric.low is None or metric.high is None:
        return None
    moved = value - metric.value
    return metric.low + moved, metric.high + moved


def list_counts(levels: Levels, key: str) -> dict[float, int]:
    """Return by model how many items a metric is computed from."""
    return {
        float(number): metrics[key].count for number, metrics in levels.items() if key in metrics
    }


@lru_cache(maxsize=512)
def _read_levels(
    root: str,
    folder: str,
    task: str,
    number: int,
    model: str,  # noqa: ARG001 other weights give other results
) -> Mapping[str, Metric]:
    try:
        return measure_ground_truth_levels(
            ExperimentFiles(ArtifactStore(root), folder), task=task, number=number
        )
    except ArtifactError as error:
        _log.warning("cannot read results by item of %s M%s: %s", folder, number, error)
        return {}
