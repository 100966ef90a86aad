"""Find tasks by name: those of this package, and those that other packages declare.

A package declares its tasks as entry points, such as

    [project.entry-points."meta_reward.tasks"]
    spelling = "my_package.spelling:TASK"

where `TASK` is a `protocol.Task`. Listing names imports nothing; a task is imported when it is
used. A task should import torch only inside functions, because the site lists tasks and never loads
a model.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from meta_reward_core.errors import MetaRewardError, TaskError
from meta_reward_core.recipes.prompt_templates import is_shipped_name, list_package_templates
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.tasks.protocol import ResponseGrader, Task

ENTRY_POINT_GROUP: Final = "meta_reward.tasks"
BUILT_IN_TASKS: Final[Mapping[str, str]] = {
    "ifeval": "meta_reward_core.tasks.ifeval.plugin:TASK",
    "labelled-pairs": "meta_reward_core.tasks.labelled_pairs.plugin:TASK",
    "toy": "meta_reward_core.tasks.toy.plugin:TASK",
}
"""Tasks of this package, with the import location of each task object."""

_log = logging.getLogger(__name__)

_ROLES: Final = ("judge", "meta_judge", "rubric")


@dataclass(frozen=True, slots=True)
class _Place:
    """Import location of a task's object.

    Attributes:
        package: the distribution that declares it.
        value: `module:attribute`.
    """

    package: str
    value: str


def list_task_names() -> tuple[str, ...]:
    """List the names of all tasks: built-in ones, then those of other packages, each sorted."""
    others = sorted(_list_entries(tuple(sys.path)).keys() - BUILT_IN_TASKS.keys())
    return (*sorted(BUILT_IN_TASKS), *others)


def get_task(name: str) -> Task:
    """Import a task.

    Raises:
        TaskError: no installed task has this name, two packages declare it, it cannot be imported,
            or it does not implement `protocol.Task`.
    """
    return _load_task(name, tuple(sys.path))


def find_task(name: str | None) -> Task | None:
    """Return the task of a recipe; None if the recipe has no task.

    Raises:
        TaskError: see `get_task`.
    """
    return None if name is None else get_task(name)


def find_response_grader(recipe: Recipe) -> ResponseGrader | None:
    """Return the evaluator of a recipe's task that grades single responses; None without one.

    Only pages that show grades to users call it: no stage can read them.
    """
    try:
        task = find_task(recipe.task) if recipe.has_ground_truth else None
    except TaskError:
        return None
    found = () if task is None else task.evaluators
    return next((one for one in found if isinstance(one, ResponseGrader)), None)


def get_judgment_format(task: Task) -> str:
    """Return how to read a judgment of a task, for people; empty if the task does not say."""
    return str(getattr(task, "judgment_format", ""))


def list_experiment_tasks() -> tuple[Task, ...]:
    """List the tasks that supply something for a new experiment, by name.

    A task that cannot be imported is left out, with a warning in the log: a broken package must
    not break the pages for all users.
    """
    return tuple(task for task in _iter_importable_tasks() if _supplies_experiments(task))


def _iter_importable_tasks() -> Iterator[Task]:
    for name in list_task_names():
        try:
            yield get_task(name)
        except TaskError as error:
            _log.warning("%s", error)


def _supplies_experiments(task: Task) -> bool:
    return any((task.prompts, task.base_model, task.templates, task.evaluators))


def get_task_templates(name: str | None) -> Mapping[str, str]:
    """Return the prompt templates of a recipe's task: name -> text; empty without a task.

    Raises:
        TaskError: see `get_task`.
    """
    task = find_task(name)
    return {} if task is None else task.templates


@cache
def _list_entries(path: tuple[str, ...]) -> Mapping[str, tuple[_Place, ...]]:  # noqa: ARG001
    """List the locations of each name, read again when the import path changes."""
    entries: dict[str, tuple[_Place, ...]] = {
        name: (_Place("meta-reward", value),) for name, value in BUILT_IN_TASKS.items()
    }
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        place = _Place(_get_package(entry), entry.value)
        if place not in entries.get(entry.name, ()):
            entries[entry.name] = (*entries.get(entry.name, ()), place)
    return entries


def _get_package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown package"


@cache
def _load_task(name: str, path: tuple[str, ...]) -> Task:
    entries = _list_entries(path).get(name, ())
    if not entries:
        raise TaskError(
            f"task {name!r} not found: install the package that declares it (entry points "
            f"{ENTRY_POINT_GROUP}), or use one of: {', '.join(list_task_names())}"
        )
    if len(entries) > 1:
        packages = " and ".join(place.package for place in entries)
        raise TaskError(f"the task {name!r} is declared by {packages}: uninstall all except one")
    task = _import_object(name, entries[0])
    if not isinstance(task, Task):
        raise TaskError(
            f"the task {name!r} of {entries[0].package}: {entries[0].value} is a "
            f"{type(task).__name__} that lacks attributes of meta_reward_core.tasks.protocol.Task"
        )
    _check_task(name, task, entries[0])
    return task


def _import_object(name: str, place: _Place) -> object:
    module, _, attribute = place.value.partition(":")
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except MetaRewardError:
        raise
    except Exception as error:
        raise TaskError(
            f"the task {name!r} of {place.package} cannot be imported from {place.value} "
            f"({type(error).__name__}: {error}): fix or uninstall that package"
        ) from error
    return found


def _check_task(name: str, task: Task, place: _Place) -> None:
    if task.name != name:
        raise TaskError(
            f"the entry point {name!r} of {place.package} loads a task named "
            f"{task.name!r}: use the same name for both"
        )
    taken = set(list_package_templates())
    for template in task.templates:
        if not is_shipped_name(template) or not template.endswith(_ROLES) or template in taken:
            raise TaskError(
                f"the task {name!r} of {place.package} has a template {template!r}: use lower-case "
                f"letters, digits and _, ending in {', '.join(_ROLES)}, and not a name of a "
                f"built-in template"
            )
