"""Start one worker for the configured broker."""

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from meta_reward_core.errors import InputError, MetaRewardError
from meta_reward_core.system.command_hint import format_command
from workers.ops.broker import get_configured_broker
from workers.ops.services import QUEUES, is_broker_reachable, make_worker_service
from workers.ops.supervisor import Supervisor


class Command(BaseCommand):
    """`format_command.py worker`."""

    help = "Run one worker, which runs one task at a time; Ctrl-C stops it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--queues",
            default=",".join(QUEUES),
            type=_parse_queues,
            metavar="NAMES",
            help="Queues from which the worker takes tasks: gpu, cpu or gpu,cpu. Default: both.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run until a signal."""
        try:
            _require_broker()
            Supervisor([make_worker_service(options["queues"])], self._write).run()
        except MetaRewardError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _require_broker() -> None:
    if not is_broker_reachable():
        raise InputError(
            f"no broker responds at {get_configured_broker().socket}: run "
            f"`{format_command('serve')}` on this machine first, or set CELERY_BROKER_URL to a "
            f"Redis server"
        )


def _parse_queues(given: str) -> str:
    names = [name.strip() for name in given.split(",")]
    unknown = set(names) - set(QUEUES)
    if unknown:
        raise ArgumentTypeError(f"unknown queue: {', '.join(sorted(unknown))}")
    return ",".join(names)
