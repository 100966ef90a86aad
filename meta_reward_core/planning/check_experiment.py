"""The model check of a new experiment, before its files are written, and of a named model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from meta_reward_core.context import ModelRef, PromptTemplates
from meta_reward_core.experiment import Experiment, load_templates
from meta_reward_core.models.check.files import check_files
from meta_reward_core.models.check.result import Check, CheckReport, Level, require_sound
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.base_model import find_or_fetch_model, find_task_model_folder
from meta_reward_core.planning.model_check.needs import derive_needs, hash_checked_settings
from meta_reward_core.planning.model_check.run import (
    ModelCheckRequest,
    can_check_here,
    is_checked,
    read_report,
    run_check,
    write_changed_report,
)
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.registry import find_task, get_task_templates
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
    """Check M0 for a new experiment and report what the user should know.

    The `scripted` engine does not read a model, so nothing is checked for it.

    Args:
        prompts: texts of the prompt pool.
        has_own_prompts: whether the prompts are the user's instead of those of the recipe's task.
        engine_here: whether this process will load the model anyway.

    Returns:
        The report; None if only a worker has the required libraries. In that case, the worker runs
        the check before the first iteration generates.

    Raises:
        ModelFolderError: the model cannot be used; the message has one sentence per problem.
    """
    if recipe.engine.kind == "scripted":
        return None
    if not has_own_prompts and is_verified_toy_model(recipe, model):
        shipped = Check("shipped", "Model", Level.GREEN, "built in, tested with this version")
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


def check_changed_settings(
    experiment: Experiment,
    recipe: Recipe,
    *,
    engine_here: bool,
    say: Callable[[str], None],
    timeout: float = 600.0,
) -> CheckReport | None:
    """Check M0 again before a change of an experiment's settings, if the check reads them.

    Args:
        recipe: all values after the change.
        engine_here: whether this process will load the model anyway.
        say: receives messages for the user, except those already shown at creation.
        timeout: limit for a check in another process, in seconds.

    Returns:
        The report, to be stored once the settings are changed; None if nothing was checked.

    Raises:
        ModelFolderError: the model cannot be used; the message has one sentence per problem.
        EngineError: the check itself failed.
    """
    key = hash_checked_settings(recipe)
    first_key = hash_checked_settings(experiment.settings.get_recipe(0))
    if recipe.engine.kind == "scripted" or is_checked(
        experiment.store, experiment.paths.layout, key=key, first_key=first_key
    ):
        return None
    if key == hash_checked_settings(experiment.recipe):
        return None
    folder = experiment.seed_model.folder
    request = ModelCheckRequest(
        name=folder.name,
        folder=folder,
        allowed_roots=(Path(folder.anchor or "/"),),  # links were checked at creation
        recipe=recipe,
        templates=experiment.templates,
        prompts=tuple(experiment.get_files(0).read("prompts")["text"].to_pylist()),
    )
    if not can_check_here():
        files = check_files(folder, derive_needs(recipe), allowed_roots=request.allowed_roots)
        require_sound(CheckReport(request.name, files.checks))
        say("a worker checks the rest of the model before the next stage that needs it")
        return None
    report = run_check(request, in_process=engine_here, timeout=timeout)
    require_sound(report)
    known = read_report(experiment.store, experiment.paths.layout)
    told = set() if known is None else {check.describe() for check in known.checks}
    for check in report.select(Level.AMBER):
        if check.describe() not in told:
            say(f"note on the model: {check.describe()}")
    return report


def keep_changed_check(experiment: Experiment, recipe: Recipe, report: CheckReport | None) -> None:
    """Store the report of `check_changed_settings` once the settings are changed."""
    if report is not None:
        key = hash_checked_settings(recipe)
        write_changed_report(experiment.store, experiment.paths.layout, report, key=key)


def build_check_request(
    recipe: Recipe,
    folder: Path,
    roots: StorageRoots,
    *,
    templates: PromptTemplates,
    prompts: Sequence[str],
) -> ModelCheckRequest:
    """Build the check request for a folder below the models root, or for a model of the task."""
    own = find_task_model_folder(recipe, roots.models)
    root = roots.models.resolve()
    resolved = folder.resolve()
    is_below = resolved.is_relative_to(root) and resolved != root
    return ModelCheckRequest(
        name=str(resolved.relative_to(root)) if is_below else str(folder),
        folder=folder,
        allowed_roots=(
            *(roots.models, get_shipped_seed_model().parent),
            *(() if own is None else (own,)),
        ),
        recipe=recipe,
        templates=templates,
        prompts=tuple(prompts),
    )


def is_verified_toy_model(recipe: Recipe, model: ModelRef) -> bool:
    """Return whether the built-in model is used with the task and lengths that it is tested for."""
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


def build_named_check(
    name: str,
    recipe: Recipe,
    roots: StorageRoots,
    *,
    prompts: Path | None,
    say: Callable[[str], None],
) -> ModelCheckRequest:
    """Find the model and prompts to check; download the model from the Hub if it is not local.

    Args:
        name: path of a folder, path of a folder below the models root, or a Hub id.
        prompts: a file of prompts; None for the prompts of the recipe's task, if any.
        say: receives messages about slow steps and about prompts that were left out.

    Raises:
        InputError: there is no such model, or the prompts or templates cannot be used.
        HubError: the Hub does not respond.
    """
    task = find_task(recipe.task)
    texts: list[str] = []
    if prompts is not None or (task is not None and task.prompts is not None):
        pool, _ = read_pool(prompts, recipe, skip_bad_rows=True, say=say)  # only lengths matter
        texts = [prompt.text for prompt in pool.prompts]
    request = build_check_request(
        recipe,
        find_or_fetch_model(name, roots, say=say),
        roots,
        templates=load_templates(recipe, get_task_templates(recipe.task)),
        prompts=texts,
    )
    return replace(request, name=name)
