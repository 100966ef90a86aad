"""The bytes and the text of a file that a person gives, or one sentence about what is wrong.

Which error is raised is the caller's to say: prompts and evaluations have one each.
"""

from pathlib import Path

from meta_reward_core.errors import InputError


def read_source_bytes(path: Path, error: type[InputError]) -> bytes:
    """Read a file.

    Raises:
        error: it cannot be read; the message names the path and why.
    """
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(
            f"{path}: cannot be read ({problem.strerror}); check the path and its permissions."
        ) from problem


def read_source_text(path: Path, error: type[InputError]) -> str:
    """Read a UTF-8 file, without its byte order mark and with the line ends that it has.

    Raises:
        error: it cannot be read, or is not UTF-8; the message names the line.
    """
    data = read_source_bytes(path, error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path.name}, line {line}: is not UTF-8 text; save the file as UTF-8."
        ) from problem
