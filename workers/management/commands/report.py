"""Write the report of experiments: one HTML file and one Markdown file."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.markup import escape

from meta_reward_core.cli.renamed_options import add_old_positionals
from meta_reward_core.errors import InputError
from meta_reward_core.reporting.assemble import build_report
from meta_reward_core.reporting.run_loader import ExperimentRun, group_runs, read_run
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from webapp.experiments.models import Experiment
from webapp.paths import VAR_ROOT, get_storage_roots
from webapp.reporting.rendering import write_report
from webapp.reporting.selectors import format_report_title, load_run
from workers.management.base import handle_errors, open_console
from workers.pipeline.read_experiment import read_recipe


class Command(BaseCommand):
    """`manage.py report`."""

    help = (
        "Write the paper's tables and figures for one or several experiments to an HTML file and a "
        "Markdown file. Experiments whose recipes differ only in their seeds count as runs of the "
        "same arm."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        names = add("--experiment", dest="experiments", action="append", required=True,
            metavar="NAME",
            help="Experiment to include, which may be unfinished. Repeatable.")  # fmt: skip
        add_old_positionals(parser, names)
        add("--baseline", metavar="ARM",
            help="Arm with which the other arms are compared: the name of its recipe. Default: the "
                 "first arm.")  # fmt: skip
        add("--output", type=Path, metavar="STEM",
            help="Path without extension: writes STEM.html and STEM.md. Default: var/reports/ and "
                 "the name of the first experiment.")  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Read the runs, build the report and write it."""
        console = open_console(self.stdout, no_color=options["no_color"])
        names = list(dict.fromkeys(options["experiments"]))
        with handle_errors():
            arms = group_runs([_read(name) for name in names])
            labels = [arm.label for arm in arms]
            if options["baseline"] not in (None, *labels):
                raise InputError(f"--baseline must be one of {', '.join(labels)}")
            document = build_report(
                arms, title=format_report_title(names), baseline=options["baseline"]
            )
            stem = options["output"] or VAR_ROOT / "reports" / names[0]
            for path in write_report(document, stem):
                console.print(f"wrote {escape(str(path))}", soft_wrap=True)


def _read(name: str) -> ExperimentRun:
    """Read a run from its database rows if they exist, because only they contain durations."""
    row = Experiment.objects.filter(name=name).first()
    if row is not None:
        return load_run(row, look=True)
    store = ArtifactStore(get_storage_roots().artifacts)
    read_recipe(store, name)
    return read_run(ExperimentFiles(store, name), look_at_answers=True)
