"""Signals that stop the work as Ctrl-C does."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_on_signal(wanted: signal.Signals) -> Iterator[bool]:
    """Let a signal raise `KeyboardInterrupt` in this thread while the block runs.

    Only in the main thread can it be so; the block learns whether it is.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    try:
        before = signal.signal(wanted, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield False
        return
    try:
        yield True
    finally:
        signal.signal(wanted, before or signal.SIG_DFL)
