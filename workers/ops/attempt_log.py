"""Console output of an attempt: everything that its process and its engine log."""

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
    """Writes a log up to a size limit, so that a looping program cannot fill the disk."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        super().__init__(path, mode="w", encoding="utf-8", errors="replace")
        self._left = max_bytes

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; at the limit, write once that the rest is omitted."""
        if self._left <= 0:
            return
        self._left -= len(self.format(record))
        super().emit(record)
        if self._left <= 0 and self.stream is not None:
            self.stream.write("The log is full. Further output is in the worker's own log.\n")
            self.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the name is logging's
        """Continue without the log: a full disk is reported where it matters."""


@contextlib.contextmanager
def log_attempt(attempt: Attempt) -> Iterator[None]:
    """In this context, also write log records of this process to the attempt's file.

    A worker process runs one shard at a time. If the file cannot be opened, the attempt runs
    anyway.
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
