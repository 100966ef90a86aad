"""From the row of an experiment to its files: only here is said under which name they are."""

from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import (
    SettingsHistory,
    list_settings_changes,
    read_settings,
)
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.models import Experiment


def open_experiment_files(experiment: Experiment) -> ExperimentFiles:
    """Open the files of an experiment; nothing is read before it is asked for."""
    return ExperimentFiles(ArtifactStore(experiment.artifact_root), experiment.name)


def open_iteration_files(experiment: Experiment, number: int) -> IterationFiles:
    """Open the files of an iteration; number 0 holds the pool of prompts."""
    return open_experiment_files(experiment).get_iteration(number)


def read_settings_history(experiment: Experiment) -> SettingsHistory:
    """Read which settings held for which iteration.

    Raises:
        ArtifactError: the files are gone, or cannot be read.
    """
    files = open_experiment_files(experiment)
    if not list_settings_changes(files):
        return SettingsHistory(experiment.name, experiment.recipe)
    return read_settings(files, files.require_description())


def read_iteration_recipe(experiment: Experiment, number: int) -> Recipe:
    """Read the recipe that holds for an iteration; the row has that of the iterations to come.

    Raises:
        ArtifactError: the files cannot be read.
    """
    if not list_settings_changes(open_experiment_files(experiment)):
        return parse_stored_recipe(experiment.recipe, origin=experiment.name)
    return read_settings_history(experiment).get_recipe(number)
