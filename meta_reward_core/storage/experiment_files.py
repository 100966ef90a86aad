"""The files of an experiment, opened: description, iterations, checkpoints, scorecards, lock."""

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
from meta_reward_core.storage.layout import POOL, ExperimentLayout, derive_earlier_uuid
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.system.untrusted_input import parse_json

Description = dict[str, Any]


class _SeedModel(BaseModel):
    folder: str
    sha256: str


class _Shape(BaseModel):
    """The required part of a description; what else it holds is kept as it is."""

    model_config = ConfigDict(strict=True, extra="ignore")

    recipe: dict[str, Any]
    templates: dict[str, str]
    seed: int
    seed_model: _SeedModel
    uuid: Annotated[UUID, Strict(strict=False)] | None = None


class ExperimentFiles:
    """What a store holds of one experiment, whether it exists or not.

    Attributes:
        name: of the experiment.
        layout: names of its files.
    """

    def __init__(self, store: ArtifactStore, name: str, *, uuid: UUID | None = None) -> None:
        self.store = store
        self.name = name
        self.layout = ExperimentLayout.from_name(name, uuid)

    def __str__(self) -> str:
        return self.store.get_path(self.layout.folder)

    def exists(self) -> bool:
        """Say whether the experiment has been created here: its description is written last."""
        return self.store.exists(self.layout.description)

    def read_description(self) -> Description | None:
        """Read what the experiment is; None if there is none.

        Raises:
            ArtifactError: the description cannot be read.
        """
        data = self.store.read_if_exists(self.layout.description)
        return None if data is None else _parse_object(data, self.layout.description)

    def read_uuid(self) -> UUID | None:
        """Read which experiment the files belong to; None if there are none.

        Raises:
            ArtifactError: the description cannot be read.
        """
        found = self.read_description()
        return None if found is None else get_uuid(found, name=self.name)

    def require_description(self) -> Description:
        """Read what the experiment is.

        Raises:
            ArtifactError: the files are gone, or the description cannot be read.
        """
        found = self.read_description()
        if found is None:
            raise make_missing_files_error(self)
        return found

    def read_description_bytes(self) -> bytes:
        """Read the description as it is stored.

        Raises:
            ArtifactError: there is none, or it cannot be read.
        """
        return self.store.read(self.layout.description)

    def write_description(self, description: Description) -> bool:
        """Write what the experiment is, once; False if it was written before.

        Raises:
            StorageFullError: there is no room.
        """
        return self.store.put_if_absent(self.layout.description, encode_canonical_json(description))

    @property
    def pool(self) -> IterationFiles:
        """Files of the pool of prompts."""
        return self.get_iteration(POOL)

    def get_iteration(self, number: int) -> IterationFiles:
        """Open the files of an iteration."""
        return IterationFiles(self.store, self.layout.get_iteration(number))

    def get_checkpoint(self, number: int) -> Checkpoint:
        """Find M_number, whether it has been made or not; for 0, a remote experiment's M0."""
        return Checkpoint(self.store, self.layout.get_checkpoint(number))

    def count_finished_iterations(self) -> int:
        """Count the iterations from the first that are finished without a gap."""
        number = 0
        while self.get_iteration(number + 1).is_finished():
            number += 1
        return number

    def count_started_iterations(self) -> int:
        """Count the iterations from the first of which a shard is finished, without a gap."""
        number = 0
        while self.get_iteration(number + 1).has_manifests():
            number += 1
        return number

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes away; the lock dies with its process, or soon after it.

        Raises:
            ExperimentBusyError: another process holds it.
        """
        return lock_experiment(self.store, self.name)

    def list_sizes(self) -> dict[str, int]:
        """Sizes of all files in bytes, by their paths relative to the experiment's folder."""
        return self.store.list_sizes(self.layout.folder)

    def delete(self) -> None:
        """Remove all files.

        The description goes last: a deletion that was stopped half-way leaves the name taken, and
        the files with the UUID of their experiment.
        """
        self.delete_leftovers()
        self.store.delete(self.layout.description)
        self.store.delete(self.layout.folder)

    def delete_leftovers(self) -> None:
        """Remove all that an experiment writes but its description and its lock."""
        for name in self.store.list_names(self.layout.folder):
            if self.layout.is_own_folder(name):
                self.store.delete(self.layout.get_path(name))

    def remove_partial_files(self) -> None:
        """Remove what killed writers left; only a process that knows nobody writes may call it."""
        self.store.remove_partial_files(self.layout.folder)


def make_missing_files_error(files: ExperimentFiles) -> ArtifactError:
    """Explain that the files of an experiment are gone; its root may be unmounted at any time."""
    return ArtifactError(
        f"the files of experiment {files.name!r} are gone from {files.store.root}: put them back, "
        "or mount the folder that holds them, and try again"
    )


def get_uuid(description: Description, *, name: str) -> UUID:
    """UUID of the experiment that has this description."""
    if description.get("uuid") is not None:
        return UUID(description["uuid"])
    return derive_earlier_uuid(
        name,
        recipe_sha256=hash_compact_json(description["recipe"]),
        seed=description["seed"],
        base_model_sha256=description["seed_model"]["sha256"],
    )


def iter_experiment_names(store: ArtifactStore) -> Iterator[str]:
    """Yield the names of what may be experiments of a store; ask `ExperimentFiles.exist`."""
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
