"""From the row of an experiment to its files: only here is said under which name they are."""

from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.models import Experiment


def open_experiment_files(experiment: Experiment) -> ExperimentFiles:
    """Open the files of an experiment; nothing is read before it is asked for."""
    return ExperimentFiles(ArtifactStore(experiment.artifact_root), experiment.name)


def open_iteration_files(experiment: Experiment, number: int) -> IterationFiles:
    """Open the files of an iteration; number 0 holds the pool of prompts."""
    return open_experiment_files(experiment).iteration(number)
