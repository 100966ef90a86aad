"""Record CPU, memory and GPU load of this machine, only for display.

The main process of each worker reads the load at every heartbeat. One row per machine is stored
every `SAMPLE_SECONDS`. Rows are thinned after a day and deleted after `KEPT`, so that their number
per machine is bounded.
"""

import contextlib
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psutil
import pynvml
from django.db import DatabaseError, connections

from webapp.experiments.models import MachineLoad
from workers.ops.host import get_machine_name

SAMPLE_SECONDS: Final = 15
COARSE_SECONDS: Final = 300
KEPT_FINE: Final = timedelta(days=1)
KEPT: Final = timedelta(days=30)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadRecorder:
    """Reads the load of this machine, and stores means over `SAMPLE_SECONDS`.

    Attributes:
        slot: number of the current period since the epoch.
        shares: readings of the busy share of each GPU in the current period, in percent.
    """

    slot: int = -1
    shares: list[list[int]] = field(default_factory=list)
    _has_gpus: bool | None = None

    def record(self, now: datetime | None = None) -> MachineLoad | None:
        """Read the load; store it once per period.

        Returns:
            The stored row; None within a period, at the first call, or if the database failed.
        """
        now = now or datetime.now(UTC)
        gpus = self._read_gpus()
        slot = int(now.timestamp()) // SAMPLE_SECONDS
        if slot == self.slot:
            return None
        cpu_percent = psutil.cpu_percent(interval=None)  # mean since the previous call
        is_first, self.slot, self.shares = self.slot < 0, slot, []
        if is_first:
            return None
        memory = psutil.virtual_memory()
        row = MachineLoad(
            host=get_machine_name(),
            measured=datetime.fromtimestamp(slot * SAMPLE_SECONDS, UTC),
            is_coarse=slot * SAMPLE_SECONDS % COARSE_SECONDS == 0,
            cpu_percent=cpu_percent,
            memory_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            gpus=gpus,
        )
        try:
            _store(row)
        except DatabaseError as error:
            _log.warning("could not store the load of this machine: %s", error)
            return None
        finally:
            connections.close_all()  # the main process must not keep a connection
        return row

    def _read_gpus(self) -> list[dict[str, Any]]:
        """Read name, busy share and memory of each GPU; empty without GPUs or their library."""
        if self._has_gpus is False:
            return []
        try:
            if self._has_gpus is None:
                pynvml.nvmlInit()
                self._has_gpus = True
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
            return [self._read_gpu(index, handle) for index, handle in enumerate(handles)]
        except pynvml.NVMLError as error:
            if self._has_gpus is None:
                _log.info("no GPU load is recorded: %s", error)
                self._has_gpus = False
            return []

    def _read_gpu(self, index: int, handle: Any) -> dict[str, Any]:
        while len(self.shares) <= index:
            self.shares.append([])
        with contextlib.suppress(pynvml.NVMLError_NotSupported):  # a GPU divided into instances
            self.shares[index].append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        shares, memory = self.shares[index], pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        return {
            "name": name.decode() if isinstance(name, bytes) else name,
            "percent": sum(shares) / len(shares) if shares else None,
            "bytes": memory.used,
            "total_bytes": memory.total,
        }


def _store(row: MachineLoad) -> None:
    """Store a row unless another worker of this machine did; periodically thin old rows."""
    MachineLoad.objects.bulk_create([row], ignore_conflicts=True)
    if row.is_coarse:
        old = MachineLoad.objects.filter(measured__lt=row.measured - KEPT_FINE)
        old.filter(is_coarse=False).delete()
        old.filter(measured__lt=row.measured - KEPT).delete()
