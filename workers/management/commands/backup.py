"""Write all rows into one file."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.output_files import require_writable
from webapp.people.models import EventKind
from workers.backup import back_up
from workers.command_line import explained_errors, require_tables
from workers.noting import note_command


class Command(BaseCommand):
    """`manage.py backup`."""

    help = (
        "Write all rows into one file, as they are at one moment, while everything runs; any "
        "database can be restored from it. Copy the artifacts, the models and var/secret_key too."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--output", required=True, type=Path, help="file to write")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Write it."""
        with explained_errors():
            require_writable(options["output"])
            require_tables()
            told = back_up(options["output"])
            note_command(EventKind.BACKED_UP, str(options["output"]))
        self.stdout.write(
            f"{told.rows:,} rows about {told.experiments} experiment(s) in {options['output']}"
        )
