"""List the experiments in the database."""

from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Count, Q
from rich.markup import escape
from rich.table import Table

from meta_reward_core.system.command_hint import format_command
from webapp.experiments.models import Experiment, RunStatus
from workers.management.base import (
    handle_errors,
    open_console,
    require_tables,
)


class Command(BaseCommand):
    """`format_command.py list_experiments`."""

    help = (
        "List all experiments, the newest first, with status, recipe, seed and number of finished "
        "iterations."
    )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Print one row per experiment."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_tables()
            experiments = Experiment.objects.annotate(
                done=Count("iterations", filter=Q(iterations__status=RunStatus.FINISHED))
            )
            if not experiments:
                words = ("--experiment", "demo", "--recipe", "smoke")
                console.print(
                    f"no experiments yet; start one: "
                    f"{escape(format_command('run_iteration', *words))}",
                    soft_wrap=True,
                )
                return
            table = Table("experiment", "status", "recipe", "seed", "iterations", "begun")
            for experiment in experiments:
                table.add_row(
                    experiment.name,
                    experiment.get_status_display(),
                    experiment.recipe["name"],
                    str(experiment.seed),
                    f"{experiment.done} of {experiment.recipe['iterations']}",
                    f"{experiment.created:%Y-%m-%d %H:%M}",
                )
            console.print(table)
