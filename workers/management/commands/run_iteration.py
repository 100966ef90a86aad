"""Run iterations of an experiment in this process, or let the workers run them."""

from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.markup import escape

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.command import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    add_run_options,
    request_of,
    show_plan,
)
from meta_reward_core.config import Recipe
from meta_reward_core.console import print_summary
from meta_reward_core.context import Tools
from meta_reward_core.errors import InputError, NoPairsError
from meta_reward_core.experiment import Experiment
from meta_reward_core.launch import (
    Places,
    check_engine_of_next,
    make_tools,
    next_iterations,
    open_or_begin,
)
from meta_reward_core.output_files import require_writable, write_json
from meta_reward_core.plan import Speeds
from meta_reward_core.request import Request
from meta_reward_core.shown_commands import manage
from meta_reward_core.summary import Summary
from webapp.experiments import models
from webapp.launching.rates import speeds_of, speeds_of_like
from workers.command_line import (
    ExemplifiedCommand,
    configured_places,
    explained_errors,
    open_console,
    require_tables,
)
from workers.following import follow
from workers.handing_over import hand_over, kept_from_workers
from workers.in_process import forget_lost_attempts, run_recorded, summarize
from workers.rows import check_rows_have_files, record_experiment

EXAMPLES = """\
examples:
  a whole small iteration on a laptop, M0 to M1; the same again makes M2
    python manage.py run_iteration --experiment demo --recipe smoke

  the paper's schedule in small, four iterations
    python manage.py run_iteration --experiment mini --recipe miniature --iterations 4

  your own model and prompts, with another value; first only the plan
    python manage.py run_iteration --experiment mine --recipe paper-llama3-8b \\
        --model my-model --prompts prompts.jsonl --set actor.samples=5 --dry-run

  by the workers that `make serve` and `make worker` have brought up, on any number of machines
    python manage.py run_iteration --experiment demo --recipe smoke --queue

"""


class Command(ExemplifiedCommand):
    """`manage.py run_iteration`."""

    examples = EXAMPLES + EXIT_CODES
    help = (
        "Run one iteration of an experiment: generate, judge, pair, meta-judge, train, evaluate. "
        "An iteration that was stopped or killed goes on where it was; otherwise the next begins."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_run_options(parser)
        parser.add_argument(
            "--queue",
            action="store_true",
            help="let the workers run it, and follow; Ctrl-C stops following, not the work",
        )
        parser.add_argument(
            "--draws",
            type=Path,
            metavar="FOLDER",
            help="keep there what the model draws, and take from there what equal weights were "
            "asked before with the same seed: experiments that begin alike draw once. Not for "
            "--queue",
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Plan, or run."""
        console = open_console(self.stdout, no_color=options["no_color"])
        console.quiet = options["verbosity"] == 0
        request = request_of(options)
        go_on = f"To go on: {_same_command(request, options['iterations'])}"
        with explained_errors(go_on=go_on):
            require_tables()
            require_writable(options["json"])
            if options["queue"] and options["draws"] is not None:
                raise InputError(
                    "--draws is for runs in this process: leave out --queue, or --draws"
                )
            if options["dry_run"]:
                result = _plan(request, options, console)
            else:
                result = _carry_out(request, options, console)
            if options["json"] is not None:
                write_json(options["json"], result)


def _plan(request: Request, options: dict[str, Any], console: Console) -> Summary:
    places = configured_places()
    _check_rows(request.experiment, places)
    return show_plan(
        request,
        options["iterations"],
        places,
        console,
        speeds_of=partial(_speeds, request.experiment),
        engine_here=not options["queue"],
    )


def _carry_out(request: Request, options: dict[str, Any], console: Console) -> Summary:
    until, places = options["iterations"], configured_places()
    if not options["queue"]:
        return _run(request, until, places, console, draws=options["draws"])
    return _run_by_workers(request, until, places, console)


def _speeds(name: str, recipe: Recipe) -> Speeds:
    """What the experiment itself has shown; before that, another one like it."""
    row = models.Experiment.objects.filter(name=name).first()
    own = speeds_of(row) if row else Speeds()
    return own if own.measured_in else speeds_of_like(models.Experiment.objects.all(), recipe)


def _command(name: str, *words: str) -> str:
    """What to type for the next iteration; the experiment knows its own recipe."""
    return manage("run_iteration", "--experiment", name, *words)


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
    return _command(request.experiment, *words, *changes)


def _run(
    request: Request,
    until: int | None,
    places: Places,
    console: Console,
    *,
    draws: Path | None,
) -> Summary:
    experiment = _open(request, places, console, engine_here=True)
    check_engine_of_next(experiment, until=until)
    row = record_experiment(experiment, artifact_root=places.artifacts)
    with kept_from_workers(experiment, row):
        lost = forget_lost_attempts(row)
        if lost:
            console.print(f"an earlier run was killed: {lost} unfinished shard begins anew")
        summaries = [
            _run_one(experiment, row, make_tools(experiment, places, number=number, draws=draws),
                     number, console)
            for number in next_iterations(experiment, until=until)
        ]  # fmt: skip
    _print_next_step(experiment, console)
    return {"experiment": experiment.name, "iterations": summaries}


def _run_by_workers(
    request: Request, until: int | None, places: Places, console: Console
) -> Summary:
    experiment = _open(request, places, console, engine_here=False)
    row = record_experiment(experiment, artifact_root=places.artifacts)
    iteration = hand_over(experiment, row, until=until)
    try:
        summaries = [_follow_one(experiment, iteration, console)]
        while (following := _following(iteration)) is not None:
            iteration = following
            summaries.append(_follow_one(experiment, iteration, console))
    except KeyboardInterrupt as error:
        raise CommandError(
            "no longer following; the workers go on. To follow again: "
            f"{_command(experiment.name, '--queue')}; to stop them: "
            f"{manage('control_iteration', 'cancel', '--experiment', experiment.name)}",
            returncode=EXIT_INTERRUPTED,
        ) from error
    _print_next_step(experiment, console)
    return {"experiment": experiment.name, "iterations": summaries}


def _following(iteration: models.Iteration) -> models.Iteration | None:
    """The next iteration, if the workers have begun it on their own."""
    following = models.Iteration.objects.filter(
        experiment=iteration.experiment_id,
        experiment__until__gt=iteration.number,
        number=iteration.number + 1,
    )
    return following.first()


def _follow_one(experiment: Experiment, iteration: models.Iteration, console: Console) -> Summary:
    console.print(f"[bold]{experiment.name}[/bold], iteration {iteration.number}, by the workers")
    try:
        summary: Summary = follow(iteration, console).metrics
    except NoPairsError:
        print_summary(console, summarize(experiment, iteration))
        raise
    print_summary(console, summary)
    return summary


def _open(request: Request, places: Places, console: Console, *, engine_here: bool) -> Experiment:
    _check_rows(request.experiment, places)
    return open_or_begin(
        request,
        places,
        say=lambda text: console.print(escape(text)),
        engine_here=engine_here,
    )


def _check_rows(name: str, places: Places) -> None:
    found = ArtifactStore(places.artifacts).exists(f"{name}/experiment.json")
    check_rows_have_files(name, artifact_root=places.artifacts, files_exist=found)


def _run_one(
    experiment: Experiment, row: models.Experiment, tools: Tools, number: int, console: Console
) -> Summary:
    console.print(f"[bold]{experiment.name}[/bold], iteration {number}")
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
    console.print(f"M{done} lies in {escape(str(model.source))}", soft_wrap=True)
    if done < experiment.recipe.iterations:
        console.print(
            f"next, M{done} to M{done + 1}: [bold]{escape(_command(experiment.name))}[/bold]",
            soft_wrap=True,
        )
    else:
        words = ("--experiment", experiment.name, "--format", "trl", "--output", "pairs.jsonl")
        console.print(
            f"the schedule of recipe {experiment.recipe.name} is complete; look at the pairs: "
            f"[bold]{escape(manage('export_pairs', *words))}[/bold]",
            soft_wrap=True,
        )
