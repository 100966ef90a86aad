"""What Celery tells of a worker's own life, and who wants to know it."""

import os
from typing import Any

from celery import signals

from workers import presence, stopping
from workers.processes import die_with_parent


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _introduce(sender: str, instance: Any, **_: object) -> None:
    presence.introduce(
        sender, pid=os.getpid(), queues=sorted(instance.app.amqp.queues.consume_from)
    )


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
@signals.heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _beat(**_: object) -> None:
    presence.beat()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _die_with_the_worker(**_: object) -> None:
    die_with_parent()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    stopping.ask_to_stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _leave(**_: object) -> None:
    presence.leave()
