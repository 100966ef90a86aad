"""Uploaded prompts, stored under the hash of their content.

A file is read by the same code as on the command line, and stored only after it has been read
completely; a file that is uploaded twice is stored once.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NoReturn

from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.http import HttpRequest

from meta_reward_core.data.prompt_files import REJECT_TEXT, PromptFile, read_prompts
from meta_reward_core.data.prompt_formats import FORMATS, detect_format
from meta_reward_core.errors import PromptFileError
from meta_reward_core.system.settings import build_environment_without_secrets
from meta_reward_core.system.signals import make_parent_death_preexec
from webapp.experiment_form.parquet_check import UNREADABLE

_STORED: Final = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(FORMATS)})")
_PROMPTS_SHOWN: Final = 5
_REJECTED_SHOWN: Final = 20
_CHARS_SHOWN: Final = 400

_MAX_ROWS: Final = 1_000_000
_LARGE_BYTES: Final = 1_000_000
"""Reading a larger file takes seconds of CPU time."""
_reading_large = threading.Lock()
"""One large file at a time in a process: the other threads of the site keep responding."""

# Maximum size of an unpacked Parquet file; text files are not compressed.
_UNPACKED_TIMES: Final = 8
_PARQUET_CHECK: Final = (sys.executable, "-m", "webapp.experiment_form.parquet_check")
_CHECK_SECONDS: Final = 60.0

_REFUSED_UPLOAD: Final = "meta_reward.upload_too_large"


@dataclass(frozen=True, slots=True)
class StoredPrompts:
    """A stored prompt file.

    Attributes:
        name: name of the stored file, derived from its hash.
        kind: format it was read as.
        first: beginnings of its first prompts.
        rejected: (line or row number, reason) of the first rows that cannot be used.
        row_noun: unit of these numbers, line or row.
        other_turns: later and assistant turns of conversations, which are not prompts.
    """

    name: str
    kind: str
    count: int
    duplicates: int
    first: tuple[str, ...]
    rejected: tuple[tuple[int, str], ...]
    rejected_count: int
    row_noun: str = "line"
    other_turns: int = 0


class LimitedUploads(FileUploadHandler):
    """Aborts an upload that exceeds the limit, before it fills the disk."""

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        """Pass the chunk on.

        Raises:
            SkipFile: the file is too large; `is_too_large` is then set.
        """
        if start + len(raw_data) > settings.META_REWARD_UPLOAD_BYTES:
            if self.request is not None:
                self.request.META[_REFUSED_UPLOAD] = "yes"
            raise SkipFile
        return raw_data

    def file_complete(self, file_size: int) -> None:
        """Leave the file to the next handlers."""


def is_too_large(request: HttpRequest) -> bool:
    """Whether a file of this request exceeded the limit."""
    return _REFUSED_UPLOAD in request.META


def format_upload_limit() -> str:
    """Format the upload limit."""
    return f"{settings.META_REWARD_UPLOAD_BYTES / 1e6:g} MB"


def store_prompts(chunks: Iterable[bytes], *, called: str) -> StoredPrompts:
    """Store a prompt file.

    Args:
        called: name that the user gave the file, for messages.

    Raises:
        PromptFileError: the file cannot be read, is too large when unpacked, or contains no prompt.
    """
    root = _get_root()
    with _receive(chunks, called=called) as file:
        found = _read_file(file, called=called)
        file.replace(root / file.name)
    _remove_old(root)
    return _describe_file(root / file.name, found)


def inspect_prompts(chunks: Iterable[bytes], *, called: str) -> StoredPrompts:
    """Read a prompt file without storing it.

    Raises:
        PromptFileError: the file cannot be read, is too large when unpacked, or contains no prompt.
    """
    with _receive(chunks, called=called) as file:
        return _describe_file(file, _read_file(file, called=called))


@contextmanager
def _receive(chunks: Iterable[bytes], *, called: str) -> Iterator[Path]:
    """Write the chunks to a file named by its content hash."""
    root = _get_root()
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=root, prefix=".received-") as folder:
        file = Path(folder) / "prompts"
        with file.open("wb") as stream:
            for chunk in chunks:
                digest.update(chunk)
                stream.write(chunk)
        kind = detect_format(file.read_bytes(), called)
        yield file.rename(file.with_name(f"{digest.hexdigest()}.{kind}"))


def get_stored_path(name: str) -> Path:
    """Return the path of a stored file.

    Raises:
        PromptFileError: there is none of this name.
    """
    path = _get_root() / name
    if _STORED.fullmatch(name) is None or not path.is_file():
        raise PromptFileError("The prompt file no longer exists; upload it again.")
    with contextlib.suppress(PermissionError):  # the file belongs to another user of the machine
        os.utime(path)
    return path


def _remove_old(root: Path) -> None:
    """Delete files that have not been used for a long time; experiments have their own copies."""
    oldest = time.time() - settings.META_REWARD_UPLOAD_DAYS * 86_400
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_stored_prompts(name: str) -> StoredPrompts:
    """Read a stored prompt file.

    Raises:
        PromptFileError: there is none of this name.
    """
    return _read_stored_prompts(get_stored_path(name))


@lru_cache(maxsize=32)
def _read_stored_prompts(path: Path) -> StoredPrompts:
    """Read with a cache: a form reads on every change, and a hashed file never changes."""
    with _take_turn(path, path.name):
        return _describe_file(path, read_prompts(path))


def _describe_file(path: Path, found: PromptFile) -> StoredPrompts:
    return StoredPrompts(
        name=path.name,
        kind=path.suffix[1:],
        count=len(found.prompts),
        duplicates=found.duplicates,
        first=list_first_texts(prompt.text for prompt in found.prompts),
        rejected=tuple(
            (place, REJECT_TEXT[reason]) for place, reason in found.rejected[:_REJECTED_SHOWN]
        ),
        rejected_count=len(found.rejected),
        row_noun=found.row_noun,
        other_turns=found.other_turns,
    )


def list_first_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """List the beginnings of the first prompts."""
    first = itertools.islice(texts, _PROMPTS_SHOWN)
    return tuple(
        text if len(text) <= _CHARS_SHOWN else f"{text[:_CHARS_SHOWN]} …" for text in first
    )


def _get_root() -> Path:
    return Path(settings.META_REWARD_UPLOAD_ROOT)


def _read_file(path: Path, *, called: str) -> PromptFile:
    with _take_turn(path, called):
        if path.suffix == ".parquet":
            _require_small(path, called=called)
        return read_prompts(path, name=called, max_rows=_MAX_ROWS)


@contextmanager
def _take_turn(path: Path, called: str) -> Iterator[None]:
    """Refuse a large file while another one is read; small ones need not wait.

    Raises:
        PromptFileError: another one is being read.
    """
    if path.stat().st_size < _LARGE_BYTES:
        yield
        return
    if not _reading_large.acquire(blocking=False):
        raise PromptFileError(
            f"{called}: another large file is being read; try again in a few seconds."
        )
    try:
        yield
    finally:
        _reading_large.release()


def _require_small(path: Path, *, called: str) -> None:
    """Refuse a file that is small on disk but huge in memory, before reading it.

    Raises:
        PromptFileError: it is too large, or is not readable.
    """
    limit = settings.META_REWARD_UPLOAD_BYTES * _UNPACKED_TIMES
    try:
        done = subprocess.run(  # noqa: S603 our own module, on a file of ours
            [*_PARQUET_CHECK, str(path), str(_MAX_ROWS), str(limit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_SECONDS,
            env=build_environment_without_secrets(),
            preexec_fn=make_parent_death_preexec(),
        )
    except subprocess.TimeoutExpired:
        _refuse_too_large(called)
    if done.returncode == UNREADABLE:
        raise PromptFileError(
            f"{called}: is not a readable Parquet file ({done.stderr.strip()}); export it again."
        )
    if done.returncode != 0:
        _refuse_too_large(called)


def _refuse_too_large(called: str) -> NoReturn:
    raise PromptFileError(
        f"{called}: unpacks to more than {_MAX_ROWS:,} rows or "
        f"{settings.META_REWARD_UPLOAD_BYTES * _UNPACKED_TIMES / 1e6:g} MB: "
        "upload only the prompt column."
    )
