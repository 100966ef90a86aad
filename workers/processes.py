"""Child processes that never outlive the process that started them.

The kernel kills a child whose parent dies (PR_SET_PDEATHSIG), even by SIGKILL. What a child has
itself started and left behind comes to us (PR_SET_CHILD_SUBREAPER) and is swept up. Both exist on
Linux alone; elsewhere only a parent that stops in order stops its children.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from typing import IO

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ON_LINUX = sys.platform == "linux"
_SWEEPS = 20


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the thread that forked it dies.

    Called in a child that has been forked already, such as a process of a pool.
    """
    if _ON_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def dying_with_parent(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Make a `preexec_fn` after which a child dies when the calling thread does.

    Start such children from a thread that lives as long as they should: the main thread.
    """
    if not _ON_LINUX:
        return lambda: None
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child should do little

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return prepare


def start_child(
    command: Sequence[str],
    *,
    death_signal: int = signal.SIGKILL,
    keep_open: Collection[int] = (),
    stdout: int | IO[bytes] = subprocess.PIPE,
    user: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that dies with this process.

    Args:
        death_signal: what the kernel sends it when this process dies.
        keep_open: file descriptors that it inherits.
        stdout: where its standard output and its standard error go.
        user: whose rights it gets, if this process may give them.
    """
    return subprocess.Popen(  # noqa: S603 ours, written here
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
        pass_fds=tuple(keep_open),
        user=user,
        extra_groups=None if user is None else [],
        preexec_fn=dying_with_parent(death_signal),
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill all that is left of a child's process group, the child too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop_child(process: subprocess.Popen[bytes], *, number: int, grace_seconds: float) -> None:
    """Ask a child to stop, wait, and kill what is left of its group."""
    if process.poll() is None:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    kill_group(process)


def adopt_orphans() -> None:
    """Become the parent of whatever descendants lose theirs."""
    if _ON_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_orphans(*, keep: Collection[int]) -> None:
    """Kill and reap all children of this process, and theirs, but those to keep.

    Args:
        keep: process ids of children that shall go on, with all their descendants.
    """
    for _ in range(_SWEEPS):  # a dying process may leave others to us
        orphans = [child for child in psutil.Process().children() if child.pid not in keep]
        if not orphans:
            return
        for orphan in orphans:
            _kill_tree(orphan)


def _kill_tree(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for descendant in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        process.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)
