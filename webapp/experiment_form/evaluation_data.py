"""Evaluation data that can be named remotely: files in one folder of the installation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from meta_reward_core.recipes.schema import Recipe

_KEY: Final = "evaluation.tasks"
_NAMES_SHOWN: Final = 20


def resolve_evaluation_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert names in META_REWARD_EVALUATION_ROOT to full paths."""
    found = dict(values)
    tasks = found.get(_KEY)
    if isinstance(tasks, list):
        found[_KEY] = [_resolve_task(task) for task in tasks]
    return found


def _resolve_task(task: Any) -> Any:
    data = task.get("data") if isinstance(task, Mapping) else None
    if not isinstance(data, str) or not data or Path(data).is_absolute():
        return task
    return {**task, "data": str(Path(settings.META_REWARD_EVALUATION_ROOT) / data)}


def find_evaluation_error(recipe: Recipe) -> str:
    """Return why the data of `evaluation.tasks` cannot be used; empty if it can."""
    root = Path(settings.META_REWARD_EVALUATION_ROOT).resolve()
    for task in recipe.evaluation.tasks:
        path = Path(task.data)
        is_inside = "\0" not in task.data and path.resolve().is_relative_to(root)
        if not is_inside or path.resolve() == root or not path.exists():
            names = sorted(one.name for one in root.iterdir()) if root.is_dir() else []
            known = ", ".join(names[:_NAMES_SHOWN]) or "none"
            return (
                f"{task.name}: {path.name!r:.80} is not a file of META_REWARD_EVALUATION_ROOT. "
                f"Files: {known}."
            )
    return ""
