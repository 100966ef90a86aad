"""Options of a run, and the output of a plan, for both command lines."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from meta_reward_core.cli.renamed_options import add_old_option
from meta_reward_core.cli.terminal import print_outside_judge, print_plan, print_total
from meta_reward_core.data.prompt_formats import FORMATS
from meta_reward_core.evaluation.probe_gate import ACCEPT_OPTION
from meta_reward_core.experiment import open_experiment
from meta_reward_core.planning.cost_estimate import (
    ASSUMED_TOKENS_PER_SECOND,
    MeasuredThroughput,
    StagePlan,
    plan_iteration,
)
from meta_reward_core.planning.experiment_request import (
    DEFAULT_RECIPE,
    SKIP_BAD_ROWS,
    ExperimentRequest,
    check_name,
)
from meta_reward_core.planning.experiment_setup import (
    check_can_create,
    check_can_fork,
    check_can_resume,
    check_next_engine,
    check_seed_model,
)
from meta_reward_core.planning.fork import ForkPoint
from meta_reward_core.planning.shard_size import EngineCapacity, estimate_shard_size
from meta_reward_core.recipes.loader import list_shipped_recipes
from meta_reward_core.reporting.summary import Summary
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots

EXIT_INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0 finished   1 failed   2 invalid input   3 no preference pair survived
  4 not enough disk space   5 another process is running this experiment
  6 waiting for a human audit before training
  7 needs attention: the judge probe or a finished shard showed a fault
  130 stopped
"""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a run."""
    add = parser.add_argument
    add("--experiment", required=True, metavar="NAME",
        help="Experiment to run. It is created if it does not exist.")  # fmt: skip
    recipes = ", ".join(list_shipped_recipes())
    add("--recipe", metavar="NAME|FILE",
        help=f"Recipe: a YAML file, or one of {recipes}. Default: the experiment's own, or "
             f"{DEFAULT_RECIPE} for a new experiment.")  # fmt: skip
    add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="Recipe setting to change, such as actor.samples=5. Repeatable. In an existing "
             "experiment, a setting on which results already depend can be changed only with "
             "--apply-changes.")  # fmt: skip
    add("--apply-changes", choices=["now", "next"],
        help="What happens to results of an existing experiment that depend on a changed setting: "
             "now reruns them, next keeps them and uses the setting from the next iteration on. "
             "Default: the change is refused.")  # fmt: skip
    add("--model", metavar="PATH|HUB_ID",
        help="Base model M0, instead of the model in the recipe: a folder, or org/name@revision on "
             "Hugging Face.")  # fmt: skip
    add("--fork-of", metavar="NAME",
        help="Experiment to fork. The new experiment keeps its results up to a stage, and --set "
             "changes settings of later stages.")  # fmt: skip
    add("--fork-at", metavar="ITERATION[:STAGE]",
        help="Last results that the fork keeps, such as 2:pair_judge: all iterations before "
             "ITERATION, and the stages of ITERATION up to and including STAGE. Default: all "
             "results.")  # fmt: skip
    add("--prompts", type=Path, metavar="FILE",
        help=f"File of prompts. Formats: {', '.join(FORMATS)}.")  # fmt: skip
    add(ACCEPT_OPTION, action="store_true",
        help="Continue despite a fault that was found by the probe or in a finished "
             "shard.")  # fmt: skip
    add(SKIP_BAD_ROWS, action="store_true",
        help="Skip unusable rows of the prompt file. Without this option, a file with unusable "
             "rows is refused, and the rows are listed.")  # fmt: skip
    add("--iterations", type=parse_positive_int, metavar="N",
        help="Last iteration to run, counted from 1. Default: the one after the last finished "
             "iteration.")  # fmt: skip
    add("--engine", choices=["transformers", "vllm", "openai", "scripted"],
        help="Inference engine.")  # fmt: skip
    add("--seed", type=int, metavar="N", help="Random seed of the experiment.")
    add("--resume", action=argparse.BooleanOptionalAction, default=True,
        help="Continue an existing experiment (the default). With --no-resume, an existing "
             "experiment is refused.")  # fmt: skip
    add("--dry-run", action="store_true", help="Print the estimated cost and write nothing.")
    output = add("--output", type=Path, metavar="FILE",
        help="Output file for the summaries or, with --dry-run, for the plan, in "
             "JSON.")  # fmt: skip
    add_old_option(parser, "--json", output)


def parse_positive_int(text: str) -> int:
    """Parse an option that counts from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("counts from 1")
    return number


def build_request(options: Mapping[str, Any]) -> ExperimentRequest:
    """Build a request from parsed options."""
    return ExperimentRequest(
        experiment=options["experiment"],
        recipe=options["recipe"],
        changes=tuple(options["changes"]),
        model=options["model"],
        prompts=options["prompts"],
        engine=options["engine"],
        seed=options["seed"],
        resume=options["resume"],
        skip_bad_rows=options["skip_bad_rows"],
        apply_changes=options["apply_changes"],
        accept_probe=options["accept_probe"],
        fork_of=options["fork_of"],
        fork_at=options["fork_at"],
    )


def show_plan(
    request: ExperimentRequest,
    target_iteration: int | None,
    roots: StorageRoots,
    console: Console,
    *,
    capacity: EngineCapacity,
    engine_here: bool = True,
) -> Summary:
    """Print the plan of a run and its cost, without writing anything.

    Performs the same checks as the run, except for those that need the network or training.

    Args:
        target_iteration: the last iteration to run; None to run one more iteration.
        engine_here: whether this environment would also run the plan, instead of the workers.
        capacity: the engines that would run the plan, and measurements on finished shards of this
            experiment or a similar one.

    Raises:
        InputError: the request is invalid.
        StorageFullError: there is clearly too little disk space.
    """
    check_name(request.experiment)
    store = ArtifactStore(roots.artifacts)
    existing, unknown, launch = open_experiment(store, request.experiment), None, None
    point = ForkPoint(1)
    if existing is not None:
        change = check_can_resume(request, existing)
        recipe = existing.recipe if change is None else change.recipe
        for line in () if change is None else change.describe():
            console.print(escape(line), soft_wrap=True)
        if engine_here:
            check_next_engine(existing, target_iteration=target_iteration)
    elif request.fork_of is not None:
        _, point, recipe = check_can_fork(request, store)
    else:
        inputs = check_can_create(
            request, store, engine_here=engine_here, iterations=target_iteration
        )
        recipe, launch = inputs.recipe, inputs.launch
        unknown = check_seed_model(recipe, roots)
    kept = {spec.name for spec in point.list_kept_stages()}
    done = existing.count_finished_iterations() if existing else point.iteration - 1
    speeds = capacity.measure(recipe)
    size = estimate_shard_size(recipe, engines=capacity.count(recipe), measured=speeds)
    plans = {
        number: [
            stage
            for stage in plan_iteration(recipe, number, measured=speeds)
            if number > point.iteration or stage.stage not in kept
        ]
        for number in _select_iterations(done, target_iteration)
    }
    print_outside_judge(console, recipe.outside_judge)
    _print_plans(console, request.experiment, plans, done=done)
    if plans:
        console.print(f"{size.describe()}.", soft_wrap=True)
    console.print(_describe_estimate_basis(speeds))
    if unknown is not None:
        console.print(escape(unknown), soft_wrap=True)
    return {
        "experiment": request.experiment,
        "exists": existing is not None,
        "request": None if launch is None else launch.model_dump(mode="json"),
        "outside_judge": recipe.outside_judge,
        "not_checked": unknown,
        "shards": asdict(size),
        "plan": {str(number): [asdict(stage) for stage in plan] for number, plan in plans.items()},
    }


def _print_plans(
    console: Console, name: str, plans: Mapping[int, Sequence[StagePlan]], *, done: int
) -> None:
    for number, plan in plans.items():
        print_plan(console, plan, title=f"{name}, iteration {number}")
    if len(plans) > 1:
        print_total(console, list(plans.values()))
    if not plans:
        console.print(f"nothing to run: {done} iterations are already finished")


def _select_iterations(done: int, target_iteration: int | None) -> Iterable[int]:
    return range(done + 1, (done + 1 if target_iteration is None else target_iteration) + 1)


def _describe_estimate_basis(speeds: MeasuredThroughput) -> str:
    assumed = f"half the token limit, at {ASSUMED_TOKENS_PER_SECOND:,.0f} tokens/s"
    if speeds.measured_in:
        return (
            "measured: length of replies, tokens per second and seconds of training, from the "
            f"finished shards of {speeds.measured_in}; assumed: {assumed}"
        )
    return f"assumed: {assumed}; after the first iteration both use measured values"
