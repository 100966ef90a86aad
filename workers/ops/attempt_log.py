"""The console output of an attempt: all that its process and its engine log while it runs."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from webapp.experiments.attempt_logs import get_log_path
from webapp.experiments.models import Attempt
from webapp.logging_config import TextFormatter

_MAX_BYTES: Final = 8_000_000

_log = logging.getLogger(__name__)


class _LimitedFileHandler(logging.FileHandler):
    """Writes a log up to a limit, so that a program that repeats itself cannot fill the disk."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        super().__init__(path, mode="w", encoding="utf-8", errors="replace")
        self._left = max_bytes

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or once that the rest is left out."""
        if self._left <= 0:
            return
        self._left -= len(self.format(record))
        super().emit(record)
        if self._left <= 0 and self.stream is not None:
            self.stream.write("The log is full. Further output is in the worker's own log.\n")
            self.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the name is logging's
        """Go on without the log: a full disk is reported by what needs the room."""


@contextlib.contextmanager
def log_attempt(attempt: Attempt) -> Iterator[None]:
    """Also write log records of this process to the attempt's own file while the block runs.

    A worker process runs one shard at a time. Without the file, the attempt runs all the same.
    """
    path = get_log_path(attempt)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LimitedFileHandler(path, max_bytes=_MAX_BYTES)
    except OSError as error:
        _log.warning("could not open the log of an attempt: %s", error)
        yield
        return
    handler.setFormatter(TextFormatter(with_facts=False))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
