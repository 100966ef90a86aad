"""Differences between experiments in ground-truth metrics, paired by held-out prompt."""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.reporting.task_scorecards import measure_ground_truth_differences
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from webapp.experiments.files import open_experiment_files
from webapp.experiments.ground_truth import find_recipe
from webapp.experiments.models import Experiment, Iteration

_SUBJECTS: Final = ("actor", "judge", "meta_judge")

_Place = tuple[str, str, str]
"""Storage root and folder of an experiment, and the model, whose results never change."""

_log = logging.getLogger(__name__)


def read_paired_differences(
    first: Experiment, second: Experiment, number: int
) -> Mapping[str, Metric]:
    """Return `second` minus `first` at M_number, by `<subject>.<metric>`.

    Only metrics whose held-out items are the same in both experiments: these depend on the task and
    on the number of items.
    """
    items = _read_items(first), _read_items(second)
    same = {key for key, count in items[0].items() if items[1].get(key) == count}
    places = _find_place(first, number), _find_place(second, number)
    if not same or places[0] is None or places[1] is None:
        return {}
    task = next(iter(same))[0]
    found = _read_differences(places[0], places[1], task, number)
    return {key: one for key, one in found.items() if (task, key.partition(".")[0]) in same}


def _read_items(row: Experiment) -> Mapping[tuple[str, str], int]:
    """Return the number of held-out items by task and subject."""
    found = find_recipe(row)
    if found is None or found.task is None:
        return {}
    evaluation = found.evaluation
    counts = (evaluation.prompts, evaluation.judge_items, evaluation.comparisons)
    return {(found.task, name): count for name, count in zip(_SUBJECTS, counts, strict=True)}


def _find_place(row: Experiment, number: int) -> _Place | None:
    measured = {one.number: one for one in row.iterations.all() if (one.metrics or {}).get("truth")}
    iteration: Iteration | None = measured.get(max(number, 1))
    if iteration is None:
        return None
    files = open_experiment_files(row)
    model = iteration.model_out if number else iteration.model_in
    return files.store.root, files.layout.folder, model


@lru_cache(maxsize=512)
def _read_differences(
    first: _Place, second: _Place, task: str, number: int
) -> Mapping[str, Metric]:
    try:
        return measure_ground_truth_differences(
            *(ExperimentFiles(ArtifactStore(root), folder) for root, folder, _ in (first, second)),
            task=task,
            number=number,
        )
    except ArtifactError as error:
        _log.warning("cannot compare results by item of %s: %s", second[1], error)
        return {}
