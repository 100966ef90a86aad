"""One byte that a worker's main process shares with the pool process it forks: stop soon."""

import mmap

_shared = mmap.mmap(-1, 1)  # anonymous and shared: a fork sees what the other writes


def request_stop() -> None:
    """Tell the pool process that the worker is shutting down; safe in a signal handler."""
    _shared[0] = 1


def is_stopping() -> bool:
    """Say whether this worker is shutting down."""
    return _shared[0] == 1
