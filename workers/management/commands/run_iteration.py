"""Run iterations of an experiment in this process, on this machine."""

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.markup import escape

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.console import print_plan, print_summary
from meta_reward_core.errors import InputError, NoPairsError
from meta_reward_core.experiment import Experiment, check_same_settings, open_experiment
from meta_reward_core.launch import (
    Places,
    Request,
    make_tools,
    next_iterations,
    open_or_begin,
    requested_recipe,
)
from meta_reward_core.plan import Rate, StagePlan, plan_iteration
from meta_reward_core.prompt_files import read_prompts
from meta_reward_core.recipes import shipped_recipes
from meta_reward_core.summary import Summary
from webapp.experiments import models
from workers.command_line import (
    configured_places,
    explained_errors,
    open_console,
    require_tables,
    require_writable,
    write_json,
)
from workers.in_process import forget_lost_attempts, run_recorded, summarize
from workers.rows import check_rows_have_files, measured_rates, record_experiment

EXAMPLES = """\
examples:
  a whole small iteration on a laptop, M0 to M1; the same again makes M2
    python manage.py run_iteration --experiment demo --recipe smoke

  the paper's schedule in small, four iterations
    python manage.py run_iteration --experiment mini --recipe miniature --iterations 4

  your own model and prompts, with another value; first only the plan
    python manage.py run_iteration --experiment mine --recipe paper-llama3-8b \\
        --model my-model --prompts prompts.jsonl --set actor.samples=5 --dry-run

exit codes:
  0 finished   1 failed   2 something given is wrong   3 no preference pair survived
  4 no room on the disk   5 another process runs this experiment   130 stopped
"""


class Command(BaseCommand):
    """`manage.py run_iteration`."""

    help = (
        "Run one iteration of an experiment: generate, judge, pair, meta-judge, train, evaluate. "
        "An iteration that was stopped or killed goes on where it was; otherwise the next begins."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the examples' lines as they are."""
        return super().create_parser(
            prog_name,
            subcommand,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add("--experiment", required=True, metavar="NAME", help="created on first use")
        recipes = ", ".join(shipped_recipes())
        add("--recipe", metavar="NAME|FILE", help=f"a YAML file, or one of: {recipes}")
        add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
            help="change a value of the recipe, such as actor.samples=5; repeatable")  # fmt: skip
        add("--model", metavar="PATH|HUB_ID", help="the seed model M0, instead of the recipe's")
        add("--prompts", type=Path, metavar="FILE", help="instructions: txt, jsonl, csv, parquet")
        add("--iterations", type=_counting, metavar="N",
            help="go on until iteration N is finished; else one iteration is run")  # fmt: skip
        add("--engine", choices=["transformers", "scripted"], help="where tokens come from")
        add("--seed", type=int, metavar="N", help="of everything random in the experiment")
        add("--resume", action=argparse.BooleanOptionalAction, default=True,
            help="go on with an experiment that exists; --no-resume refuses it")  # fmt: skip
        add("--dry-run", action="store_true", help="say what it would cost; write nothing")
        add("--json", type=Path, metavar="FILE", help="write the summaries, or the plan, there")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Plan, or run."""
        console = open_console(self.stdout, no_color=options["no_color"])
        console.quiet = options["verbosity"] == 0
        request = _request(options)
        go_on = f"To go on: {_same_command(request, options['iterations'])}"
        with explained_errors(go_on=go_on):
            require_tables()
            require_writable(options["json"])
            if options["dry_run"]:
                result = _plan(request, options["iterations"], configured_places(), console)
            else:
                result = _run(request, options["iterations"], configured_places(), console)
            if options["json"] is not None:
                write_json(options["json"], result)


def _counting(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("counts from 1")
    return number


def _request(options: dict[str, Any]) -> Request:
    return Request(
        experiment=options["experiment"],
        recipe=options["recipe"],
        changes=tuple(options["changes"]),
        model=options["model"],
        prompts=options["prompts"],
        engine=options["engine"],
        seed=options["seed"],
        resume=options["resume"],
    )


def _command(name: str) -> str:
    """What to type for the next iteration; the experiment knows its own recipe."""
    return f"python manage.py run_iteration --experiment {name}"


def _same_command(request: Request, until: int | None) -> str:
    """What to type to go on, wherever this run was stopped."""
    given = {
        "--recipe": request.recipe,
        "--model": request.model,
        "--prompts": request.prompts,
        "--engine": request.engine,
        "--seed": request.seed,
        "--iterations": until,
    }
    changes = [word for change in request.changes for word in ("--set", change)]
    words = [word for option, value in given.items() if value is not None
             for word in (option, str(value))]  # fmt: skip
    return shlex.join([*_command(request.experiment).split(), *words, *changes])


def _run(request: Request, until: int | None, places: Places, console: Console) -> Summary:
    experiment = _open(request, places, console)
    row = record_experiment(experiment, artifact_root=places.artifacts)
    with experiment.locked():
        lost = forget_lost_attempts(row)
        if lost:
            console.print(f"an earlier run was killed: {lost} unfinished shard begins anew")
        summaries = [
            _run_one(experiment, row, number, places, console)
            for number in next_iterations(experiment, until=until)
        ]
    _print_next_step(experiment, console)
    return {"experiment": experiment.name, "iterations": summaries}


def _open(request: Request, places: Places, console: Console) -> Experiment:
    name = request.experiment
    found = ArtifactStore(places.artifacts).exists(f"{name}/experiment.json")
    check_rows_have_files(name, artifact_root=places.artifacts, files_exist=found)
    return open_or_begin(request, places, say=lambda text: console.print(escape(text)))


def _run_one(
    experiment: Experiment, row: models.Experiment, number: int, places: Places, console: Console
) -> Summary:
    console.print(f"[bold]{experiment.name}[/bold], iteration {number}")
    tools = make_tools(experiment, places, number=number)
    try:
        summary, anything = run_recorded(experiment, row, number, tools=tools, console=console)
    except NoPairsError:
        print_summary(console, summarize(experiment, row.iterations.get(number=number)))
        raise
    if anything:
        print_summary(console, summary)
    else:
        console.print(f"iteration {number} was finished before; all its files are whole")
    return summary


def _print_next_step(experiment: Experiment, console: Console) -> None:
    done = experiment.finished_iterations()
    model = experiment.model(done)
    console.print(f"M{done} lies in {escape(str(model.folder))}", soft_wrap=True)
    if done < experiment.recipe.iterations:
        console.print(
            f"next, M{done} to M{done + 1}: [bold]{_command(experiment.name)}[/bold]",
            soft_wrap=True,
        )
    else:
        console.print(
            f"the schedule of recipe {experiment.recipe.name} is complete; look at the pairs: "
            "[bold]python manage.py export_pairs "
            f"--experiment {experiment.name} --format trl --output pairs.jsonl[/bold]",
            soft_wrap=True,
        )


def _plan(request: Request, until: int | None, places: Places, console: Console) -> Summary:
    """Say what would be run, and at what cost, without writing anything."""
    store = ArtifactStore(places.artifacts)
    existing = open_experiment(store, request.experiment)
    recipe = existing.recipe if existing and not request.recipe else requested_recipe(request)
    if existing is not None:
        if not request.resume:
            raise InputError(f"experiment {request.experiment!r} exists: --no-resume refuses it")
        check_same_settings(existing, recipe=recipe, seed=request.seed)
    elif request.prompts is not None:
        read_prompts(request.prompts)
    done = existing.finished_iterations() if existing else 0
    rates = _rates(request.experiment)
    plans: dict[int, list[StagePlan]] = {}
    for number in _planned_iterations(done, until):
        plans[number] = plan_iteration(recipe, number, measured=rates)
        print_plan(console, plans[number], title=f"{request.experiment}, iteration {number}")
    if not plans:
        console.print(f"nothing is left to run: {done} iterations are finished")
    _explain_estimate(console, measured=bool(rates))
    return {
        "experiment": request.experiment,
        "exists": existing is not None,
        "plan": {
            str(number): [_as_dict(stage) for stage in plan] for number, plan in plans.items()
        },
    }


def _planned_iterations(done: int, until: int | None) -> Iterable[int]:
    return range(done + 1, (done + 1 if until is None else until) + 1)


def _rates(name: str) -> dict[str, Rate]:
    row = models.Experiment.objects.filter(name=name).first()
    return measured_rates(row) if row else {}


def _explain_estimate(console: Console, *, measured: bool) -> None:
    if measured:
        console.print(
            "measured: length of replies and tokens per second of this experiment's own finished "
            "shards; assumed: half the token limit, at 1,000 tokens/s"
        )
    else:
        console.print(
            "assumed: replies of half their token limit, at 1,000 tokens/s; after the first "
            "iteration both are taken from what was measured"
        )


def _as_dict(stage: StagePlan) -> Summary:
    return {name: getattr(stage, name) for name in stage.__slots__}
