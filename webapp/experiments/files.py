"""Open the files of an experiment from its database row. Only this module knows their paths."""

import time
from typing import Final
from uuid import UUID

from meta_reward_core.errors import ArtifactError
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import (
    SettingsHistory,
    list_settings_changes,
    read_settings,
)
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.models import Experiment

_REMOTE_SECONDS: Final = 30.0
"""How long a process caches the description that it read from a remote store."""
_MAX_KNOWN: Final = 1000

_Known = tuple[object, UUID | None]
_known: dict[tuple[str, str], _Known] = {}
"""Cached owner of a description, by root, name and state."""


def open_experiment_files(experiment: Experiment) -> ExperimentFiles:
    """Open the files of an experiment; nothing is read until it is needed.

    If the files in its folder belong to another experiment that had or has the same name, they are
    treated as missing.
    """
    store = ArtifactStore(experiment.artifact_root)
    files = ExperimentFiles(store, experiment.name, uuid=experiment.uuid)
    if _read_uuid(files) not in {None, experiment.uuid}:
        # No experiment name has this prefix: the folder never exists.
        files.layout = ExperimentLayout(f".{experiment.uuid.hex}", experiment.uuid)
    return files


def _read_uuid(files: ExperimentFiles) -> UUID | None:
    """Read the UUID of the experiment that owns the files; None if they cannot be read."""
    place = (files.store.root, files.name)
    state = _get_state(files)
    known = _known.get(place)
    if known is None or known[0] != state:
        try:
            known = (state, files.read_uuid())
        except ArtifactError:  # reported when the description is needed
            return None
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[place] = known
    return known[1]


def _get_state(files: ExperimentFiles) -> object:
    if not files.store.is_local:
        return time.monotonic() // _REMOTE_SECONDS
    try:
        found = files.store.get_local_path(files.layout.description).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def describe_other_files(experiment: Experiment) -> str:
    """Explain that the files in an experiment's folder belong to another one, and what to do."""
    return (
        f"the files of experiment {experiment.name!r} under {experiment.artifact_root} belong "
        f"to another experiment with this name: restore the files of this one, or delete it"
    )


def open_iteration_files(experiment: Experiment, number: int) -> IterationFiles:
    """Open the files of an iteration; number 0 is the prompt pool."""
    return open_experiment_files(experiment).get_iteration(number)


def read_settings_history(experiment: Experiment) -> SettingsHistory:
    """Read the settings of each iteration.

    Raises:
        ArtifactError: the files are gone, or cannot be read.
    """
    files = open_experiment_files(experiment)
    if not list_settings_changes(files):
        return SettingsHistory(experiment.name, experiment.recipe)
    return read_settings(files, files.require_description())


def read_iteration_recipe(experiment: Experiment, number: int) -> Recipe:
    """Read the recipe of an iteration; the row contains only the recipe of future iterations.

    Raises:
        ArtifactError: the files cannot be read.
    """
    if not list_settings_changes(open_experiment_files(experiment)):
        return parse_stored_recipe(experiment.recipe, origin=experiment.name)
    return read_settings_history(experiment).get_recipe(number)
