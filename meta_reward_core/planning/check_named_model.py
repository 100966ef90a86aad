"""The model check of a model that a user names, without an experiment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from meta_reward_core.experiment import load_templates
from meta_reward_core.planning.base_model import find_or_fetch_model
from meta_reward_core.planning.check_experiment import build_check_request
from meta_reward_core.planning.model_check.run import ModelCheckRequest
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.registry import find_task, get_task_templates


def build_named_check(
    name: str,
    recipe: Recipe,
    roots: StorageRoots,
    *,
    prompts: Path | None,
    say: Callable[[str], None],
) -> ModelCheckRequest:
    """Find what is to be checked; a model of the Hub that is not here is fetched.

    Args:
        name: a folder's path, its path below the models' root, or an id of the Hub.
        prompts: a file; None for those of the recipe's task, if it has one with prompts.
        say: told what takes long, and what was left out of the prompts.

    Raises:
        InputError: there is no such model, or the prompts or templates cannot be used.
        HubError: the Hub does not answer.
    """
    task = find_task(recipe.task)
    texts: list[str] = []
    if prompts is not None or (task is not None and task.prompts is not None):
        pool, _ = read_pool(prompts, recipe, skip_bad_rows=True, say=say)  # lengths alone count
        texts = [prompt.text for prompt in pool.prompts]
    request = build_check_request(
        recipe,
        find_or_fetch_model(name, roots, say=say),
        roots,
        templates=load_templates(recipe, get_task_templates(recipe.task)),
        prompts=texts,
    )
    return replace(request, name=name)
