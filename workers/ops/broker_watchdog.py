"""Detect that this worker no longer receives messages, and exit for its supervisor to restart it.

A connection that a router has dropped remains open on this side but delivers nothing. Celery then
waits forever and still sends heartbeats. Therefore an idle worker regularly checks, over a new
connection, whether messages are waiting for it.
"""

import logging
import mmap
import os
import time
from typing import Final

from webapp.health import read_queue_lengths

CHECK_SECONDS: Final = 5.0
BROKER_LOST_SECONDS: Final = 20.0
"""Seconds that messages may wait; an idle worker takes one within a second or two."""
EXIT_BROKER_LOST: Final = 75

_MOST_PROCESSES: Final = 256
# shared: written by pool processes, read by the main process
_busy = mmap.mmap(-1, _MOST_PROCESSES)
_received = mmap.mmap(-1, 1)
_log = logging.getLogger(__name__)


def mark_busy(slot: int = 0) -> None:
    """Mark this pool process as working on a message."""
    _received[0] = 1
    _busy[slot] = 1


def mark_idle(slot: int = 0) -> None:
    """Mark this pool process as idle."""
    _busy[slot] = 0


class BrokerWatchdog:
    """The main process's view of message delivery.

    Args:
        queues: names of the queues that the worker takes messages from.
        processes: number of its pool processes.
    """

    def __init__(self, queues: frozenset[str], *, processes: int = 1) -> None:
        self._queues = queues
        self._processes = processes
        self._checked_at = self._received_at = time.monotonic()

    def check(self) -> None:
        """Exit the process if messages have waited too long for an idle worker."""
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        received, _received[0] = _received[0], 0
        all_busy = all(_busy[: self._processes])
        if received or all_busy or not self._has_waiting_messages():
            self._received_at = time.monotonic()
        elif now - self._received_at > BROKER_LOST_SECONDS:
            _log.error("queued messages are not delivered: this worker exits to be restarted")
            logging.shutdown()
            os._exit(EXIT_BROKER_LOST)  # an orderly exit would wait for the dead connection

    def _has_waiting_messages(self) -> bool:
        lengths = read_queue_lengths() or {}
        return any(count for name, count in lengths.items() if name in self._queues)
