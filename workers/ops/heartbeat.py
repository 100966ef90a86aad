"""A worker's own row: its host, current task and last heartbeat.

Used for display, and to estimate how many engines are running. A worker that cannot write its row
continues to work.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db import DatabaseError, connections
from django.db.models import DateTimeField, ExpressionWrapper
from django.db.models.functions import Now

from meta_reward_core.engines.registry import list_installed_engines
from webapp.experiments.models import Shard, Worker
from workers.ops.device_use import DeviceUse
from workers.ops.host import get_machine_name

SILENT_SECONDS: Final = 60.0
"""Age of a heartbeat after which the worker is removed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _WorkerIdentity:
    name: str
    pid: int
    queues: str


_identity: _WorkerIdentity | None = None  # set in the main process, before it forks
_slot: tuple[int, str] | None = None  # of this pool process, if the worker has several


def register(name: str, *, pid: int, queues: Sequence[str]) -> None:
    """Register this worker."""
    global _identity
    _identity = _WorkerIdentity(name, pid, ",".join(queues))


def enter_slot(slot: int, device: str) -> None:
    """Give this pool process its own row.

    Args:
        slot: its number among the pool processes of its worker.
        device: device of its engine.
    """
    global _slot
    _slot = slot, device
    _update_row(shard=None, since=Now(), device=device)


def send_heartbeat(use: DeviceUse | None = None) -> None:
    """Record a heartbeat, with the use of the devices if known.

    The main process, which also sends heartbeats, must not keep a database connection.
    """
    if _identity is not None and os.getpid() == _identity.pid:
        _send_for_all(_identity)
        connections.close_all()
    else:
        _update_row(**({} if use is None else _to_columns(use)))


def _to_columns(use: DeviceUse) -> dict[str, Any]:
    return {"device_bytes": use.memory_bytes, "device_utilization": use.utilization}


def _send_for_all(identity: _WorkerIdentity) -> None:
    """Record heartbeats for all pool processes from the main process."""
    with _ignore_database_errors():
        rows = Worker.objects.filter(host=get_machine_name(), pid=identity.pid)
        if not rows.update(heartbeat=Now()):
            _update_row()


@contextlib.contextmanager
def track_work(shard: Shard) -> Iterator[None]:
    """Record the current task while the block runs."""
    _update_row(shard=shard, since=Now())
    try:
        yield
    finally:
        _update_row(shard=None, since=Now(), device_utilization=None)


def set_device(device: str) -> None:
    """Record the device of the engine."""
    _update_row(device=device if _slot is None else f"{_slot[1]}: {device}")


def deregister() -> None:
    """Delete the row when the worker ends."""
    if _identity is not None:
        with _ignore_database_errors():
            Worker.objects.filter(host=get_machine_name(), pid=_identity.pid).delete()


def expire_stale() -> int:
    """Delete the rows of workers without recent heartbeats."""
    silent = ExpressionWrapper(
        Now() - timedelta(seconds=SILENT_SECONDS), output_field=DateTimeField()
    )
    return Worker.objects.filter(heartbeat__lt=silent).delete()[0]


def _update_row(**changes: Any) -> None:
    if _identity is None:
        return
    slot = 0 if _slot is None else _slot[0]
    with _ignore_database_errors():
        Worker.objects.update_or_create(
            host=get_machine_name(),
            pid=_identity.pid,
            slot=slot,
            defaults={"heartbeat": Now(), **changes},
            create_defaults={
                "name": f"{_identity.name}/{slot}" if _slot else _identity.name,
                "queues": _identity.queues,
                "engines": ",".join(list_installed_engines()),
                "heartbeat": Now(),
                "since": Now(),
                "started": Now(),
                **changes,
            },
        )


@contextlib.contextmanager
def _ignore_database_errors() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        _log.warning("could not record this worker in the database: %s", error)
