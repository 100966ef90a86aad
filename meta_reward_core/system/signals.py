"""Signals that stop work: like Ctrl-C, or when the parent process dies.

The kernel kills a child whose parent dies (PR_SET_PDEATHSIG), even by SIGKILL, so that child
processes never outlive the process that started them. Only Linux has this; on other systems
children only stop if the parent stops normally.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_on_signal(wanted: signal.Signals) -> Iterator[bool]:
    """Make a signal raise `KeyboardInterrupt` in this thread while the block runs.

    This only works in the main thread; the block receives whether it does.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    try:
        before = signal.signal(wanted, interrupt)
    except ValueError:  # not the main thread: only that can set signal handlers
        yield False
        return
    try:
        yield True
    finally:
        signal.signal(wanted, before or signal.SIG_DFL)


ON_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1


def set_parent_death_signal(number: int = signal.SIGKILL) -> None:
    """Make the kernel send this process a signal when the thread that forked it dies.

    Call it in an already forked child, such as a process of a pool.
    """
    if ON_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def make_parent_death_preexec(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Create a `preexec_fn` that ends a child when the calling thread dies.

    Start such children from a thread that lives as long as they should: the main thread.
    """
    if not ON_LINUX:
        return lambda: None
    parent = os.getpid()
    # looked up before the fork, because the child should do as little as possible
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before the request to the kernel
            os._exit(1)

    return prepare
