"""Console output of attempts: its location, and its last lines for a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings

from meta_reward_core.storage.layout import get_iteration_name
from webapp.experiments.models import Attempt, Experiment

_TAIL_BYTES: Final = 65_536
_CHUNK_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class LogTail:
    """The end of a log.

    Attributes:
        size: size of the whole log in bytes.
        is_cut: whether the text is only the end of it.
    """

    text: str
    size: int
    is_cut: bool


def get_log_folder(experiment: Experiment) -> Path:
    """Return the folder for the logs of an experiment, which is unique to it."""
    return Path(settings.META_REWARD_LOG_ROOT) / "attempts" / experiment.uuid.hex


def get_log_path(attempt: Attempt) -> Path:
    """Return the file of an attempt's console output.

    Reads the shard's stage, iteration and experiment.
    """
    shard = attempt.shard
    iteration = shard.stage.iteration
    name = f"{shard.stage.name}-{shard.index:05d}-{attempt.number}.log"
    return get_log_folder(iteration.experiment) / get_iteration_name(iteration.number) / name


def read_log_tail(path: Path) -> LogTail | None:
    """Read the last lines of a log; None if it is not on this machine."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            read = file.read(_TAIL_BYTES)
    except FileNotFoundError:
        return None
    if start:
        read = read.partition(b"\n")[2]
    return LogTail(read.decode(errors="replace"), size, is_cut=start > 0)


def iter_log_chunks(path: Path) -> Iterator[bytes]:
    """Yield a whole log in chunks.

    Raises:
        FileNotFoundError: it is not on this machine.
    """
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
