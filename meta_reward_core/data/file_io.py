"""Read files that users provide, and write files that commands produce.

Input is read completely, or refused with one sentence that contains the file and the line. Output
is written completely or not at all, and an unwritable path is refused before the work starts.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from meta_reward_core.errors import ArtifactError, InputError


def read_source_bytes(path: Path, error: type[InputError]) -> bytes:
    """Read a file.

    Raises:
        error: the file cannot be read; the message contains the path and the reason.
    """
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(
            f"{path}: cannot be read ({problem.strerror}); check the path and its permissions."
        ) from problem


def read_source_text(path: Path, error: type[InputError]) -> str:
    """Read a UTF-8 file without its byte order mark; line ends are kept.

    Raises:
        error: the file cannot be read, or is not UTF-8; the message contains the line number.
    """
    data = read_source_bytes(path, error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path.name}, line {line}: is not UTF-8 text; save the file as UTF-8."
        ) from problem


def require_writable(path: Path | None) -> None:
    """Check in advance that an output file can be written.

    Raises:
        InputError: the folder of the file is missing or not writable, or the path is a folder.
    """
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: choose a file in an existing, writable folder")


@contextlib.contextmanager
def create_output_folder(path: Path) -> Iterator[None]:
    """Create a command's output folder; it is removed if the command fails before writing.

    Raises:
        InputError: the folder cannot be created.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} could not be created: {error.strerror}; choose another folder"
        ) from error
    try:
        yield
    except InputError:
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        raise


def replace_between(page: str, begin: str, end: str, text: str) -> str:
    """Replace the text between two markers of a page."""
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def write_atomically(path: Path, chunks: Iterable[str]) -> None:
    """Write a text file atomically, replacing an existing one.

    Raises:
        ArtifactError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from error
    finally:
        # the cause of the failed write can also prevent the deletion
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, atomically."""
    write_atomically(path, [json.dumps(value, indent=1, ensure_ascii=False), "\n"])
