"""Memory and utilization of the devices of an engine process: NVML for GPUs, psutil for CPU cores.

This process never initializes CUDA.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml

from workers.ops.devices import DeviceGroup


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """How devices are used.

    Attributes:
        memory_bytes: in use on GPUs by all processes, or on a CPU by the engine process; None if
            unknown.
        utilization: share of the time in which GPUs computed (mean over the GPUs) or CPU cores ran
            the engine process; None if unknown.
    """

    memory_bytes: int | None = None
    utilization: float | None = None


class DeviceMeter:
    """Measures the devices of one engine process at a time."""

    def __init__(self) -> None:
        self._process: psutil.Process | None = None
        self._measured_at = 0.0
        self._cpu_seconds = 0.0

    def measure(self, groups: Sequence[DeviceGroup], pid: int | None) -> DeviceUse:
        """Measure the use of devices since the previous call.

        Args:
            groups: devices of the engine process.
            pid: its process id, if it runs.
        """
        gpus = [gpu for group in groups for gpu in group.gpus]
        if gpus:
            return _measure_gpus(gpus)
        try:
            return DeviceUse() if pid is None else self._measure_process(pid)
        except psutil.Error:  # it has ended
            return DeviceUse()

    def _measure_process(self, pid: int) -> DeviceUse:
        if self._process is None or self._process.pid != pid:
            self._process, self._measured_at = psutil.Process(pid), 0.0
        process = self._process
        now, spent = time.monotonic(), sum(process.cpu_times()[:2])
        utilization = None
        if self._measured_at:
            cores = len(process.cpu_affinity() or ()) or 1
            utilization = (spent - self._cpu_seconds) / ((now - self._measured_at) * cores)
        self._measured_at, self._cpu_seconds = now, spent
        return DeviceUse(
            process.memory_info().rss, None if utilization is None else min(1.0, utilization)
        )


def _measure_gpus(names: Sequence[str]) -> DeviceUse:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return DeviceUse()
    try:
        handles = list(_iter_handles(names))
        memory = sum(pynvml.nvmlDeviceGetMemoryInfo(one).used for one in handles)
        return DeviceUse(memory, _get_utilization(handles))
    except pynvml.NVMLError:
        return DeviceUse()
    finally:
        pynvml.nvmlShutdown()


def _iter_handles(names: Sequence[str]) -> Iterator[Any]:
    """Yield the NVML devices with these names, which have the format of CUDA_VISIBLE_DEVICES."""
    for name in names:
        if name.isdecimal():
            yield pynvml.nvmlDeviceGetHandleByIndex(int(name))
        else:
            yield pynvml.nvmlDeviceGetHandleByUUID(name)


def _get_utilization(handles: Sequence[Any]) -> float | None:
    """Return the mean utilization; None where it is not supported, as on MIG instances."""
    try:
        found = [float(pynvml.nvmlDeviceGetUtilizationRates(one).gpu) / 100 for one in handles]
    except pynvml.NVMLError:
        return None
    return sum(found) / len(found)
