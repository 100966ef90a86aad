"""Find, check or create the base model (M0) that a recipe names. No other module does this.

`model` names a model of the recipe's task, a folder below the models root, or a model on the Hub.
If it is not set, the task's default is used. Finding a model needs no network and writes nothing;
checking also reports problems of the model; resolving creates or downloads a missing model.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import InputError, ModelFolderError, TrainingError
from meta_reward_core.models.check.result import CheckReport, require_sound
from meta_reward_core.models.check.reward_model import check_reward_model
from meta_reward_core.models.hf_download import fetch_model, list_local_commits
from meta_reward_core.models.hf_hub import HubName, parse_hub_name
from meta_reward_core.models.validation import check_model_folder
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.protocol import BaseModelSource
from meta_reward_core.tasks.registry import find_task


def resolve_base_model(
    recipe: Recipe, roots: StorageRoots, *, say: Callable[[str], None]
) -> ModelRef:
    """Return M0; create or download it first if necessary.

    Raises:
        TaskError: the recipe's task is not installed here.
        ModelFolderError: the model is absent, unsafe, or outside the allowed root.
        HubError: the model must be downloaded, and the Hub does not respond.
        TrainingError: the task could not create it.
    """
    folder = _select_source(recipe).ensure(roots, say=say)
    return ModelRef.from_folder("M0", folder)


def resolve_reward_model(
    recipe: Recipe, roots: StorageRoots, *, say: Callable[[str], None]
) -> ModelRef | None:
    """Return the reward model of a recipe, after a download if necessary; None if it has none.

    Raises:
        ModelFolderError: it is missing, unsafe, outside the allowed root, or not a reward model.
        HubError: the model must be downloaded, and the Hub does not respond.
    """
    if recipe.judge.reward_model is None:
        return None
    folder, report = _check_reward_model(recipe.judge.reward_model, roots, say=say)
    require_sound(report)
    return ModelRef.from_folder("reward model", folder)


def check_recipe_reward_model(
    recipe: Recipe, roots: StorageRoots, *, say: Callable[[str], None]
) -> CheckReport | None:
    """Check the reward model of a recipe, after a download if necessary; None if it has none.

    Raises:
        ModelFolderError: it is absent.
        HubError: the model must be downloaded, and the Hub does not respond.
    """
    name = recipe.judge.reward_model
    if name is None:
        return None
    return replace(_check_reward_model(name, roots, say=say)[1], model=name)


def _check_reward_model(
    name: str, roots: StorageRoots, *, say: Callable[[str], None]
) -> tuple[Path, CheckReport]:
    folder = _NamedModel(name).ensure(roots, say=say)
    return folder, check_reward_model(folder, allowed_roots=[roots.models])


def explain_absent_reward_model(recipe: Recipe, roots: StorageRoots) -> str | None:
    """Check the reward model of a recipe without the network and without writing anything.

    Returns:
        A message about what can only be checked when the experiment starts; None if there is
        nothing left to check.

    Raises:
        ModelFolderError: it is not local and cannot be downloaded, or it cannot be used.
    """
    if recipe.judge.reward_model is None:
        return None
    model = _NamedModel(recipe.judge.reward_model)
    folder = model.find(roots.models)
    if folder is None:
        return model.explain_absence(roots)
    require_sound(check_reward_model(folder, allowed_roots=[roots.models]))
    return None


def check_base_model(recipe: Recipe, roots: StorageRoots) -> tuple[Path | None, str | None]:
    """Check M0 as far as possible without the network and without writing anything.

    Returns:
        The folder if the model is local; otherwise a message about what can only be checked when
        the experiment starts.

    Raises:
        InputError: the model is not local and cannot be downloaded, or must not be loaded.
        TrainingError: the task created it earlier, but it is not usable.
    """
    source = _select_source(recipe)
    folder = source.find(roots.models)
    return folder, None if folder is not None else source.explain_absence(roots)


def find_base_model_folder(recipe: Recipe, models: Path) -> Path | None:
    """Find the folder of M0 on this machine, or None, without creating or downloading anything.

    Args:
        models: root of models.

    Raises:
        TaskError: the recipe's task is not installed here.
        ModelFolderError: the folder must not be loaded.
    """
    try:
        return None if _names_nothing(recipe) else _select_source(recipe).find(models)
    except TrainingError:
        return None


def find_task_model_folder(recipe: Recipe, models: Path) -> Path | None:
    """Find the folder of M0 if the recipe's task provides it, for example in its own package."""
    provided = _get_task_models(recipe)
    return None if provided is None else provided.find(recipe.model, models)


def find_base_model(recipe: Recipe, roots: StorageRoots) -> ModelRef | None:
    """Find M0 with its hash; see `find_base_model_folder`."""
    folder = find_base_model_folder(recipe, roots.models)
    return None if folder is None else ModelRef.from_folder("M0", folder)


def find_or_fetch_model(name: str, roots: StorageRoots, *, say: Callable[[str], None]) -> Path:
    """Find a folder by its path or below the models root, unchecked, or download it from the Hub.

    Raises:
        ModelFolderError: there is no such model, or the downloaded model must not be loaded.
        HubError: the Hub does not respond.
    """
    for folder in (Path(name), roots.models / name):
        if folder.exists():
            return folder
    return _NamedModel(name).ensure(roots, say=say)


class _Source(Protocol):
    """Source of a base model."""

    def find(self, models: Path) -> Path | None: ...

    def ensure(self, roots: StorageRoots, *, say: Callable[[str], None]) -> Path: ...

    def explain_absence(self, roots: StorageRoots) -> str: ...


def _select_source(recipe: Recipe) -> _Source:
    models = _get_task_models(recipe)
    if models is not None:
        return _TaskModel(models, recipe.model)
    if recipe.model is None:
        raise InputError(
            f"recipe {recipe.name!r} does not specify a model: use --model with a folder or a "
            "Hugging Face id"
        )
    return _NamedModel(recipe.model)


def _names_nothing(recipe: Recipe) -> bool:
    return recipe.model is None and _get_task_models(recipe) is None


def _get_task_models(recipe: Recipe) -> BaseModelSource | None:
    """Return the task's models if the recipe's model is one of them."""
    task = find_task(recipe.task)
    models = None if task is None else task.base_model
    return models if models is not None and models.provides(recipe.model) else None


@dataclass(frozen=True, slots=True)
class _TaskModel:
    """A model of a task."""

    source: BaseModelSource
    name: str | None

    def find(self, models: Path) -> Path | None:
        return self.source.find(self.name, models)

    def ensure(self, roots: StorageRoots, *, say: Callable[[str], None]) -> Path:
        return self.source.ensure(self.name, roots.models, scratch=roots.scratch, say=say)

    def explain_absence(self, roots: StorageRoots) -> str:  # noqa: ARG002
        return "the base model does not exist yet: it is trained when the experiment starts"


@dataclass(frozen=True, slots=True)
class _NamedModel:
    """A folder below the models root, by relative or full path; else a model on the Hub.

    Paths outside the root are never inspected, because the result would reveal to anyone who can
    write a recipe which files exist on this machine.
    """

    name: str

    def find(self, models: Path) -> Path | None:
        for folder in (Path(self.name), models / self.name):
            if _is_below(folder, models) and os.path.lexists(folder):
                return check_model_folder(folder, allowed_roots=[models])
        return None

    def ensure(self, roots: StorageRoots, *, say: Callable[[str], None]) -> Path:
        folder = self.find(roots.models)
        if folder is not None:
            return folder
        fetched = fetch_model(
            self._require_hub_name(roots), roots.models, token=roots.hub_token, say=say
        )
        return check_model_folder(fetched, allowed_roots=[roots.models])

    def explain_absence(self, roots: StorageRoots) -> str:
        name = self._require_hub_name(roots)
        kept = list_local_commits(name, roots.models)
        here = f", and whether it is one of the local versions ({', '.join(kept)})" if kept else ""
        return (
            f"the model {name} has not been downloaded yet: when the experiment starts, "
            f"Meta-Reward checks whether the Hub has the model{here}, and "
            f"whether the model can be loaded"
        )

    def _require_hub_name(self, roots: StorageRoots) -> HubName:
        on_hub = parse_hub_name(self.name)
        if on_hub is None:
            raise ModelFolderError(
                f"there is no model folder {self.name!r} below {roots.models} "
                "(META_REWARD_MODEL_ROOT), and folders outside it are not loaded: use a "
                "folder that exists there, or a Hugging Face id such as org/name or "
                "org/name@revision"
            )
        return on_hub


def _is_below(path: Path, root: Path) -> bool:
    """Return whether a path is inside a folder, or resolves to a path inside it."""
    return any(
        Path(absolute(path)).is_relative_to(absolute(root))
        for absolute in (os.path.abspath, os.path.realpath)
    )
