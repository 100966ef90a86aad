"""A user's request for a new experiment, and the checks on it that need no model.

Imports no engine or training code, so that the site can check a request before it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from meta_reward_core.errors import InputError
from meta_reward_core.planning.settings_change import ApplyChanges
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.tasks.protocol import PromptSource
from meta_reward_core.tasks.registry import find_task

DEFAULT_RECIPE: Final = "smoke"
DEFAULT_SEED: Final = 1
_TASK_POOL_ITERATIONS: Final = 8
SKIP_BAD_ROWS: Final = "--skip-bad-rows"


@dataclass(frozen=True, slots=True)
class ExperimentRequest:
    """A user's request; None means the value of the recipe or the experiment.

    Attributes:
        recipe: a built-in name, a file's path, or a recipe that has been read already.
        skip_bad_rows: whether to skip unusable rows of the prompt file instead of refusing the
            file.
        apply_changes: treatment of the results of an existing experiment after a change of values.
        accept_probe: whether to continue despite the findings of the judge probe.
        uuid: UUID of the experiment if it is created; None to generate one.
        fork_of: name of the experiment from which a new experiment is forked.
        fork_at: the iteration and the last stage that the fork keeps, as `ForkPoint` writes it;
            None for the latest.
    """

    experiment: str
    recipe: str | Recipe | None = None
    changes: tuple[str, ...] = ()
    model: str | None = None
    prompts: Path | None = None
    engine: str | None = None
    seed: int | None = None
    resume: bool = True
    skip_bad_rows: bool = False
    accept_probe: bool = False
    apply_changes: ApplyChanges | None = None
    uuid: UUID | None = None
    fork_of: str | None = None
    fork_at: str | None = None

    def list_changes(self) -> list[str]:
        """All `key=value` changes to the recipe, including those from options."""
        changes = list(self.changes)
        if self.engine is not None:
            changes.append(f"engine.kind={self.engine}")
        if self.model is not None:
            changes.append(f"model={self.model}")
        return changes


def load_requested_recipe(request: ExperimentRequest) -> Recipe:
    """Read the requested recipe, with its changes.

    Raises:
        RecipeError: the recipe is missing or wrong.
    """
    changes = request.list_changes()
    if isinstance(request.recipe, Recipe):
        return change_recipe(request.recipe, parse_changes(changes))
    return load_recipe(request.recipe or DEFAULT_RECIPE, changes=changes)


def check_name(name: str) -> None:
    """Refuse an invalid experiment name.

    Raises:
        InputError: the name is invalid; the message lists the rules.
    """
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not allowed.isalnum() or not name[0].isalnum() or len(name) > 64 or not name.isascii():
        raise InputError(
            f"{name!r} is not a valid experiment name: use up to 64 letters, digits, '-', '_' "
            f"and '.', "
            "starting with a letter or digit"
        )


def compute_task_pool_size(recipe: Recipe) -> int:
    """Compute the number of task prompts with which an experiment with this recipe starts.

    Raises:
        InputError: the recipe's task is not installed here, has no prompts, or has too few.
    """
    available = get_task_prompts(recipe).size
    prompts = recipe.sample.prompts
    needed = prompts if recipe.sample.allow_reuse else prompts * recipe.iterations
    if available < needed:
        raise InputError(
            f"recipe {recipe.name!r} needs {needed:,} prompts, but its task {recipe.task!r} "
            f"has {available:,}: lower sample.prompts or iterations, or provide your own prompts"
        )
    return min(available, prompts * max(recipe.iterations, _TASK_POOL_ITERATIONS))


def get_task_prompts(recipe: Recipe) -> PromptSource:
    """Return the prompts of a recipe's task.

    Raises:
        InputError: the recipe has no task, or its task is not installed here or has no prompts.
    """
    task = find_task(recipe.task)
    if task is not None and task.prompts is not None:
        return task.prompts
    missing = "has no task" if task is None else f"uses the task {task.title}, which has no prompts"
    raise InputError(
        f"recipe {recipe.name!r} {missing}: "
        "provide your prompts in a file (txt, json, jsonl, csv, tsv or parquet), on the command "
        "line with --prompts FILE"
    )
