"""Which machine this is, and whether a process of it still lives."""

import os
import socket
import sys
from typing import Final

import psutil

_FIRST_PID_NAMESPACE: Final = 4026531836  # of Linux itself, outside of any container


def machine_name() -> str:
    """Name this machine; a container that shares its host's name gets one of its own."""
    name = socket.gethostname()
    if sys.platform != "linux":
        return name
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 a link whose target is no path
    return name if namespace == _FIRST_PID_NAMESPACE else f"{name}/{namespace}"


def is_gone(machine: str, pid: int) -> bool:
    """Say whether a process is known to have ended; of other machines nothing is known."""
    return machine == machine_name() and not psutil.pid_exists(pid)
