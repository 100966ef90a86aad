"""The model check for both command lines."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from meta_reward_core.models.check.result import CheckReport, Level, require_sound
from meta_reward_core.planning.base_model import check_recipe_reward_model
from meta_reward_core.planning.check_experiment import build_named_check
from meta_reward_core.planning.experiment_request import (
    DEFAULT_RECIPE,
    ExperimentRequest,
    load_requested_recipe,
)
from meta_reward_core.planning.model_check.run import run_check
from meta_reward_core.recipes.loader import list_shipped_recipes
from meta_reward_core.storage.roots import StorageRoots

CHECK_EXIT_CODES: Final = """\
exit codes:
  0 the model can be used, perhaps with notes   2 it cannot be used, or the input is invalid
  1 the check itself failed   130 stopped
"""

_STYLES: Final = {Level.GREEN: "green", Level.AMBER: "yellow", Level.RED: "red"}


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a model check."""
    add = parser.add_argument
    add("model", metavar="MODEL",
        help="A model folder below META_REWARD_MODEL_ROOT, or a Hugging Face id.")  # fmt: skip
    recipes = ", ".join(list_shipped_recipes())
    add("--recipe", metavar="NAME|FILE", default=DEFAULT_RECIPE,
        help="Recipe whose limits apply: a YAML file, or one of "
        f"{recipes}. Default: {DEFAULT_RECIPE}.")  # fmt: skip
    add("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="Recipe setting to change, such as training.max_length=4096. Repeatable.")  # fmt: skip
    add("--prompts", type=Path, metavar="FILE",
        help="File of prompts to check against the limits: txt, jsonl, csv, parquet.")  # fmt: skip
    add("--output", "--json", type=Path, metavar="FILE",
        help="Output file for the report, in JSON.")  # fmt: skip


def check_named_model(
    options: Mapping[str, Any],
    roots: StorageRoots,
    console: Console,
    *,
    write: Callable[[Any], None],
) -> None:
    """Check the model in the parsed options and the recipe's reward model; print each result.

    Args:
        write: called with the report as plain values, before an unusable model is refused.

    Raises:
        ModelFolderError: the model cannot be used.
    """
    request = ExperimentRequest(
        "check", recipe=options["recipe"], changes=tuple(options["changes"])
    )
    recipe = load_requested_recipe(request)

    def say(text: str) -> None:
        console.print(escape(text))

    check = build_named_check(options["model"], recipe, roots, prompts=options["prompts"], say=say)
    report = run_check(check, in_process=True)
    print_report(console, report, recipe_name=recipe.name)
    reward_report = check_recipe_reward_model(recipe, roots, say=say)
    if reward_report is None:
        write(report.to_json())
    else:
        print_report(console, reward_report, recipe_name=f"{recipe.name}, as its reward model")
        write({**report.to_json(), "reward_model": reward_report.to_json()})
        require_sound(reward_report)
    require_sound(report)


def print_report(console: Console, report: CheckReport, *, recipe_name: str) -> None:
    """Print one line per result, and the conclusion."""
    console.print(f"[bold]{escape(report.model)}[/bold] for recipe {escape(recipe_name)}")
    for check in report.checks:
        style = _STYLES[check.level]
        console.print(
            f"  [{style}]{check.level:<6}[/{style}] {escape(check.title)}: "
            f"{escape(check.describe())}",
            soft_wrap=True,
        )
    notes, problems = len(report.select(Level.AMBER)), len(report.select(Level.RED))
    console.print(f"{_count(problems, 'problem')}, {_count(notes, 'note')}", highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
