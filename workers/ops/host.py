"""Identify this machine, and check whether one of its processes is still running."""

import functools
import hashlib
import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def get_machine_name() -> str:
    """Return a name for the scope of process ids: this boot of this machine or container.

    The host name is not sufficient, because several machines or containers can have the same.
    """
    return "/".join(filter(None, [socket.gethostname(), _get_pid_namespace()]))


def is_gone(machine: str, pid: int) -> bool:
    """Whether a process is known to have ended; False for processes of other machines."""
    if not _get_pid_namespace():
        return False
    return machine == get_machine_name() and not psutil.pid_exists(pid)


@functools.cache
def _get_pid_namespace() -> str:
    """Return a short name of the PID namespace; empty without one (not Linux)."""
    if not _BOOT_ID.exists():
        return ""
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 the link's target is not a path
    return hashlib.sha256(f"{_BOOT_ID.read_text()} {namespace}".encode()).hexdigest()[:8]
