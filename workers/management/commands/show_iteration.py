"""Show the summary of an iteration."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.cli.terminal import print_summary
from meta_reward_core.data.file_io import require_writable, write_json
from meta_reward_core.iteration import STAGES
from meta_reward_core.reporting.summary import Summary, summarize_iteration
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from webapp.experiments.models import Iteration
from webapp.paths import get_storage_roots
from workers.management.base import handle_errors, open_console, require_tables
from workers.pipeline.read_experiment import (
    find_latest_iteration,
    open_iteration_files,
    read_recipe,
)
from workers.pipeline.sync_rows import compute_stage_timings


class Command(BaseCommand):
    """`manage.py show_iteration`."""

    help = (
        "Show the stages, pairs, drop reasons, biases, training and ground truth metrics of an "
        "iteration, even while it is running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--experiment", required=True, metavar="NAME", help="Experiment to show."
        )
        parser.add_argument(
            "--iteration", type=int, metavar="N", help="Iteration to show. Default: the latest."
        )
        output = parser.add_argument(
            "--output", type=Path, metavar="FILE", help="Output file for the summary, in JSON."
        )
        add_old_option(parser, "--json", output)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Print, and write if requested."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_tables()
            require_writable(options["output"])
            summary = _load_summary(options["experiment"], options["iteration"])
            print_summary(console, summary)
            if options["output"] is not None:
                write_json(options["output"], summary)


def _load_summary(name: str, number: int | None) -> Summary:
    store = ArtifactStore(get_storage_roots().artifacts)
    read_recipe(store, name)
    number = find_latest_iteration(store, name) if number is None else number
    row = Iteration.objects.filter(experiment__name=name, number=number).first()
    return summarize_iteration(
        open_iteration_files(store, name, number),
        number=number,
        recipe=read_recipe(store, name, number),
        stages=[stage.name for stage in STAGES],
        before=ExperimentFiles(store, name).get_iteration(number - 1) if number > 1 else None,
        timings=compute_stage_timings(row) if row else None,
    )
