"""Add one worker to whatever broker the settings name."""

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from meta_reward_core.errors import InputError, MetaRewardError
from meta_reward_core.shown_commands import manage
from workers.broker import configured_broker
from workers.parts import QUEUES, broker_is_reachable, worker_part
from workers.supervisor import Supervisor


class Command(BaseCommand):
    """`manage.py worker`."""

    help = "Run one worker, which takes one task at a time; Ctrl-C stops it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--queues",
            default=",".join(QUEUES),
            type=_queues,
            help="what it takes tasks from: gpu, cpu or both, the default",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run until a signal."""
        try:
            _require_broker()
            Supervisor([worker_part(options["queues"])], self._write).run()
        except MetaRewardError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _require_broker() -> None:
    if not broker_is_reachable():
        raise InputError(
            f"no broker answers at {configured_broker().socket}: run "
            f"`{manage('serve')}` on this machine first, or set CELERY_BROKER_URL to a Redis server"
        )


def _queues(given: str) -> str:
    names = [name.strip() for name in given.split(",")]
    unknown = set(names) - set(QUEUES)
    if unknown:
        raise ArgumentTypeError(f"no such queue: {', '.join(sorted(unknown))}")
    return ",".join(names)
