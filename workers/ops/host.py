"""Which machine this is, and whether a process of it still lives."""

import functools
import hashlib
import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def get_machine_name() -> str:
    """Name what process ids are unique in: this boot of this machine, or this container of it.

    A host's name alone would not do: two machines, or containers, may have the same.
    """
    return "/".join(filter(None, [socket.gethostname(), _get_pid_namespace()]))


def is_gone(machine: str, pid: int) -> bool:
    """Say whether a process is known to have ended; of other machines nothing is known."""
    if not _get_pid_namespace():
        return False
    return machine == get_machine_name() and not psutil.pid_exists(pid)


@functools.cache
def _get_pid_namespace() -> str:
    """A short name of it; empty where the system has none (not Linux)."""
    if not _BOOT_ID.exists():
        return ""
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 a link whose target is no path
    return hashlib.sha256(f"{_BOOT_ID.read_text()} {namespace}".encode()).hexdigest()[:8]
