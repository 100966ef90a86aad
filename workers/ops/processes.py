"""Start and stop programs, clean up their descendants, and the shutdown flag.

A child dies with its parent (`meta_reward_core.system.signals`). Orphaned descendants become
children of this process (PR_SET_CHILD_SUBREAPER) and are killed. Both features exist only on Linux.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
from collections.abc import Collection, Sequence
from typing import IO

import psutil

from meta_reward_core.system.signals import ON_LINUX, make_parent_death_preexec

_PR_SET_CHILD_SUBREAPER = 36
_SWEEPS = 20
_shutdown_flag = mmap.mmap(-1, 1)  # anonymous and shared: the forked pool process sees it


def start_child(
    command: Sequence[str],
    *,
    death_signal: int = signal.SIGKILL,
    keep_open: Collection[int] = (),
    stdout: int | IO[bytes] = subprocess.PIPE,
    user: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session that dies with this process.

    Args:
        death_signal: signal that the kernel sends it when this process dies.
        keep_open: file descriptors that it inherits.
        stdout: destination of its standard output and standard error.
        user: user to run as, if this process is allowed to switch.
    """
    return subprocess.Popen(  # noqa: S603 ours, written here
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C only reaches this process, which stops the others in order
        pass_fds=tuple(keep_open),
        user=user,
        extra_groups=None if user is None else [],
        preexec_fn=make_parent_death_preexec(death_signal),
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole process group of a child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop_child(process: subprocess.Popen[bytes], *, number: int, grace_seconds: float) -> None:
    """Ask a child to stop, wait, and kill the rest of its group."""
    if process.poll() is None:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    kill_group(process)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    if ON_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_orphans(*, keep: Collection[int]) -> None:
    """Kill and reap all descendants of this process, except those to keep.

    Args:
        keep: process ids of children that keep running, with all their descendants.
    """
    for _ in range(_SWEEPS):  # this process may become the parent of orphaned processes
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


def request_shutdown() -> None:
    """Tell the pool process that the worker is shutting down; safe in a signal handler."""
    _shutdown_flag[0] = 1


def is_shutting_down() -> bool:
    """Whether this worker is shutting down."""
    return _shutdown_flag[0] == 1
