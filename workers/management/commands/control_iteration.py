"""Pause, cancel, resume or retry iterations that workers run."""

import time
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from webapp.experiments.models import Experiment, Iteration, RunStatus
from workers.management.base import handle_errors, require_tables
from workers.pipeline import scheduling
from workers.pipeline.control import request_cancel, request_pause, resume_iteration
from workers.pipeline.read_experiment import find_row
from workers.reconciler import expire_leases

ACTIONS: Final[dict[str, Callable[[Experiment], Iteration]]] = {
    "pause": request_pause,
    "cancel": request_cancel,
    "resume": resume_iteration,
    "retry": resume_iteration,
}
_STOPS: Final = ("pause", "cancel")


class Command(BaseCommand):
    """`manage.py control_iteration`."""

    help = (
        "Control an experiment that runs on the workers. pause and cancel stop running shards "
        "within seconds; finished shards are kept. retry also reruns shards that have failed too "
        "often."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("action", choices=list(ACTIONS), help=f"Action: {', '.join(ACTIONS)}.")
        parser.add_argument(
            "--experiment", required=True, metavar="NAME", help="Experiment to control."
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Request the action; after a stop, wait until nothing runs."""
        with handle_errors():
            require_tables()
            iteration = ACTIONS[options["action"]](find_row(options["experiment"]))
            if options["action"] in _STOPS:
                _wait_until_stopped(iteration)
            iteration.refresh_from_db()
            self.stdout.write(f"{iteration}: {iteration.get_status_display()}")


def _wait_until_stopped(iteration: Iteration) -> None:
    """Wait for running shards; shards of a dead worker end when their lease expires."""
    give_up_at = time.monotonic() + settings.META_REWARD_LEASE_SECONDS + 10
    while time.monotonic() < give_up_at:
        iteration.refresh_from_db()
        if iteration.status != RunStatus.RUNNING:
            return
        expire_leases()
        scheduling.advance_iteration(iteration)
        time.sleep(0.2)
