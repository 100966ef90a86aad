"""The files of an experiment: description, iterations, checkpoints, scorecards, lock."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from meta_reward_core.errors import ArtifactError, MalformedInputError
from meta_reward_core.storage.artifact_store import (
    ArtifactStore,
    encode_canonical_json,
    hash_compact_json,
)
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.experiment_lock import lock_experiment
from meta_reward_core.storage.layout import (
    POOL,
    REWARD_MODEL,
    ExperimentLayout,
    derive_earlier_uuid,
)
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.system.untrusted_input import parse_json

Description = dict[str, Any]


class _SeedModel(BaseModel):
    folder: str
    sha256: str


class _Shape(BaseModel):
    """The required keys of a description; other keys are kept."""

    model_config = ConfigDict(strict=True, extra="ignore")

    recipe: dict[str, Any]
    templates: dict[str, str]
    seed: int
    seed_model: _SeedModel
    reward_model: _SeedModel | None = None
    uuid: Annotated[UUID, Strict(strict=False)] | None = None


class ExperimentFiles:
    """Access to the stored files of one experiment, which may not exist yet.

    Attributes:
        name: name of the experiment.
        layout: names of the experiment's files.
    """

    def __init__(self, store: ArtifactStore, name: str, *, uuid: UUID | None = None) -> None:
        self.store = store
        self.name = name
        self.layout = ExperimentLayout.from_name(name, uuid)

    def __str__(self) -> str:
        return self.store.get_path(self.layout.folder)

    def exists(self) -> bool:
        """Whether the experiment exists in this store; its description is written last."""
        return self.store.exists(self.layout.description)

    def read_description(self) -> Description | None:
        """Read the description of the experiment; None if there is none.

        Raises:
            ArtifactError: the description cannot be read.
        """
        data = self.store.read_if_exists(self.layout.description)
        return None if data is None else _parse_object(data, self.layout.description)

    def read_uuid(self) -> UUID | None:
        """Read the UUID of the experiment that the files belong to; None if there are none.

        Raises:
            ArtifactError: the description cannot be read.
        """
        found = self.read_description()
        return None if found is None else get_uuid(found, name=self.name)

    def require_description(self) -> Description:
        """Read the description of the experiment.

        Raises:
            ArtifactError: the files no longer exist, or the description cannot be read.
        """
        found = self.read_description()
        if found is None:
            raise make_missing_files_error(self)
        return found

    def read_description_bytes(self) -> bytes:
        """Read the bytes of the stored description.

        Raises:
            ArtifactError: the description does not exist, or cannot be read.
        """
        return self.store.read(self.layout.description)

    def write_description(self, description: Description) -> bool:
        """Write the description once; False if it already exists.

        Raises:
            StorageFullError: the disk or the store is full.
        """
        return self.store.put_if_absent(self.layout.description, encode_canonical_json(description))

    @property
    def pool(self) -> IterationFiles:
        """Files of the prompt pool."""
        return self.get_iteration(POOL)

    @property
    def reward_model(self) -> Checkpoint:
        """The copy of the reward model of a remote experiment; it does not exist in others."""
        return Checkpoint(self.store, f"{self.pool.folder}/{REWARD_MODEL}")

    def get_iteration(self, number: int) -> IterationFiles:
        """Return the files of an iteration."""
        return IterationFiles(self.store, self.layout.get_iteration(number))

    def get_checkpoint(self, number: int) -> Checkpoint:
        """Return M_number, which may not exist yet; 0 is a remote experiment's copy of M0."""
        return Checkpoint(self.store, self.layout.get_checkpoint(number))

    def count_finished_iterations(self) -> int:
        """Count the finished iterations before the first unfinished one."""
        number = 0
        while self.get_iteration(number + 1).is_finished():
            number += 1
        return number

    def count_started_iterations(self) -> int:
        """Count the iterations before the first one without a finished shard."""
        number = 0
        while self.get_iteration(number + 1).has_manifests():
            number += 1
        return number

    def lock(self) -> AbstractContextManager[None]:
        """Lock out other processes; the lock is released when its process ends, or soon after.

        Raises:
            ExperimentBusyError: another process holds the lock.
        """
        return lock_experiment(self.store, self.name)

    def list_sizes(self) -> dict[str, int]:
        """Sizes of all files in bytes, by their paths relative to the experiment's folder."""
        return self.store.list_sizes(self.layout.folder)

    def delete(self) -> None:
        """Delete all files.

        The description is deleted last, so that after an interrupted deletion the name is still in
        use and the remaining files are still associated with the UUID of their experiment.
        """
        self.delete_leftovers()
        self.store.delete(self.layout.description)
        self.store.delete(self.layout.folder)

    def delete_leftovers(self) -> None:
        """Delete everything except the description and the lock."""
        for name in self.store.list_names(self.layout.folder):
            if self.layout.is_own_folder(name):
                self.store.delete(self.layout.get_path(name))

    def remove_partial_files(self) -> None:
        """Remove partial files of killed writers; call it only while no other process writes."""
        self.store.remove_partial_files(self.layout.folder)


def make_missing_files_error(files: ExperimentFiles) -> ArtifactError:
    """Build the error for missing files; the artifact root can be unmounted at any time."""
    return ArtifactError(
        f"the files of experiment {files.name!r} are missing in {files.store.root}: restore "
        f"them, or mount the folder that contains them, and try again"
    )


def get_uuid(description: Description, *, name: str) -> UUID:
    """Return the UUID of the experiment with this description."""
    if description.get("uuid") is not None:
        return UUID(description["uuid"])
    return derive_earlier_uuid(
        name,
        recipe_sha256=hash_compact_json(description["recipe"]),
        seed=description["seed"],
        base_model_sha256=description["seed_model"]["sha256"],
    )


def iter_experiment_names(store: ArtifactStore) -> Iterator[str]:
    """Yield the names of possible experiments in a store; check with `ExperimentFiles.exists`."""
    yield from store.list_names("")


def _parse_object(data: bytes, origin: str) -> Description:
    try:
        found: Description = parse_json(data)
        _Shape.model_validate(found)
    except MalformedInputError as error:
        raise ArtifactError(f"{origin} {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(
            f"{origin} does not describe an experiment ({place}: {first['msg']}): restore the file "
            "from a backup"
        ) from error
    return found
