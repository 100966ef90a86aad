"""Resend lost messages and resume stalled work; `serve` runs this."""

import contextlib
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workers.management.base import handle_errors, require_tables
from workers.reconciler import reconcile, reconcile_forever


class Command(BaseCommand):
    """`manage.py reconcile`."""

    help = (
        "Monitor the workers: reassign the shards of workers without a heartbeat, and resend lost "
        "broker messages. One process is enough for all machines; running several is safe."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--once", action="store_true", help="Run once and exit.")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run until stopped."""
        with handle_errors():
            require_tables()
            if options["once"]:
                reconcile()
                return
            with contextlib.suppress(KeyboardInterrupt):
                reconcile_forever()
