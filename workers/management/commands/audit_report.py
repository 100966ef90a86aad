"""Print what an audit batch says."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.table import Table

from meta_reward_core.errors import InputError
from webapp.audit.figures import Line, report_figures
from webapp.audit.models import Batch
from webapp.audit.reporting import make_report
from workers.command_line import explained_errors, open_console, require_tables


class Command(BaseCommand):
    """`manage.py audit_report`."""

    help = "Print what a batch says about the whole iteration, with 95% intervals."

    def add_arguments(self, parser: CommandParser) -> None:
        """Which batch."""
        parser.add_argument("--batch", type=int, required=True)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Print sentences, then tables."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with explained_errors():
            require_tables()
            batch = Batch.objects.select_related("experiment").filter(pk=options["batch"]).first()
            if batch is None:
                raise InputError(f"there is no batch {options['batch']}")
            report = make_report(batch)
            figures = report_figures(report)
            console.print(f"{batch}: {report.answered} of {report.items} items answered")
            if report.is_stale:
                console.print("the items were made again since, or the experiment is gone")
            for sentence in report.sentences:
                console.print(sentence)
            console.print(_table("figure", figures.headline))
            for name, lines in figures.groups:
                console.print(_table(name, lines))
            console.print(_table("auditors", figures.auditors))


def _table(title: str, lines: Sequence[Line]) -> Table:
    table = Table(title, "estimate", "95% interval", "items")
    for line in lines:
        table.add_row(line.name, line.value, line.interval, str(line.count))
    return table
