"""Back up all database rows to one file."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.data.file_io import require_writable
from webapp.activity.models import Action
from workers.management.base import handle_errors, log_command, require_tables
from workers.ops.backup import create_backup


class Command(BaseCommand):
    """`manage.py backup`."""

    help = (
        "Write a consistent snapshot of all database rows to one file; the site can keep running. "
        "The file can be restored into any supported database. It does not contain the artifacts, "
        "the models and var/secret_key, which you must copy separately."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--output", required=True, type=Path, metavar="FILE", help="Output file for the backup."
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Write the backup."""
        with handle_errors():
            require_writable(options["output"])
            require_tables()
            told = create_backup(options["output"])
            log_command(Action.BACKED_UP, str(options["output"]))
        self.stdout.write(
            f"{told.rows:,} rows about {told.experiments} experiment(s) in {options['output']}"
        )
