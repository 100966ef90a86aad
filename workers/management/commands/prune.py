"""Delete data that is no longer needed, after showing it."""

from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.cli.renamed_options import add_old_option
from webapp.activity.models import Action
from workers.management.base import handle_errors, log_command, require_tables
from workers.ops.prune import (
    BY_DEFAULT,
    KINDS,
    Deletable,
    find_deletables,
    plan_experiment_deletion,
)


class Command(BaseCommand):
    """`manage.py prune`."""

    help = (
        "List data that can be deleted, with its size and what is lost if it is deleted. With "
        "--yes, delete it. Checkpoints are included only with --only, and whole experiments only "
        "with --experiment."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        things = parser.add_mutually_exclusive_group()
        only = things.add_argument(
            "--only",
            nargs="+",
            choices=KINDS,
            default=list(BY_DEFAULT),
            help=f"Kinds of data to delete. Default: {' '.join(BY_DEFAULT)}.",
        )
        add_old_option(things, "--what", only)
        things.add_argument(
            "--experiment",
            metavar="NAME",
            help="Experiment to delete, with its database rows and files.",
        )
        parser.add_argument(
            "--days",
            type=float,
            default=90.0,
            help="Delete only uploads, logs, events and model copies that are at least this many "
            "days old. Default: 90.",
        )
        parser.add_argument(
            "--yes",
            action="store_true",
            help="Delete the data. Without this option, the data is only listed.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """List, and delete if requested."""
        with handle_errors():
            require_tables()
            total = 0
            for found in _find(options):
                self.stdout.write(
                    f"{found.size / 1e6:10,.1f} MB  {found.kind}  {found.what}\n"
                    f"{'':15}cost: {found.cost}"
                )
                total += found.size
                if options["yes"]:
                    found.carry_out()
                    log_command(Action.PRUNED, found.what, detail=found.kind)
        done = "deleted" if options["yes"] else "can be deleted; nothing was deleted (add --yes)"
        self.stdout.write(f"{total / 1e6:10,.1f} MB {done}")


def _find(options: dict[str, Any]) -> Iterable[Deletable]:
    if options["experiment"] is not None:
        return [plan_experiment_deletion(options["experiment"])]
    return find_deletables(tuple(options["only"]), days=options["days"])
