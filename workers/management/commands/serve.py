"""Start a whole installation with one command."""

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from meta_reward_core.errors import InputError, MetaRewardError
from meta_reward_core.system.command_hint import format_command
from workers.ops.broker import get_configured_broker, is_broker_ready
from workers.ops.services import (
    format_address,
    is_port_free,
    make_broker_service,
    make_reconciler_service,
    make_web_service,
    make_worker_service,
)
from workers.ops.supervisor import Service, Supervisor

_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


class Command(BaseCommand):
    """`format_command.py serve`."""

    help = (
        "Run the site, the broker, the reconciler and one worker; Ctrl-C stops all of them. To use "
        "another broker or database, set CELERY_BROKER_URL or DATABASE_URL."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help="Address that the site listens on. Default: 127.0.0.1.",
        )
        parser.add_argument(
            "--port",
            type=int,
            default=8000,
            metavar="N",
            help="Port that the site listens on. Default: 8000.",
        )
        parser.add_argument(
            "--without-worker",
            action="store_true",
            help="Do not start a worker, because workers run elsewhere.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Migrate, then run until a signal."""
        host, port = options["host"], options["port"]
        try:
            _require_free(host, port)
            call_command("migrate", verbosity=0)
            self._make_first_account()
            connections.close_all()
            self._print_address(host, port)
            parts = _list_services(host, port, with_worker=not options["without_worker"])
            Supervisor(parts, self._write).run()
        except MetaRewardError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error

    def _make_first_account(self) -> None:
        """Create the first account; its password is shown once and stored nowhere."""
        if User.objects.exists():
            return
        password = secrets.token_urlsafe(12)
        User.objects.create_superuser("admin", password=password)
        self._write(f"first account: sign in as admin with the password {password} and change it")

    def _print_address(self, host: str, port: int) -> None:
        self._write(f"http://{format_address(host, port)}  Ctrl-C stops everything")
        if host not in _THIS_MACHINE and _THIS_MACHINE.issuperset(_list_host_names()):
            self._write(
                "only requests to localhost are accepted: set META_REWARD_ALLOWED_HOSTS to "
                "the other host names of this machine"
            )
        if settings.META_REWARD_BROKER_EMBEDDED and is_broker_ready(get_configured_broker()):
            self._write("the embedded broker is already running and is reused")

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _list_host_names() -> list[str]:
    return [name.strip("[]") for name in settings.ALLOWED_HOSTS]


def _require_free(host: str, port: int) -> None:
    if not is_port_free(host, port):
        raise InputError(
            f"{format_address(host, port)} is in use: choose another port, as in "
            f"`{format_command('serve', '--port', str(port + 1))}`"
        )


def _list_services(host: str, port: int, *, with_worker: bool) -> list[Service]:
    broker = [make_broker_service()] if settings.META_REWARD_BROKER_EMBEDDED else []
    worker = [make_worker_service()] if with_worker else []
    return [*broker, make_web_service(host, port), make_reconciler_service(), *worker]
