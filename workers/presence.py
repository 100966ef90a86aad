"""A worker's own row: where it is, what it does, when it last showed itself.

For people alone. No decision is made from these rows, and a worker that cannot write one works on.
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

from webapp.experiments.models import Shard, Worker
from workers.machine import machine_name

SILENT_SECONDS: Final = 60.0
"""A worker that was silent for so long is swept away."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Self:
    name: str
    pid: int
    queues: str


_self: _Self | None = None  # set in the main process, before it forks


def introduce(name: str, *, pid: int, queues: Sequence[str]) -> None:
    """Remember who this worker is."""
    global _self
    _self = _Self(name, pid, ",".join(queues))


def beat(*, device_bytes: int | None = None) -> None:
    """Show that the worker lives, and what memory of its GPU is in use, where that is known.

    The main process, which beats too, must not keep a connection.
    """
    _write(**({} if device_bytes is None else {"device_bytes": device_bytes}))
    if _self is not None and os.getpid() == _self.pid:
        connections.close_all()


@contextlib.contextmanager
def working_on(shard: Shard) -> Iterator[None]:
    """Say what the worker does while the block runs."""
    _write(shard=shard, since=Now())
    try:
        yield
    finally:
        _write(shard=None, since=Now())


def computes_on(device: str) -> None:
    """Say where the engine computes."""
    _write(device=device)


def leave() -> None:
    """Take the row away: the worker ends."""
    if _self is not None:
        with _unimportant():
            Worker.objects.filter(host=machine_name(), pid=_self.pid).delete()


def sweep() -> int:
    """Take away the rows of workers that have long been silent."""
    silent = ExpressionWrapper(
        Now() - timedelta(seconds=SILENT_SECONDS), output_field=DateTimeField()
    )
    return Worker.objects.filter(heartbeat__lt=silent).delete()[0]


def _write(**changes: Any) -> None:
    if _self is None:
        return
    with _unimportant():
        Worker.objects.update_or_create(
            host=machine_name(),
            pid=_self.pid,
            defaults={"heartbeat": Now(), **changes},
            create_defaults={
                "name": _self.name,
                "queues": _self.queues,
                "heartbeat": Now(),
                "since": Now(),
                "started": Now(),
                **changes,
            },
        )


@contextlib.contextmanager
def _unimportant() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        _log.warning("could not show this worker in the database: %s", error)
