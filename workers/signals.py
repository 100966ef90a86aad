"""What Celery tells of a worker's own life, and who wants to know it."""

import os
from typing import Any

from celery import signals

from meta_reward_core.dying import die_with_parent
from workers import hearing, presence, stopping


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_to_the_settings(**_: object) -> None:
    """Celery would set its own form and level; a receiver, even of nothing, keeps it from that."""


_ears: list[hearing.Ear] = []  # of the main process: one, once it is set up


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _introduce(sender: str, instance: Any, **_: object) -> None:
    queues = sorted(instance.app.amqp.queues.consume_from)
    presence.introduce(sender, pid=os.getpid(), queues=queues)
    _ears.append(hearing.Ear(frozenset(queues)))


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
@signals.heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _beat(**_: object) -> None:
    presence.beat()
    for ear in _ears:
        ear.listen()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _die_with_the_worker(**_: object) -> None:
    die_with_parent()
    hearing.end_work()  # of a process that was killed in the middle


@signals.task_prerun.connect  # type: ignore[untyped-decorator]
def _begin(**_: object) -> None:
    hearing.begin_work()


@signals.task_postrun.connect  # type: ignore[untyped-decorator]
def _end(**_: object) -> None:
    hearing.end_work()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    stopping.ask_to_stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _leave(**_: object) -> None:
    presence.leave()
