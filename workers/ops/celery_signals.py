"""Handlers of Celery's worker signals."""

import logging
import os
import sys
from typing import Any

from celery import signals
from django.db import connections

from meta_reward_core.system.signals import set_parent_death_signal
from webapp.health import NO_DATABASE, find_database_problem
from webapp.private_folders import close_private_folders
from workers.ops import broker_watchdog, devices, heartbeat
from workers.ops.machine_load import LoadRecorder
from workers.ops.processes import request_shutdown

_log = logging.getLogger(__name__)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging_settings(**_: object) -> None:
    """Keep our logging: Celery changes format and level unless a receiver is connected."""


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _close_folders(**_: object) -> None:
    for told in close_private_folders():
        _log.warning(told)
    _refuse_other_version()


def _refuse_other_version() -> None:
    """Exit before any work if the database schema belongs to another version.

    Without a database the worker starts and waits for it.
    """
    problem = find_database_problem()
    if problem and problem != NO_DATABASE:
        sys.exit(f"this worker does not start: {problem}")
    connections.close_all()


_load = LoadRecorder()  # of the main process
_watchdogs: list[broker_watchdog.BrokerWatchdog] = []  # one in the main process, after its setup


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _register(sender: str, instance: Any, **_: object) -> None:
    queues = sorted(instance.app.amqp.queues.consume_from)
    heartbeat.register(sender, pid=os.getpid(), queues=queues)
    processes = int(instance.concurrency or 1)
    for group in devices.set_up_pool(processes).groups:
        _log.info("engine process %s of %s: %s", group.number + 1, processes, group)
    watchdog = broker_watchdog.BrokerWatchdog(frozenset(queues), processes=processes)
    _watchdogs.append(watchdog)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
@signals.heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _send_heartbeat(**_: object) -> None:
    heartbeat.send_heartbeat()
    _load.record()
    for watchdog in _watchdogs:
        watchdog.check()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _set_up_pool_process(**_: object) -> None:
    set_parent_death_signal()
    pool = devices.get_pool()
    slot = pool.take_slot()
    broker_watchdog.mark_idle(slot)  # left by a process that was killed
    if len(pool.groups) > 1:
        heartbeat.enter_slot(slot, str(pool.get_own_group()))


@signals.task_prerun.connect  # type: ignore[untyped-decorator]
def _mark_busy(**_: object) -> None:
    broker_watchdog.mark_busy(devices.get_pool().take_slot())


@signals.task_postrun.connect  # type: ignore[untyped-decorator]
def _mark_idle(**_: object) -> None:
    broker_watchdog.mark_idle(devices.get_pool().take_slot())


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    request_shutdown()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _deregister(**_: object) -> None:
    heartbeat.deregister()
    devices.get_pool().remove()
