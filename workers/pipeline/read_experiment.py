"""Open what lies on disk for commands that only look: no lock, no model, no hash of weights."""

import json

from meta_reward_core.errors import InputError
from meta_reward_core.processes.command_hint import make_missing_experiment_error
from meta_reward_core.recipes.loader import parse_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.models import Experiment


def find_row(name: str) -> Experiment:
    """Find the row of an experiment.

    Raises:
        InputError: there is none.
    """
    row = Experiment.objects.filter(name=name).first()
    if row is None:
        raise make_missing_experiment_error(name)
    return row


def read_recipe(store: ArtifactStore, name: str) -> Recipe:
    """Read the recipe that an experiment began with.

    Raises:
        InputError: there is no such experiment.
    """
    description = f"{name}/experiment.json"
    if not store.exists(description):
        raise make_missing_experiment_error(name, root=store.root)
    return parse_recipe(json.loads(store.read(description))["recipe"], origin=description)


def open_iteration_files(store: ArtifactStore, name: str, number: int) -> IterationFiles:
    """Open the files of an iteration.

    Raises:
        InputError: it has not been begun.
    """
    files = IterationFiles(store, f"{name}/iteration-{number}")
    if number < 1 or not files.has_manifests():
        raise InputError(f"iteration {number} of experiment {name!r} has not been begun")
    return files


def find_latest_iteration(store: ArtifactStore, name: str) -> int:
    """Number of the last iteration that has been begun.

    Raises:
        InputError: none has.
    """
    number = 0
    while IterationFiles(store, f"{name}/iteration-{number + 1}").has_manifests():
        number += 1
    if number == 0:
        raise InputError(f"no iteration of experiment {name!r} has been begun")
    return number
