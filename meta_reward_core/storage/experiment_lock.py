"""The lock that lets one process at a time, on any machine, work on an experiment.

In a local store it is a lock of the operating system, which ends with its process. In a remote
store it is a series of small files, the last of which is the current state: `00000001.json`,
`00000002.json`, ... Claiming, renewing and releasing the lock each write the next number with
`put_if_absent`; so only one process succeeds, and a process that lost the lock notices it.
"""

import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from meta_reward_core.errors import ArtifactError, ExperimentBusyError, StorageUnreachableError
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.system.signals import interrupt_on_signal

LEASE_SECONDS: Final = 60.0
"""A holder that has not written a new number for this long is considered dead."""
RENEWAL_SECONDS: Final = 15.0
_STOP_SIGNAL: Final = signal.SIGUSR2
"""Not SIGINT: a shell script starts its background processes with SIGINT ignored."""


@contextlib.contextmanager
def lock_experiment(store: ArtifactStore, experiment: str) -> Iterator[None]:
    """Lock other processes out of an experiment.

    Raises:
        ExperimentBusyError: another process holds the lock, or has taken it over in the meantime.
    """
    name = ExperimentLayout.from_name(experiment).lock
    if store.is_local:
        with _hold_file_lock(store.get_local_path(name), experiment):
            yield
    else:
        with _hold_lease(Lease(store, name)):
            yield


@contextlib.contextmanager
def _hold_file_lock(path: Path, experiment: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ExperimentBusyError(
            f"another process is running experiment {experiment!r}: "
            "wait for it, or stop it and rerun this command"
        ) from error
    try:
        yield
    finally:
        lock.release()


class Lease:
    """The lock of an experiment in a remote store, held or requested by this process.

    Attributes:
        is_lost: whether another process considered this process dead and took over the lock.
    """

    def __init__(self, store: ArtifactStore, folder: str) -> None:
        self.is_lost = False
        self._store = store
        self._folder = folder
        self._owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._token = secrets.token_hex(8)
        self._number = 0

    def claim(self) -> None:
        """Take the lock.

        Raises:
            ExperimentBusyError: another process holds the lock.
        """
        self._number = self._find_latest()
        owner = self._read_holder() if self._number else None
        if owner is not None or not self._write_next(self._owner):
            raise ExperimentBusyError(
                f"{owner or 'another process'} is running this experiment "
                f"({self._store.get_path(self._folder)}): wait for it, or stop it and rerun "
                f"this command. The lock of a killed process expires after "
                f"{LEASE_SECONDS:.0f} seconds"
            )

    def renew(self) -> None:
        """Extend the lease. If the store refuses, the next renewal may still succeed."""
        with contextlib.suppress(ArtifactError):
            self.is_lost = not self._write_next(self._owner)

    def release(self) -> None:
        """Release the lease; if the store does not respond, the lease expires by itself."""
        with contextlib.suppress(ArtifactError):
            self._write_next(None)

    def _write_next(self, owner: str | None) -> bool:
        """Write the next number if no other process has, and remove the previous one."""
        data = encode_canonical_json({"owner": owner, "token": self._token})
        name = self._get_path(self._number + 1)
        # If the client has sent the request twice, the file that it finds is our own.
        if not self._store.put_if_absent(name, data) and self._store.read(name) != data:
            return False
        # Later holders delete earlier numbers, so an unused number may be older than the latest.
        if self._find_latest() > self._number + 1:
            self._store.delete(name)
            return False
        if self._number:
            self._store.delete(self._get_path(self._number))
        self._number += 1
        return True

    def _read_holder(self) -> str | None:
        """Return the holder of the lock; None if it was released or its lease has expired."""
        name = self._get_path(self._number)
        try:
            owner: str | None = self._store.read_json(name)["owner"]
            silent_seconds = self._read_store_time() - self._store.get_modified_time(name)
        except StorageUnreachableError:
            raise
        except ArtifactError:  # its holder has just replaced it with the next number
            return "another process"
        return owner if silent_seconds < LEASE_SECONDS else None

    def _read_store_time(self) -> float:
        """Return the time of the store's clock, because the clocks of two machines can differ."""
        probe = f"{self._folder}/now-{secrets.token_hex(8)}"
        self._store.put_if_absent(probe, b"now")
        try:
            return self._store.get_modified_time(probe)
        finally:
            self._store.delete(probe)

    def _find_latest(self) -> int:
        numbers = [name.removesuffix(".json") for name in self._store.list_names(self._folder)]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def _get_path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"


@contextlib.contextmanager
def _hold_lease(lease: Lease) -> Iterator[None]:
    """Hold a lease, and interrupt the main thread if another process takes it over."""
    lease.claim()
    done = threading.Event()
    with interrupt_on_signal(_STOP_SIGNAL) as is_main:
        renewing = threading.Thread(
            target=_renew_until_done, args=(lease, done, is_main), daemon=True
        )
        renewing.start()
        try:
            yield
        except KeyboardInterrupt as error:
            if not lease.is_lost:
                raise
            raise ExperimentBusyError(
                "another process has taken this experiment over, because this one sent no "
                "heartbeat for "
                f"{LEASE_SECONDS:.0f} seconds; finished work is kept"
            ) from error
        finally:
            done.set()
            renewing.join()
            if not lease.is_lost:
                lease.release()


def _renew_until_done(lease: Lease, done: threading.Event, interrupts: bool) -> None:  # noqa: FBT001
    while not done.wait(RENEWAL_SECONDS):
        lease.renew()
        if lease.is_lost:
            if interrupts:
                signal.pthread_kill(threading.main_thread().ident or 0, _STOP_SIGNAL)
            return
