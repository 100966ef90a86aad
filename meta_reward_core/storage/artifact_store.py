"""Storage of files: each file is written once, atomically, and the first writer wins.

This module handles bytes, names and hashes. `schemas` defines the tables, and `shards` when a shard
is finished.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from fsspec.implementations.local import LocalFileSystem

from meta_reward_core.errors import (
    ArtifactError,
    InputError,
    MalformedInputError,
    StorageFullError,
)
from meta_reward_core.storage.remote import open_file_system, translate_errors
from meta_reward_core.system.untrusted_input import parse_json

Wanted = TypeVar("Wanted")
Found = TypeVar("Found")
CHUNK_BYTES = 2**20
_MAX_CONCURRENT_READS: Final = 32
_PARTIAL_PREFIX = ".partial-"
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """Hash a value that JSON can express, independent of the order of its keys."""
    return hash_bytes(encode_canonical_json(value))


def hash_compact_json(value: Any) -> str:
    """Hash a value as compact JSON, without line breaks; this is the form used to hash recipes."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def encode_canonical_json(value: Any) -> bytes:
    """Encode a value as readable JSON; equal values give identical bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1).encode() + b"\n"


class ArtifactStore:
    """A folder of artifacts at any fsspec address; paths are relative and use `/`.

    Args:
        url: a local folder, or an address such as `s3://bucket/folder`.
    """

    def __init__(self, url: str) -> None:
        self._fs, root = open_file_system(url)
        self.root = root.rstrip("/")
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def get_path(self, name: str) -> str:
        """Return the full path of an artifact on its file system."""
        return f"{self.root}/{name}"

    def get_local_path(self, name: str) -> Path:
        """Return the path of an artifact on this machine.

        Raises:
            ArtifactError: the store is remote.
        """
        if not self.is_local:
            raise ArtifactError(f"{self.get_path(name)} is not on this machine")
        return Path(self.get_path(name))

    def exists(self, name: str) -> bool:
        """Whether an artifact of this name exists."""
        with self._explain_errors("look for", name):
            return bool(self._fs.exists(self.get_path(name)))

    def read(self, name: str) -> bytes:
        """Read an artifact.

        Raises:
            ArtifactError: no artifact has this name, or it cannot be read.
        """
        try:
            with self._explain_errors("read", name):
                return bytes(self._fs.cat_file(self.get_path(name)))
        except OSError as error:
            raise ArtifactError(f"cannot read {self.get_path(name)}: {error}") from error

    def read_if_exists(self, name: str) -> bytes | None:
        """Read an artifact; None if it does not exist.

        Raises:
            ArtifactError: the artifact cannot be read.
        """
        try:
            return self.read(name)
        except ArtifactError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def read_json(self, name: str) -> Any:
        """Read an artifact that contains one JSON value.

        Raises:
            ArtifactError: no artifact has this name, it cannot be read, or it is not JSON.
        """
        try:
            return parse_json(self.read(name))
        except MalformedInputError as error:
            raise ArtifactError(f"{self.get_path(name)} {error}") from error

    def read_each(
        self, read: Callable[[Wanted], Found], wanted: Iterable[Wanted]
    ) -> Iterator[Found]:
        """Apply `read` to each name; remote stores are read in parallel."""
        if self.is_local:
            yield from map(read, wanted)
            return
        with ThreadPoolExecutor(_MAX_CONCURRENT_READS) as pool:
            yield from pool.map(read, wanted)

    def iter_chunks(self, name: str) -> Iterator[bytes]:
        """Read an artifact in chunks.

        Raises:
            ArtifactError: no artifact has this name, or it cannot be read.
        """
        try:
            with (
                self._explain_errors("read", name),
                self._fs.open(self.get_path(name), "rb") as source,
            ):
                while chunk := source.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise ArtifactError(f"cannot read {self.get_path(name)}: {error}") from error

    def list_names(self, folder: str) -> list[str]:
        """List the names of the files directly in a folder, sorted; empty without the folder."""
        try:
            with self._explain_errors("list", folder):
                entries = self._fs.ls(self.get_path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = [entry.rstrip("/").rpartition("/")[2] for entry in entries]
        return sorted(name for name in names if not name.startswith(_PARTIAL_PREFIX))

    def list_sizes(self, folder: str) -> dict[str, int]:
        """List the sizes of all files below a folder by relative name, sorted."""
        root = self.get_path(folder)
        with self._explain_errors("list", folder):
            found = self._fs.find(root, detail=True)
        sizes = {path.removeprefix(f"{root}/"): entry["size"] for path, entry in found.items()}
        return dict(sorted(sizes.items()))

    def get_modified_time(self, name: str) -> float:
        """Return the time of the last write, in seconds of the store's clock.

        Raises:
            ArtifactError: no artifact has this name.
        """
        try:
            with self._explain_errors("look at", name):
                return float(self._fs.modified(self.get_path(name)).timestamp())
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.get_path(name)} does not exist") from error

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write an artifact atomically unless one of this name exists.

        Returns:
            True if this call wrote the artifact, False if it already existed.

        Raises:
            StorageFullError: the disk or the store is full.
            ArtifactError: the artifact cannot be written for another reason.
        """
        try:
            if self.is_local:
                return _link_into_place(Path(self.get_path(name)), data)
            with self._explain_errors("write", name):
                self._fs.pipe_file(self.get_path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise _to_artifact_error(error, self.get_path(name)) from error
        return True

    def put_file_if_absent(self, name: str, file: Path) -> bool:
        """Upload a local file to a remote store; see `put_if_absent`."""
        try:
            with self._explain_errors("write", name):
                self._fs.put_file(str(file), self.get_path(name), mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise _to_artifact_error(error, self.get_path(name)) from error
        return True

    def copy(self, name: str, target: str) -> None:
        """Give an artifact a second name, replacing an earlier artifact of that name.

        Artifacts never change, so a local store links instead of copying if possible.

        Raises:
            StorageFullError: the disk or the store is full.
            ArtifactError: no artifact has this name, or the copy cannot be written.
        """
        self.delete(target)
        source, destination = self.get_path(name), self.get_path(target)
        try:
            if not self.is_local:
                with self._explain_errors("copy", name):
                    self._fs.copy(source, destination)
                return
            Path(destination).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, destination)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
                    raise
                shutil.copyfile(source, destination)
        except FileNotFoundError as error:
            raise ArtifactError(f"{source} does not exist") from error
        except OSError as error:
            raise _to_artifact_error(error, destination) from error

    def require_first_writer_wins(self, folder: str) -> None:
        """Check that a store supports conditional writes, on which all other code relies.

        Raises:
            InputError: the store ignores the condition, so that a second writer overwrites the
                first.
        """
        if self.is_local:
            return
        trial = f"{folder}/{_PARTIAL_PREFIX}{secrets.token_hex(8)}"
        try:
            if not self.put_if_absent(trial, b"first") or self.put_if_absent(trial, b"second"):
                raise InputError(
                    f"{self.root} does not support conditional writes (If-None-Match: *): use "
                    f"a newer S3 server, or a shared file system"
                )
        finally:
            self.delete(trial)

    def delete(self, name: str) -> None:
        """Delete an artifact or a folder of artifacts; a missing one is ignored."""
        with contextlib.suppress(FileNotFoundError), self._explain_errors("delete", name):
            self._fs.rm(self.get_path(name), recursive=True)

    def remove_partial_files(self, folder: str) -> None:
        """Remove partial files of killed writers from a folder (local stores).

        Call this only while no process writes to the folder.
        """
        if self.is_local and Path(self.get_path(folder)).is_dir():
            for left in Path(self.get_path(folder)).rglob(f"{_PARTIAL_PREFIX}*"):
                left.unlink(missing_ok=True)

    def _explain_errors(self, what: str, name: str) -> contextlib.AbstractContextManager[None]:
        """Translate the errors of a remote file system; local errors pass unchanged."""
        if self.is_local:
            return contextlib.nullcontext()
        return translate_errors(f"{what} {self.get_path(name)}")


def _to_artifact_error(error: OSError, path: str) -> ArtifactError:
    if error.errno in _DISK_FULL_ERRNOS:
        return StorageFullError(
            f"no room left while writing {path}: free space, or move "
            "META_REWARD_ARTIFACT_ROOT, then rerun the command"
        )
    return ArtifactError(f"cannot write {path}: {error}")


def _link_into_place(target: Path, data: bytes) -> bool:
    """Write a file next to the target, then link it: with a rename, the LAST writer would win."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{_PARTIAL_PREFIX}{secrets.token_hex(8)}"
    try:
        _write_durably(temporary, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        _sync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Translate the operating system's "no space" error for writes by other libraries."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL_ERRNOS:
            raise _to_artifact_error(error, str(path)) from error
        raise
