"""Models among an experiment's artifacts, and their copies on the machine that loads them.

In a local store a checkpoint is a folder that is renamed into place and loaded from there. In a
remote store each of its files is an artifact; before a model is loaded it is copied to a cache of
this machine, under its hash.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from filelock import FileLock

from meta_reward_core.errors import ArtifactError, DamagedArtifactError, StorageUnreachableError
from meta_reward_core.models.validation import (
    check_model_folder,
    hash_file,
    hash_model_files,
    hash_model_folder,
    iter_visible_files,
)
from meta_reward_core.storage.artifact_store import ArtifactStore, explain_full_disk
from meta_reward_core.storage.layout import CHECKPOINT
from meta_reward_core.system.settings import read_settings

MAX_RETRY_SECONDS: Final = 600.0
"""Maximum wait in seconds, after training, for a store that does not respond."""
_RETRY_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder in a store, which may not exist yet."""

    store: ArtifactStore
    name: str

    def __str__(self) -> str:
        return self.store.get_path(self.name)

    def list_files(self) -> dict[str, int]:
        """List the sizes of the checkpoint's files by name; empty if it does not exist yet."""
        if not self.store.is_local:
            return self.store.list_sizes(self.name)
        folder = self.store.get_local_path(self.name)
        found = [file for file in iter_visible_files(folder) if not file.is_symlink()]
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}

    def iter_chunks(self, file: str) -> Iterator[bytes]:
        """Read a file of the checkpoint in chunks."""
        return self.store.iter_chunks(f"{self.name}/{file}")

    def hash_file(self, file: str) -> str | None:
        """Hash a current file of the checkpoint; None if it does not exist.

        Raises:
            StorageUnreachableError: the store does not respond.
        """
        try:
            return _hash_chunks(self.iter_chunks(file))
        except StorageUnreachableError:
            raise
        except ArtifactError:
            return None

    def compute_sha256(self) -> str | None:
        """Hash all current files of the checkpoint; None if there are none."""
        if self.store.is_local:
            folder = self.store.get_local_path(self.name)
            return hash_model_folder(folder) if folder.is_dir() else None
        hashes = {file: _hash_chunks(self.iter_chunks(file)) for file in self.list_files()}
        return hash_model_files(hashes) if hashes else None

    def fetch_folder(self, sha256: str) -> Path:
        """Return a local folder to load the checkpoint from; a remote checkpoint is copied first.

        Raises:
            ArtifactError: the checkpoint no longer exists.
            DamagedArtifactError: the checkpoint does not match its hash.
            ModelFolderError: the checkpoint contains files that must not be loaded.
            StorageFullError: the disk has no room for the copy.
        """
        if self.store.is_local:
            return self.store.get_local_path(self.name)
        return _get_cached_copy(sha256, self._download)

    @contextlib.contextmanager
    def open_for_writing(self, scratch: Path) -> Iterator[Path]:
        """Provide a folder for training, which becomes this checkpoint at the end.

        Args:
            scratch: a private folder, used by one training at a time.
        """
        if self.store.is_local:
            yield self.store.get_local_path(self.name)
            return
        folder = scratch / CHECKPOINT
        # left by a killed attempt, possibly from other inputs
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
        self.upload(folder)
        _get_cached_copy(hash_model_folder(folder), lambda copy: shutil.copytree(folder, copy))
        shutil.rmtree(folder)

    def upload(self, folder: Path) -> None:
        """Upload the files of a folder to a remote store; the first writer wins.

        Raises:
            ArtifactError: another writer stored different bytes under the same name.
            StorageUnreachableError: the store did not respond within `MAX_RETRY_SECONDS`.
        """
        for file in iter_visible_files(folder):
            name = f"{self.name}/{file.relative_to(folder).as_posix()}"
            _retry_until_reachable(partial(self._upload_file, name, file))

    def _upload_file(self, name: str, file: Path) -> None:
        if self.store.put_file_if_absent(name, file):
            return
        if hash_file(file) != _hash_chunks(self.store.iter_chunks(name)):
            raise ArtifactError(f"conflict: another attempt wrote different content to {name}")

    def _download(self, target: Path) -> None:
        found = self.list_files()
        if not found:
            raise ArtifactError(
                f"there is no model at {self}: it was never created, or was deleted"
            )
        for file in found:
            path = target / file
            if not path.resolve().is_relative_to(target.resolve()):
                raise DamagedArtifactError(
                    f"{self} contains a name that leads outside it: {file!r}"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as copy:
                copy.writelines(self.iter_chunks(file))


def _get_cached_copy(sha256: str, fill: Callable[[Path], object]) -> Path:
    """Return the cached copy of a model; the first process creates it while other processes wait.

    The cached copy is hashed before each use, so a damaged one is copied again.
    """
    root = _get_copies_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder, unfinished = root / sha256, root / f".{sha256}.partial"
    with FileLock(root / f".{sha256}.lock"):
        if not (folder.is_dir() and hash_model_folder(folder) == sha256):
            for left in (folder, unfinished):
                shutil.rmtree(left, ignore_errors=True)
            with explain_full_disk(unfinished):
                fill(unfinished)
            _check_hash(unfinished, sha256)
            unfinished.rename(folder)
        os.utime(folder)  # `prune` deletes copies that have not been used for long
    return folder


def list_cached_copies() -> list[Path]:
    """List the model folders of the cache; their modification times are their times of last use."""
    return sorted(folder for folder in _get_copies_root().glob("[0-9a-f]*") if folder.is_dir())


def _get_copies_root() -> Path:
    return read_settings().cache_root / "checkpoints"


def _check_hash(folder: Path, sha256: str) -> None:
    if hash_model_folder(folder) != sha256:
        raise DamagedArtifactError(
            f"the model {sha256[:12]} does not match its manifest: rerun the command to rebuild it"
        )
    check_model_folder(folder, allowed_roots=[folder])


def _retry_until_reachable(upload: Callable[[], None]) -> None:
    """Retry while the store is unreachable, so that an outage does not lose trained weights."""
    deadline = time.monotonic() + MAX_RETRY_SECONDS
    while True:
        try:
            return upload()
        except StorageUnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_PAUSE_SECONDS)


def _hash_chunks(chunks: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()
