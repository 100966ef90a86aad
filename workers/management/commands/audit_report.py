"""Print audit results of a batch, an iteration, or an experiment."""

from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.table import Table

from meta_reward_core.errors import InputError
from meta_reward_core.review.meta_judge_results import OUTCOMES
from webapp.audit.batch_report import BatchReport, StratumSummary, make_report
from webapp.audit.models import Batch
from webapp.audit.pooled_report import compute_trend, pool_iteration
from webapp.audit.report_presenter import (
    BiasLine,
    ConfusionRow,
    MetricLine,
    make_report_view,
    make_trend,
)
from webapp.experiments.models import Experiment
from workers.management.base import handle_errors, open_console, require_tables
from workers.pipeline.read_experiment import find_row


class Command(BaseCommand):
    """`manage.py audit_report`."""

    help = (
        "Print the results of an audit batch, of all batches of an iteration, or of all audits of "
        "an experiment, with 95% confidence intervals."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--batch", type=int, help="Number of the batch to report.")
        what.add_argument(
            "--experiment",
            metavar="NAME",
            help="Experiment to report. Without --iteration, all iterations with a batch are "
            "included.",
        )
        parser.add_argument(
            "--iteration",
            type=int,
            metavar="N",
            help="Iteration of --experiment. All its batches are combined.",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Print conclusions, then tables."""
        console = open_console(self.stdout, no_color=options["no_color"])
        with handle_errors():
            require_tables()
            if options["batch"] is not None:
                _print_batch(console, options["batch"])
            elif options["iteration"] is not None:
                _print_iteration(console, find_row(options["experiment"]), options["iteration"])
            else:
                _print_trend(console, find_row(options["experiment"]))


def _print_batch(console: Console, number: int) -> None:
    batch = Batch.objects.select_related("experiment").filter(pk=number).first()
    if batch is None:
        raise InputError(f"batch {number} does not exist")
    report = make_report(batch)
    console.print(f"{batch}: {report.answered} of {report.items} answers")
    if report.is_stale:
        console.print("the items have been replaced, or the experiment was deleted")
    _print_report(console, report)


def _print_iteration(console: Console, experiment: Experiment, number: int) -> None:
    found = pool_iteration(experiment, number)
    if not found:
        raise InputError(f"there is no audit of iteration {number} of {experiment.name!r}")
    for pooled in found:
        names = ", ".join(str(batch.pk) for batch in pooled.batches) or "none with an answer"
        console.print(f"{pooled.kind.label}; batches that count: {names}")
        if pooled.report is not None:
            _print_report(console, pooled.report)


def _print_trend(console: Console, experiment: Experiment) -> None:
    found = make_trend(compute_trend(experiment))
    if not found.lines:
        raise InputError(f"no audit of {experiment.name!r} has an answer yet")
    for sentence in found.sentences:
        console.print(sentence)
    for line in found.lines:
        console.print(_make_table(f"iteration {line.iteration}", line.metrics))


def _format_cell(line: MetricLine) -> str:
    if not line.count:
        return "–"
    return f"{line.value} ({line.interval}; {line.count} items)"


def _print_report(console: Console, report: BatchReport) -> None:
    view = make_report_view(report)
    for sentence in report.sentences:
        console.print(sentence)
    if view.coverage:
        console.print(f"answers cover strata with {view.coverage} of all items")
    console.print(_make_table("figure", view.headline))
    if view.confusion:
        console.print(_make_confusion_table(view.confusion))
        console.print(_make_bias_table(view.biases))
    for name, lines in view.groups:
        console.print(_make_table(name, lines))
    console.print(_make_table("auditors", view.auditors))
    console.print(_make_strata_table(report.strata))


def _make_table(title: str, lines: Sequence[MetricLine]) -> Table:
    table = Table(title, "estimate", "95% interval", "items")
    for line in lines:
        table.add_row(line.name, line.value, line.interval, str(line.count))
    return table


def _make_confusion_table(rows: Sequence[ConfusionRow]) -> Table:
    table = Table("human verdict", *(f"meta-judge {name}" for name in OUTCOMES))
    for row in rows:
        table.add_row(row.name, *map(_format_cell, row.cells))
    return table


def _make_bias_table(rows: Sequence[BiasLine]) -> Table:
    table = Table("how often", "meta-judge", "people")
    for row in rows:
        table.add_row(row.name, _format_cell(row.meta_judge), _format_cell(row.people))
    return table


def _make_strata_table(strata: Sequence[StratumSummary]) -> Table:
    table = Table("stratum", "all items", "drawn", "chance of each", "answered")
    for one in strata:
        counts = (str(one.population), str(one.sampled), f"{one.probability:.4f}")
        table.add_row(one.name, *counts, str(one.answered))
    return table
