"""Restore a backup of the database, and check the files it refers to."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.activity.models import Action
from workers.management.base import handle_errors, log_command, require_tables
from workers.ops.backup import list_differing_files, restore_backup


class Command(BaseCommand):
    """`manage.py restore`."""

    help = (
        "Restore all rows of a backup into the database, or none of them if an error occurs. Stop "
        "the site and all workers first. Artifacts that differ from the backup are listed, and the "
        "exit code is then 1."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--input", required=True, type=Path, metavar="FILE", help="Backup file."
        )
        parser.add_argument("--replace", action="store_true", help="Overwrite existing data.")
        parser.add_argument(
            "--check-only",
            action="store_true",
            help="Compare the artifacts with the backup and write nothing.",
        )
        parser.add_argument(
            "--deep",
            action="store_true",
            help="Compare the hashes of all files, not only the manifests.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Restore the backup and compare the files."""
        with handle_errors():
            require_tables()
            if not options["check_only"]:
                told = restore_backup(options["input"], replace=options["replace"])
                log_command(Action.RESTORED, str(options["input"]))
                self.stdout.write(
                    f"{told.rows:,} rows about {told.experiments} experiment(s) restored"
                )
            differences = list_differing_files(options["input"], deep=options["deep"])
        for difference in differences:
            self.stdout.write(f"differs: {difference}")
        if differences:
            raise CommandError(
                f"{len(differences)} file(s) are missing or differ: restore them from their "
                f"own backup, or rerun the iterations, which rebuilds missing files"
            )
        self.stdout.write("all files are unchanged")
