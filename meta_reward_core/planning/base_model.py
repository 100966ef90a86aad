"""Resolve what a recipe names as its base model (M0): the one place that does it.

`model` names a model of the recipe's task, a folder below the root of models, or a model of the
hub. Without it the task's default is meant. Finding needs no network and writes nothing; checking
adds what is wrong with it; resolving makes or fetches what is missing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import InputError, ModelFolderError, TrainingError
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
    """Return M0, making or fetching it first if need be.

    Raises:
        TaskError: the recipe's task is not installed here.
        ModelFolderError: the model is absent, unsafe, or outside the allowed root.
        HubError: it is to be fetched, and the hub does not answer.
        TrainingError: the task could not make it.
    """
    folder = _select_source(recipe).ensure(roots, say=say)
    return ModelRef.from_folder("M0", folder)


def check_base_model(recipe: Recipe, roots: StorageRoots) -> tuple[Path | None, str | None]:
    """Check M0 as far as that takes no network and writes nothing.

    Returns:
        Its folder if it is here; else what is found out only when the experiment begins, in words.

    Raises:
        InputError: it is not here and cannot be fetched, or may not be loaded.
        TrainingError: the task made it before, and it cannot serve.
    """
    source = _select_source(recipe)
    folder = source.find(roots.models)
    return folder, None if folder is not None else source.explain_absence(roots)


def find_base_model_folder(recipe: Recipe, models: Path) -> Path | None:
    """Find the folder of M0 on this machine, or None: nothing is made and nothing is fetched.

    Args:
        models: root of models.

    Raises:
        TaskError: the recipe's task is not installed here.
        ModelFolderError: it may not be loaded.
    """
    try:
        return None if _names_nothing(recipe) else _select_source(recipe).find(models)
    except TrainingError:
        return None


def find_base_model(recipe: Recipe, roots: StorageRoots) -> ModelRef | None:
    """Find M0 with its hash; see `find_base_model_folder`."""
    folder = find_base_model_folder(recipe, roots.models)
    return None if folder is None else ModelRef.from_folder("M0", folder)


def find_or_fetch_model(name: str, roots: StorageRoots, *, say: Callable[[str], None]) -> Path:
    """Find a folder by its path or below the models' root, unchecked; or fetch it from the Hub.

    Raises:
        ModelFolderError: there is none, or what was fetched may not be loaded.
        HubError: the Hub does not answer.
    """
    for folder in (Path(name), roots.models / name):
        if folder.exists():
            return folder
    return _NamedModel(name).ensure(roots, say=say)


class _Source(Protocol):
    """Where a base model comes from."""

    def find(self, models: Path) -> Path | None: ...

    def ensure(self, roots: StorageRoots, *, say: Callable[[str], None]) -> Path: ...

    def explain_absence(self, roots: StorageRoots) -> str: ...


def _select_source(recipe: Recipe) -> _Source:
    models = _get_task_models(recipe)
    if models is not None:
        return _TaskModel(models, recipe.model)
    if recipe.model is None:
        raise InputError(
            f"recipe {recipe.name!r} names no model: give one with --model FOLDER or a "
            "Hugging Face id"
        )
    return _NamedModel(recipe.model)


def _names_nothing(recipe: Recipe) -> bool:
    return recipe.model is None and _get_task_models(recipe) is None


def _get_task_models(recipe: Recipe) -> BaseModelSource | None:
    """The task's models if the recipe names one of them."""
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
        return "the seed model is not here yet: it is trained when the experiment begins"


@dataclass(frozen=True, slots=True)
class _NamedModel:
    """A folder below the root of models, named from there or as a path; else a model of the hub.

    Nothing outside the root is looked at: an answer that depends on what lies there would tell
    whoever may write a recipe which files this machine has.
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
        here = f", and whether it is one of those here ({', '.join(kept)})" if kept else ""
        return (
            f"the model {name} has not been fetched yet: whether the hub has it{here}, and whether "
            "it may be loaded, is found when the experiment begins"
        )

    def _require_hub_name(self, roots: StorageRoots) -> HubName:
        on_hub = parse_hub_name(self.name)
        if on_hub is None:
            raise ModelFolderError(
                f"there is no model folder {self.name!r} below {roots.models} "
                "(META_REWARD_MODEL_ROOT), and folders outside of it are not loaded: give one that "
                "is there, or a Hugging Face id such as org/name or org/name@revision"
            )
        return on_hub


def _is_below(path: Path, root: Path) -> bool:
    """Whether a path names, or leads to, something in a folder."""
    return any(
        Path(absolute(path)).is_relative_to(absolute(root))
        for absolute in (os.path.abspath, os.path.realpath)
    )
