"""Run iterations of an experiment in this process, or let the workers run them."""

from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.options import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    add_run_options,
    build_request,
    parse_positive_int,
    show_plan,
)
from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.cli.terminal import print_summary
from meta_reward_core.context import StageResources
from meta_reward_core.data.file_io import require_writable, write_json
from meta_reward_core.errors import InputError, NoPairsError
from meta_reward_core.evaluation.circuit_breaker import accept_findings
from meta_reward_core.experiment import Experiment
from meta_reward_core.planning.engine_loading import make_stage_resources
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import (
    check_next_engine,
    list_next_iterations,
    open_or_create,
)
from meta_reward_core.planning.shard_size import EngineCapacity
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.summary import Summary
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.system.command_hint import format_command
from webapp.experiments import models
from webapp.experiments.throughput import count_worker_engines, find_throughput
from webapp.paths import get_storage_roots
from workers.management.base import (
    ExemplifiedCommand,
    describe_shell_user,
    handle_errors,
    open_console,
    require_tables,
)
from workers.management.follow import follow_iteration
from workers.pipeline.change_settings import make_changer
from workers.pipeline.control import run_exclusively, submit_to_workers
from workers.pipeline.local_run import close_stale_attempts, run_and_record, summarize
from workers.pipeline.parallel_run import count_engine_processes
from workers.pipeline.sync_rows import check_rows_have_files, record_experiment

EXAMPLES = """\
examples:
  a complete small iteration on a laptop, from M0 to M1; repeat the command for M2
    python manage.py run_iteration --experiment demo --recipe smoke

  the paper's schedule at small scale, four iterations
    python manage.py run_iteration --experiment mini --recipe miniature --iterations 4

  your own model and prompts, and a changed setting; only print the plan
    python manage.py run_iteration --experiment mine --recipe paper-llama3-8b \\
        --model my-model --prompts prompts.jsonl --set actor.samples=5 --dry-run

  training stopped because too many pairs were too long: change the limit; nothing is sampled again
    python manage.py run_iteration --experiment mine --set training.max_length=4096

  with two engine processes, each with half of the GPUs or CPU cores of this machine
    python manage.py run_iteration --experiment demo --recipe smoke --engine-processes 2

  a fork that keeps the pairs of iteration 2 and trains with a changed setting
    python manage.py run_iteration --experiment mine-2 --fork-of mine --fork-at 2:pair_judge \\
        --set training.beta=0.2

  on the workers started by `make serve` and `make worker`, on any number of machines
    python manage.py run_iteration --experiment demo --recipe smoke --queue

"""


class Command(ExemplifiedCommand):
    """`format_command.py run_iteration`."""

    examples = EXAMPLES + EXIT_CODES
    help = (
        "Run one iteration of an experiment: generate, judge, pair, meta-judge, train, evaluate. "
        "Resumes an interrupted iteration; otherwise runs the next one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_run_options(parser)
        parser.add_argument(
            "--queue",
            action="store_true",
            help="Run on the workers and show the progress. Ctrl-C stops the display, not the run.",
        )
        parser.add_argument(
            "--engine-processes",
            type=parse_positive_int,
            metavar="N",
            help="Number of engine processes, each with its own share of the GPUs or CPU cores, so "
            "that shards of several stages run at the same time. Default: "
            "META_REWARD_ENGINE_PROCESSES; if it is not set, one for every "
            "engine.tensor_parallel_size GPUs, or one if there are no GPUs. Cannot be combined "
            "with --queue, because workers have their own setting.",
        )
        cache = parser.add_argument(
            "--completion-cache",
            type=Path,
            metavar="FOLDER",
            help="Folder that stores completions for reuse by runs with the same weights, prompts "
            "and seed, also in other experiments. Requires one engine process and cannot be "
            "combined with --queue.",
        )
        add_old_option(parser, "--draws", cache)

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Plan, or run."""
        console = open_console(self.stdout, no_color=options["no_color"])
        console.quiet = options["verbosity"] == 0
        request = build_request(options)
        go_on = f"To resume: {_format_resume_command(request, options)}"
        with handle_errors(go_on=go_on):
            require_tables()
            require_writable(options["output"])
            _check_options(options)
            if options["dry_run"]:
                result = _plan(request, options, console)
            else:
                result = _execute(request, options, console)
            if options["output"] is not None:
                write_json(options["output"], result)


def _check_options(options: dict[str, Any]) -> None:
    """Refuse incompatible options.

    Raises:
        InputError: options are incompatible; the message states which to remove.
    """
    cached, processes = options["completion_cache"] is not None, options["engine_processes"]
    if options["queue"] and cached:
        raise InputError(
            "--completion-cache is for runs in this process: remove --queue or --completion-cache"
        )
    if options["queue"] and processes is not None:
        raise InputError(
            "--engine-processes is for runs without a queue: remove it, or set "
            "META_REWARD_ENGINE_PROCESSES where the workers start"
        )
    if cached and (processes or 1) > 1:
        raise InputError(
            "--completion-cache needs one engine process: remove it, or use --engine-processes 1"
        )


def _plan(request: ExperimentRequest, options: dict[str, Any], console: Console) -> Summary:
    roots = get_storage_roots()
    _check_rows(request.experiment, roots)
    return show_plan(
        request,
        options["iterations"],
        roots,
        console,
        capacity=_find_capacity(request.experiment, options),
        engine_here=not options["queue"],
    )


def _execute(request: ExperimentRequest, options: dict[str, Any], console: Console) -> Summary:
    target_iteration, roots = options["iterations"], get_storage_roots()
    capacity = _find_capacity(request.experiment, options)
    if not options["queue"]:
        cached = options["completion_cache"]
        processes = options["engine_processes"] or settings.META_REWARD_ENGINE_PROCESSES
        return _run(
            request,
            target_iteration,
            roots,
            console,
            completion_cache=cached,
            engine_processes=processes if cached is None else 1,
            capacity=capacity,
        )
    return _run_by_workers(request, target_iteration, roots, console, capacity=capacity)


def _find_capacity(name: str, options: dict[str, Any]) -> EngineCapacity:
    """Return the engines of this command, or of the workers with --queue."""
    measure = partial(find_throughput, name)
    if options["queue"]:
        return EngineCapacity(count_worker_engines, measure)
    one = options["completion_cache"] is not None
    wanted = 1 if one else options["engine_processes"] or settings.META_REWARD_ENGINE_PROCESSES
    return EngineCapacity(partial(_count_local_engines, wanted), measure)


def _count_local_engines(wanted: int, recipe: Recipe) -> int:
    engine = recipe.engine
    return count_engine_processes(
        wanted, engine=engine.kind, gpus_per_model=engine.tensor_parallel_size
    )


def _format_command(name: str, *words: str) -> str:
    """Format the command for the next iteration, without the recipe, which is already stored."""
    return format_command("run_iteration", "--experiment", name, *words)


def _format_resume_command(request: ExperimentRequest, options: dict[str, Any]) -> str:
    """Format the command that resumes this run."""
    given = {
        "--recipe": request.recipe,
        "--model": request.model,
        "--prompts": request.prompts,
        "--engine": request.engine,
        "--seed": request.seed,
        "--iterations": options["iterations"],
        "--engine-processes": options["engine_processes"],
    }
    changes = [word for change in request.changes for word in ("--set", change)]
    if request.apply_changes is not None:
        changes += ["--apply-changes", request.apply_changes]
    words = [word for option, value in given.items() if value is not None
             for word in (option, str(value))]  # fmt: skip
    return _format_command(request.experiment, *words, *changes)


def _run(
    request: ExperimentRequest,
    target_iteration: int | None,
    roots: StorageRoots,
    console: Console,
    *,
    completion_cache: Path | None,
    engine_processes: int,
    capacity: EngineCapacity,
) -> Summary:
    experiment = _open(
        request,
        roots,
        console,
        engine_here=True,
        target_iteration=target_iteration,
        capacity=capacity,
    )
    check_next_engine(experiment, target_iteration=target_iteration)
    row = record_experiment(experiment, artifact_root=roots.artifacts)
    with run_exclusively(experiment, row):
        lost = close_stale_attempts(row)
        if lost:
            console.print(f"an earlier run was killed: restarting {lost} unfinished shard(s)")
        if request.accept_probe:
            _accept_findings(experiment)
        numbers = list(list_next_iterations(experiment, target_iteration=target_iteration))
        summaries = [
            _run_next(
                experiment,
                row,
                make_stage_resources(
                    experiment, roots, number=number, completion_cache=completion_cache
                ),
                number,
                console,
                goal=max(numbers),
                engine_processes=engine_processes,
            )
            for number in numbers
        ]
    _print_next_step(experiment, console)
    return {"experiment": experiment.name, "iterations": summaries}


def _accept_findings(experiment: Experiment) -> None:
    number = experiment.count_finished_iterations() + 1
    accept_findings(experiment.build_context(number), by="the command line")


def _run_by_workers(
    request: ExperimentRequest,
    target_iteration: int | None,
    roots: StorageRoots,
    console: Console,
    *,
    capacity: EngineCapacity,
) -> Summary:
    experiment = _open(
        request,
        roots,
        console,
        engine_here=False,
        target_iteration=target_iteration,
        capacity=capacity,
    )
    row = record_experiment(experiment, artifact_root=roots.artifacts)
    if request.accept_probe:
        _accept_findings(experiment)
    iteration = submit_to_workers(experiment, row, target_iteration=target_iteration)
    try:
        summaries = [_follow_one(experiment, iteration, console)]
        while (following := _find_following(iteration)) is not None:
            iteration = following
            summaries.append(_follow_one(experiment, iteration, console))
    except KeyboardInterrupt as error:
        raise CommandError(
            "no longer following; the workers continue. To follow again: "
            f"{_format_command(experiment.name, '--queue')}; to stop them: "
            f"{format_command('control_iteration', 'cancel', '--experiment', experiment.name)}",
            returncode=EXIT_INTERRUPTED,
        ) from error
    _print_next_step(experiment, console)
    return {"experiment": experiment.name, "iterations": summaries}


def _find_following(iteration: models.Iteration) -> models.Iteration | None:
    """Return the next iteration if the workers have started it."""
    following = models.Iteration.objects.filter(
        experiment=iteration.experiment_id,
        experiment__target_iteration__gt=iteration.number,
        number=iteration.number + 1,
    )
    return following.first()


def _follow_one(experiment: Experiment, iteration: models.Iteration, console: Console) -> Summary:
    console.print(f"[bold]{experiment.name}[/bold], iteration {iteration.number}, by the workers")
    try:
        summary: Summary = follow_iteration(iteration, console).metrics
    except NoPairsError:
        print_summary(console, summarize(experiment, iteration))
        raise
    print_summary(console, summary)
    return summary


def _open(
    request: ExperimentRequest,
    roots: StorageRoots,
    console: Console,
    *,
    engine_here: bool,
    target_iteration: int | None,
    capacity: EngineCapacity,
) -> Experiment:
    _check_rows(request.experiment, roots)
    return open_or_create(
        request,
        roots,
        say=lambda text: console.print(escape(text)),
        engine_here=engine_here,
        iterations=target_iteration,
        change=make_changer(roots.artifacts, who=describe_shell_user()),
        capacity=capacity,
    )


def _check_rows(name: str, roots: StorageRoots) -> None:
    found = ExperimentFiles(ArtifactStore(roots.artifacts), name).exists()
    check_rows_have_files(name, artifact_root=roots.artifacts, files_exist=found)


def _run_next(
    experiment: Experiment,
    row: models.Experiment,
    resources: StageResources,
    number: int,
    console: Console,
    *,
    goal: int,
    engine_processes: int,
) -> Summary:
    engine = experiment.get_recipe(number).engine
    processes = count_engine_processes(
        engine_processes, engine=engine.kind, gpus_per_model=engine.tensor_parallel_size
    )
    by = f", by {processes} engine processes" if processes > 1 else ""
    console.print(f"[bold]{experiment.name}[/bold], iteration {number}{by}")
    try:
        summary, anything = run_and_record(
            experiment,
            row,
            number,
            goal=goal,
            resources=resources,
            console=console,
            engine_processes=processes,
        )
    except NoPairsError:
        print_summary(console, summarize(experiment, row.iterations.get(number=number)))
        raise
    if anything:
        print_summary(console, summary)
    else:
        console.print(f"iteration {number} is already finished; all its files are intact")
    return summary


def _print_next_step(experiment: Experiment, console: Console) -> None:
    done = experiment.count_finished_iterations()
    model = experiment.get_model(done)
    console.print(f"M{done} is in {escape(str(model.source))}", soft_wrap=True)
    if done < experiment.recipe.iterations:
        console.print(
            f"next, M{done} to M{done + 1}: "
            f"[bold]{escape(_format_command(experiment.name))}[/bold]",
            soft_wrap=True,
        )
    else:
        words = ("--experiment", experiment.name, "--format", "trl", "--output", "pairs.jsonl")
        console.print(
            f"the schedule of recipe {experiment.recipe.name} is complete; export the pairs: "
            f"[bold]{escape(format_command('export_pairs', *words))}[/bold]",
            soft_wrap=True,
        )
