"""Open experiments for read-only commands: no lock, no model, no hash of weights."""

from meta_reward_core.errors import InputError
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import read_settings
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.system.command_hint import make_missing_experiment_error
from webapp.experiments.models import Experiment


def find_row(name: str) -> Experiment:
    """Find the row of an experiment.

    Raises:
        InputError: it does not exist.
    """
    row = Experiment.objects.filter(name=name).first()
    if row is None:
        raise make_missing_experiment_error(name)
    return row


def read_recipe(store: ArtifactStore, name: str, number: int | None = None) -> Recipe:
    """Read the recipe of an iteration; for None, that of future iterations.

    Raises:
        InputError: there is no such experiment.
    """
    files = ExperimentFiles(store, name)
    description = files.read_description()
    if description is None:
        raise make_missing_experiment_error(name, root=store.root)
    return read_settings(files, description).get_recipe(number)


def open_iteration_files(store: ArtifactStore, name: str, number: int) -> IterationFiles:
    """Open the files of an iteration.

    Raises:
        InputError: it has not been started.
    """
    files = ExperimentFiles(store, name).get_iteration(number)
    if number < 1 or not files.has_manifests():
        raise InputError(f"iteration {number} of experiment {name!r} has not been started")
    return files


def find_latest_iteration(store: ArtifactStore, name: str) -> int:
    """Return the number of the last started iteration.

    Raises:
        InputError: no iteration has been started.
    """
    number = ExperimentFiles(store, name).count_started_iterations()
    if number == 0:
        raise InputError(f"no iteration of experiment {name!r} has been started")
    return number
