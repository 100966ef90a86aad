"""Evaluation data that remote users can select: files in one folder of the installation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from meta_reward_core.recipes.schema import EvaluationTaskRecipe, Recipe

_KEYS: Final = ("evaluation.tasks", "development.tasks")
_NAMES_SHOWN: Final = 20


def resolve_evaluation_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert names in META_REWARD_EVALUATION_ROOT to full paths."""
    found = dict(values)
    for key in _KEYS:
        tasks = found.get(key)
        if isinstance(tasks, list):
            found[key] = [_resolve_task(task) for task in tasks]
    return found


def _resolve_task(task: Any) -> Any:
    data = task.get("data") if isinstance(task, Mapping) else None
    if not isinstance(data, str) or not data or Path(data).is_absolute():
        return task
    return {**task, "data": str(Path(settings.META_REWARD_EVALUATION_ROOT) / data)}


def find_evaluation_errors(recipe: Recipe) -> dict[str, str]:
    """Return why the data of evaluation or development tasks cannot be used, by key."""
    tasks = recipe.evaluation.tasks, recipe.development.tasks
    found = {key: _find_error(listed) for key, listed in zip(_KEYS, tasks, strict=True)}
    return {key: error for key, error in found.items() if error}


def _find_error(tasks: Sequence[EvaluationTaskRecipe]) -> str:
    root = Path(settings.META_REWARD_EVALUATION_ROOT).resolve()
    for task in tasks:
        path = Path(task.data)
        is_inside = "\0" not in task.data and path.resolve().is_relative_to(root)
        if not is_inside or path.resolve() == root or not path.exists():
            names = sorted(one.name for one in root.iterdir()) if root.is_dir() else []
            known = ", ".join(names[:_NAMES_SHOWN]) or "none"
            return (
                f"{task.name}: {path.name!r:.80} is not a file in META_REWARD_EVALUATION_ROOT. "
                f"Files: {known}."
            )
    return ""
