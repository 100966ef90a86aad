"""The devices of a worker, and their assignment to pool processes.

A worker divides its devices into groups and runs one pool process, with at most one engine process,
for each. A generating shard needs as many groups as the number over which its engine splits a
model; training needs all of them. Lock files in a folder of the worker record which process uses a
group; a lock is released when its process ends, however it ends. Next to each lock is the process
id of the engine that is loaded there, idle or not, so that the next user of the group can stop it
first. Listing devices here does not initialize CUDA.
"""

import atexit
import contextlib
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
import pynvml
from filelock import FileLock, Timeout

from meta_reward_core.system.settings import read_variable

_Name = TypeVar("_Name")

_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 30.0
_HEAD_START_SECONDS: Final = 5.0
"""How long a process leaves several groups to the one that may have a model loaded on them."""
_WIDE: Final = "wide.lock"


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices that one engine process uses.

    Attributes:
        number: number of the group, from 0.
        gpus: indices, UUIDs or MIG names in the format of CUDA_VISIBLE_DEVICES; none on a CPU.
        cores: CPU cores to which the process is bound; empty for any core.
    """

    number: int
    gpus: tuple[str, ...] = ()
    cores: frozenset[int] = frozenset()

    def __str__(self) -> str:
        if self.gpus:
            return f"GPU {', '.join(self.gpus)}"
        if self.cores:
            return f"CPU cores {', '.join(map(str, sorted(self.cores)))}"
        return "CPU"


def list_gpus() -> list[str]:
    """List the GPUs that this process can use, without initializing CUDA."""
    visible = read_variable("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def divide_devices(processes: int) -> list[DeviceGroup]:
    """Divide all GPUs of this machine, or its CPU cores if it has none, into groups.

    Args:
        processes: number of groups; at most one for each GPU.
    """
    gpus, cores = list_gpus(), sorted(os.sched_getaffinity(0))
    if processes == 1:
        return [DeviceGroup(0, tuple(gpus))]
    if gpus:
        processes = min(processes, len(gpus))
        return [
            DeviceGroup(number, tuple(_take_share(gpus, number, processes)))
            for number in range(processes)
        ]
    return [
        DeviceGroup(
            number,
            cores=frozenset(_take_share(cores, number, processes))
            or frozenset({cores[number % len(cores)]}),
        )
        for number in range(processes)
    ]


def _take_share(names: Sequence[_Name], number: int, shares: int) -> Sequence[_Name]:
    return names[len(names) * number // shares : len(names) * (number + 1) // shares]


def build_environment(groups: Sequence[DeviceGroup]) -> dict[str, str]:
    """Build an environment in which an engine process sees only the devices of these groups.

    Indices are those of NVML and nvidia-smi; by default, CUDA numbers devices by speed.
    """
    gpus = [gpu for group in groups for gpu in group.gpus]
    if not gpus:
        return {}
    order = read_variable("CUDA_DEVICE_ORDER") or "PCI_BUS_ID"
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": order}


def list_cores(groups: Sequence[DeviceGroup]) -> frozenset[int]:
    """List the CPU cores of groups; empty if their processes can use any."""
    return frozenset().union(*(group.cores for group in groups))


@dataclass(slots=True)
class DeviceLease:
    """Device groups that this process can use until it releases them."""

    groups: tuple[DeviceGroup, ...]
    locks: list[FileLock] = field(default_factory=list)

    def release(self) -> None:
        """Release the groups; a loaded engine stays until another process needs them."""
        for lock in self.locks:
            lock.release()
        self.locks = []

    def keep(self, count: int) -> None:
        """Keep only the first `count` groups, and release the others."""
        for lock in self.locks[count:]:
            lock.release()
        self.groups, self.locks = self.groups[:count], self.locks[:count]


class DevicePool:
    """The device groups of one worker, shared by its pool processes.

    Args:
        processes: number of pool processes, if there are more than groups.
    """

    def __init__(self, groups: Sequence[DeviceGroup], *, processes: int = 0) -> None:
        self.groups = tuple(groups)
        self._processes = max(processes, len(self.groups))
        self.folder = Path(tempfile.mkdtemp(prefix="meta-reward-devices-"))
        self._made_by = os.getpid()
        self._slot: tuple[int, FileLock] | None = None
        atexit.register(self.remove)

    def take_slot(self) -> int:
        """Assign a number to this pool process, which prefers the group of that number."""
        if self._slot is None:
            for number in range(self._processes):
                lock = self._lock(f"slot-{number}.lock")
                if _try_lock(lock):
                    self._slot = number, lock
                    break
            else:
                # Celery starts a replacement before the old process has ended
                return self._processes - 1
        return self._slot[0]

    def get_own_group(self) -> DeviceGroup:
        """The group that this pool process uses first; shared if there are fewer groups."""
        return self.groups[self.take_slot() % len(self.groups)]

    def try_acquire(self, count: int, *, seconds: float = 0.0) -> DeviceLease | None:
        """Acquire `count` adjacent free groups; None after the timeout.

        Processes that wait for many groups have priority; otherwise they could wait forever. A
        model over several groups takes a block of them. The process whose own group is the first of
        a block gets it before others, so that its model stays loaded.
        """
        began = time.monotonic()
        head_start = _HEAD_START_SECONDS if count > 1 and seconds else 0.0
        while True:
            waited = time.monotonic() - began
            lease = self._try_acquire_now(count, only_own=waited < head_start)
            if lease is not None or waited >= seconds:
                return lease
            time.sleep(_POLL_SECONDS)

    def _try_acquire_now(self, count: int, *, only_own: bool) -> DeviceLease | None:
        wide = self._lock(_WIDE)
        if not _try_lock(wide):
            return None
        try:
            return self._try_acquire_block(count, only_own=only_own)
        finally:
            wide.release()

    def _try_acquire_block(self, count: int, *, only_own: bool = False) -> DeviceLease | None:
        starts = range(0, len(self.groups) - count + 1, count)
        own = self.get_own_group().number
        for start in sorted(starts, key=lambda start: (start != own // count * count, start)):
            if only_own and start != own:
                continue
            lease = self.try_acquire_groups(self.groups[start : start + count])
            if lease is not None:
                return lease
        return None

    def acquire(self, count: int, *, can_continue: Callable[[], bool]) -> DeviceLease | None:
        """Wait for `count` adjacent groups; None once `can_continue` returns False.

        Meanwhile no other process acquires any, so running shards make room.
        """
        wide = self._lock(_WIDE)
        if not _wait_for(wide, can_continue):
            return None
        try:
            if count == len(self.groups):
                return self._acquire_all(can_continue)
            while (lease := self._try_acquire_block(count)) is None and can_continue():
                time.sleep(_POLL_SECONDS)
            return lease
        finally:
            wide.release()

    def _acquire_all(self, can_continue: Callable[[], bool]) -> DeviceLease | None:
        lease = DeviceLease(self.groups)
        for group in self.groups:
            lock = self._lock(f"{group.number}.lock")
            if not _wait_for(lock, can_continue):
                lease.release()
                return None
            lease.locks.append(lock)
        return lease

    def stop_other_engines(self, groups: Sequence[DeviceGroup], *, keep: int | None) -> None:
        """Stop the engines of other pool processes on leased groups, and wait for their exit.

        Args:
            keep: process id of this process's own engine, if one runs.
        """
        for group in groups:
            pid = self._read_engine(group)
            if pid is not None and pid != keep:
                _stop_engine(pid)
                self._engine_file(group).unlink(missing_ok=True)

    def note_engine(self, groups: Sequence[DeviceGroup], pid: int) -> None:
        """Record which engine process is loaded on groups."""
        for group in groups:
            self._engine_file(group).write_text(str(pid))

    def forget_engine(self, groups: Sequence[DeviceGroup], pid: int) -> None:
        """Record that an engine process has ended."""
        for group in groups:
            if self._read_engine(group) == pid:
                self._engine_file(group).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder when the worker ends."""
        if os.getpid() == self._made_by:
            shutil.rmtree(self.folder, ignore_errors=True)

    def try_acquire_groups(self, groups: Sequence[DeviceGroup]) -> DeviceLease | None:
        """Acquire exactly these groups, such as those of a loaded engine; None if one is in use."""
        lease = DeviceLease(tuple(groups))
        for group in groups:
            lock = self._lock(f"{group.number}.lock")
            if not _try_lock(lock):
                lease.release()
                return None
            lease.locks.append(lock)
        return lease

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / name, is_singleton=False)

    def _engine_file(self, group: DeviceGroup) -> Path:
        return self.folder / f"{group.number}.engine"

    def _read_engine(self, group: DeviceGroup) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self._engine_file(group).read_text())
        return None


_pool: DevicePool | None = None


def set_up_pool(processes: int) -> DevicePool:
    """Divide this worker's devices among its pool processes before the fork."""
    global _pool
    _pool = DevicePool(divide_devices(processes), processes=processes)
    return _pool


def get_pool() -> DevicePool:
    """Return the pool of this worker; other processes have one group of all devices."""
    return set_up_pool(1) if _pool is None else _pool


def count_groups(engine: Mapping[str, Any], groups: Sequence[DeviceGroup]) -> int:
    """Count the groups that an engine needs.

    Args:
        engine: the section of a stored recipe.
    """
    gpus = engine.get("tensor_parallel") or 1
    per_group = max(1, len(groups[0].gpus))
    return min(len(groups), math.ceil(gpus / per_group))


def _try_lock(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _wait_for(lock: FileLock, can_continue: Callable[[], bool]) -> bool:
    while not _try_lock(lock):
        if not can_continue():
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _stop_engine(pid: int) -> None:
    if _is_engine(pid):
        kill_process_group(pid)


def kill_process_group(leader: int) -> None:
    """Kill a process group, and wait until all its processes have freed their memory.

    An engine or a training on several devices has a process for each of them, which can outlive the
    leader. Those of a training are not in its group, but end with their parent.
    """
    members = _list_members(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    give_up_at = time.monotonic() + _STOP_SECONDS
    while any(map(_is_alive, members)) and time.monotonic() < give_up_at:
        time.sleep(0.02)


def _list_members(leader: int) -> set[psutil.Process]:
    """List the processes of a group, and all descendants of its leader."""
    members = set()
    with contextlib.suppress(psutil.Error):
        members |= {psutil.Process(leader), *psutil.Process(leader).children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == leader:
                members.add(process)
    return members


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process still holds memory; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_engine(pid: int) -> bool:
    """Whether the process is still the leader of an engine's group."""
    with contextlib.suppress(psutil.Error):
        return "workers.engine.process" in psutil.Process(pid).cmdline()
    return False
