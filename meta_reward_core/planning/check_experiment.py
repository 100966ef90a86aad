"""The model check of a new experiment, before one of its files is written."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from meta_reward_core.context import ModelRef, PromptTemplates
from meta_reward_core.models.check.files import check_files
from meta_reward_core.models.check.result import Check, CheckReport, Level
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.model_check.needs import derive_needs
from meta_reward_core.planning.model_check.run import (
    ModelCheckRequest,
    can_check_here,
    require_sound,
    run_check,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model

_TOY_RECIPE = "miniature"


def check_new_experiment(
    recipe: Recipe,
    model: ModelRef,
    roots: StorageRoots,
    *,
    templates: PromptTemplates,
    prompts: Sequence[str],
    has_own_prompts: bool,
    engine_here: bool,
    say: Callable[[str], None],
) -> CheckReport | None:
    """Check M0 for a new experiment, and tell what the user should know.

    The `scripted` engine reads no model, so nothing is checked for it.

    Args:
        prompts: texts of the pool.
        has_own_prompts: whether they are the user's, and not those of the recipe's task.
        engine_here: whether this process will load the model anyway.

    Returns:
        The report; None if only a worker has the libraries for it: it checks before the first
        iteration generates.

    Raises:
        ModelFolderError: one sentence for each problem.
    """
    if recipe.engine.kind == "scripted":
        return None
    if not has_own_prompts and is_verified_toy_model(recipe, model):
        shipped = Check("shipped", "Model", Level.GREEN, "shipped and tested with this version")
        return CheckReport(str(model.folder), (shipped,))
    request = build_check_request(recipe, model.folder, roots, templates=templates, prompts=prompts)
    if not can_check_here():
        files = check_files(
            request.folder, derive_needs(recipe), allowed_roots=request.allowed_roots
        )
        require_sound(CheckReport(request.name, files.checks))
        say("a worker checks the rest of the model before the first iteration generates")
        return None
    report = run_check(request, in_process=engine_here)
    require_sound(report)
    for check in report.select(Level.AMBER):
        say(f"note on the model: {check.describe()}")
    return report


def build_check_request(
    recipe: Recipe,
    folder: Path,
    roots: StorageRoots,
    *,
    templates: PromptTemplates,
    prompts: Sequence[str],
) -> ModelCheckRequest:
    """Ask for the check of a folder below the models' root, or of the model that is shipped."""
    root = roots.models.resolve()
    resolved = folder.resolve()
    is_below = resolved.is_relative_to(root) and resolved != root
    return ModelCheckRequest(
        name=str(resolved.relative_to(root)) if is_below else str(folder),
        folder=folder,
        allowed_roots=(roots.models, get_shipped_seed_model().parent),
        recipe=recipe,
        templates=templates,
        prompts=tuple(prompts),
    )


def is_verified_toy_model(recipe: Recipe, model: ModelRef) -> bool:
    """Whether the shipped model is used for the task and the lengths that it is tested with."""
    if model.sha256 != _hash_shipped_model():
        return False
    tested = load_recipe(_TOY_RECIPE)
    return recipe.task == tested.task and (
        (derive_needs(recipe), recipe.judge.template, recipe.judge.rubric)
        == (derive_needs(tested), tested.judge.template, tested.judge.rubric)
        and recipe.meta_judge.template == tested.meta_judge.template
    )


@cache
def _hash_shipped_model() -> str:
    return hash_model_folder(get_shipped_seed_model())
