"""Open the files of an experiment from its rows."""

import functools

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import ArtifactError
from meta_reward_core.experiment import Experiment, compute_experiment_stamp, open_experiment
from meta_reward_core.storage.artifact_store import ArtifactStore
from webapp.experiments import models
from webapp.experiments.files import describe_other_files


def open_row(row: models.Experiment) -> Experiment:
    """Open the files of an experiment.

    Raises:
        ArtifactError: the files are gone, or the seed model has changed.
    """
    # Checked every time: under an unmounted root, the iteration would appear to be empty.
    stamp = compute_experiment_stamp(ArtifactStore(row.artifact_root), row.name)
    experiment: Experiment = _open_cached(
        row.artifact_root, row.name, row.recipe_sha256, row.base_model_sha256, stamp
    )
    if experiment.uuid != row.uuid:
        raise ArtifactError(describe_other_files(row))
    return experiment


def build_context(iteration: models.Iteration) -> IterationContext:
    """Build the context of an iteration's stages from the current files.

    Raises:
        ArtifactError: the files are gone, or the previous iteration is not finished.
    """
    return open_row(iteration.experiment).build_context(iteration.number)


@functools.lru_cache(maxsize=16)
def _open_cached(
    artifact_root: str,
    name: str,
    recipe_sha256: str,
    base_model_sha256: str,
    stamp: str,  # noqa: ARG001 another one means another state of settings or model
) -> Experiment:
    """Open with a cache by state, because hashing the base model is slow."""
    experiment = open_experiment(ArtifactStore(artifact_root), name)
    if experiment is None:
        raise ArtifactError(f"the files of experiment {name!r} are missing in {artifact_root}")
    found = (experiment.recipe_sha256, experiment.seed_model.sha256)
    if found != (recipe_sha256, base_model_sha256):
        raise ArtifactError(
            f"the files of experiment {name!r} under {artifact_root} belong to another "
            f"experiment: the recipe or the base model differs from the database"
        )
    return experiment
