"""Output of an engine process: logged by the worker; the last lines are part of error messages.

The child and the worker share one open file, so it is read with `pread`: a seek would move the
position at which the child writes.
"""

import logging
import os
import tempfile
from typing import IO, Final

_LAST_LINES: Final = 12
_LAST_BYTES: Final = 4000
_READ_BYTES: Final = 65_536

_log = logging.getLogger(__name__)


class EngineOutput:
    """Standard error of one engine process."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed with the child
        self._logged_bytes = 0

    def log_new_lines(self) -> None:
        """Log the lines completed since the last call.

        The lines have the ids of the worker's current task (`webapp.logging_config.log_context`).
        """
        read = os.pread(self.file.fileno(), _READ_BYTES, self._logged_bytes)
        ended, found, _ = read.rpartition(b"\n")
        if not found and len(read) < _READ_BYTES:
            return
        whole = ended + found or read
        self._logged_bytes += len(whole)
        for line in whole.split(b"\n"):
            # as in a terminal, where progress bars overwrite themselves
            shown = line.rpartition(b"\r")[2].decode(errors="replace")
            if shown.strip():
                _log.info("%s", shown)

    def read_last_lines(self) -> str:
        """Return the last lines."""
        size = os.fstat(self.file.fileno()).st_size
        read = os.pread(self.file.fileno(), _LAST_BYTES, max(size - _LAST_BYTES, 0))
        return "\n".join(read.decode(errors="replace").splitlines()[-_LAST_LINES:])

    def close(self) -> None:
        """Log the remaining lines, and close the file."""
        self.log_new_lines()
        self.file.close()
