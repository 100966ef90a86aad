"""A recipe while somebody edits it: what was typed, what is wrong, what differs from its base."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from meta_reward_core.errors import RecipeError
from meta_reward_core.recipes.loader import TEMPLATE_KEYS, change_recipe, parse_recipe
from meta_reward_core.recipes.renamed_keys import ignore_renamed
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.recipe_fields import (
    RecipeField,
    get_recipe_fields,
    get_value_at,
    list_installed_templates,
    read_value,
    write_change,
    write_value,
)

_ADAPTERS: Final = "training.lora"


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A value that is not its base's, both as a person would type them."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RecipeDraft:
    """A recipe that is being edited.

    Attributes:
        texts: what stands in each field, by key.
        recipe: None as long as something is wrong.
        errors: by key.
        problems: what is wrong with no single value.
        changes: from the base, as `--set` takes them; empty as long as something is wrong.
        differences: what they change, for people.
    """

    base: Recipe
    texts: Mapping[str, str]
    recipe: Recipe | None
    errors: Mapping[str, str]
    problems: tuple[str, ...]
    changes: tuple[str, ...]
    differences: tuple[ValueDifference, ...]


def to_texts(recipe: Recipe) -> dict[str, str]:
    """Every value of a recipe as it stands in its field."""
    values = recipe.model_dump(mode="json")
    return {key: _to_text(field, values) for key, field in get_recipe_fields().items()}


def draft_recipe(
    base: Recipe, texts: Mapping[str, str], *, model: str | None, is_new: bool = True
) -> RecipeDraft:
    """Read what stands in the fields as changes of a base.

    Args:
        texts: by key; what is missing stays as it is.
        model: the seed model; None for the base's.
        is_new: for an experiment to be created, which may name no file of this machine.
    """
    typed = to_texts(base) | {
        key: text for key, text in texts.items() if key in get_recipe_fields()
    }
    values, errors = _read_all(base, typed)
    if model is not None:
        values["model"] = model
    recipe: Recipe | None = None
    problems: tuple[str, ...] = ()
    if not errors:
        recipe, errors, problems = _validate(base, values, is_new=is_new)
    changes = tuple(write_change(key, values[key]) for key in values) if recipe else ()
    differing = tuple(list_differences(base, recipe)) if recipe else ()
    return RecipeDraft(base, typed, recipe, errors, problems, changes, differing)


def list_differences(before: Recipe, after: Recipe) -> list[ValueDifference]:
    """List what differs between two recipes, in the order of the recipe."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [
        ValueDifference(key, _format_value(key, old), _format_value(key, new))
        for key in ("model", *get_recipe_fields())
        if get_value_at(old, key) != get_value_at(new, key) and not _is_listed_whole(key, old, new)
    ]


def require_launchable(recipe: Recipe) -> None:
    """Refuse a recipe that would make this machine read files for somebody far away.

    Raises:
        RecipeError: it names a template that comes neither with the package nor with a task, or a
            file of prompts or of evaluation data.
    """
    if recipe.sample.held_out is not None:
        raise RecipeError("sample.held_out names a file of the workers' machine: not from here")
    if recipe.evaluation.tasks:
        raise RecipeError("evaluation.tasks names files of the workers' machine: not from here")
    values = recipe.model_dump(mode="json")
    for key in TEMPLATE_KEYS:
        if get_value_at(values, key) not in list_installed_templates(key):
            known = ", ".join(list_installed_templates(key))
            raise RecipeError(f"{key} takes an installed template here ({known}), not a file")


def apply_changes(base: Recipe, changes: tuple[str, ...]) -> Recipe:
    """Apply the changes of a stored request to a base for somebody far away.

    Raises:
        RecipeError: they cannot be applied, or name a file of this machine.
    """
    recipe = change_recipe(base, changes, warn=ignore_renamed)
    require_launchable(recipe)
    return recipe


def _to_text(field: RecipeField, values: Mapping[str, Any]) -> str:
    if field.key == _ADAPTERS:
        return "yes" if get_value_at(values, _ADAPTERS) else "no"
    if field.section == _ADAPTERS and get_value_at(values, _ADAPTERS) is None:
        return field.default
    return _format_value(field.key, values)


def _format_value(key: str, values: Mapping[str, Any]) -> str:
    value = get_value_at(values, key)
    if key == _ADAPTERS:
        return "yes" if value else "no"
    return "" if value is None and key == "actor.system_prompt" else write_value(value)


def _is_listed_whole(key: str, *versions: Mapping[str, Any]) -> bool:
    """Of adapters that both have, each value is told; else only that one has them."""
    both = all(get_value_at(values, _ADAPTERS) is not None for values in versions)
    if key == _ADAPTERS:
        return both
    return key.startswith(f"{_ADAPTERS}.") and get_value_at(versions[1], _ADAPTERS) is None


def _read_all(base: Recipe, texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values that differ from the base's, by key, and what cannot be read."""
    same = to_texts(base)
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    adapters: dict[str, Any] = {}
    for key, field in get_recipe_fields().items():
        try:
            value = read_value(field, texts[key])
        except ValueError as error:
            errors[key] = str(error)
            continue
        if field.section == _ADAPTERS:
            adapters[key.rpartition(".")[2]] = value
        elif texts[key].strip() != same[key].strip() and key != _ADAPTERS:
            values[key] = value
    return values | _diff_adapters(base, adapters, texts), errors


def _diff_adapters(base: Recipe, given: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    before = base.model_dump(mode="json")["training"]["lora"]
    after = given if texts[_ADAPTERS] == "yes" else None
    return {} if after == before else {_ADAPTERS: after}


def _validate(
    base: Recipe, changed: Mapping[str, Any], *, is_new: bool
) -> tuple[Recipe | None, dict[str, str], tuple[str, ...]]:
    values = copy.deepcopy(base.model_dump(mode="json"))
    for key, value in changed.items():
        *sections, last = key.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[last] = value
    try:
        recipe = parse_recipe(values, origin=base.name)
        if is_new:
            require_launchable(recipe)
    except RecipeError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError):
            return None, {}, (str(error),)
        errors, problems = _explain_errors(cause)
        return None, errors, problems
    return recipe, {}, ()


def _explain_errors(error: ValidationError) -> tuple[dict[str, str], tuple[str, ...]]:
    """What pydantic found, beside the fields that it is about."""
    errors: dict[str, str] = {}
    problems = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        keys = list(_find_keys(problem["loc"], message))
        for key in keys:
            errors.setdefault(key, f"{message.rstrip(chr(46))}.")
        if not keys:
            problems.append(message)
    return errors, tuple(problems)


def _find_keys(place: tuple[int | str, ...], message: str) -> Iterator[str]:
    """The field at a place; of what is wrong with several, those that its message names."""
    path = ".".join(str(part) for part in place)
    for key in sorted(get_recipe_fields(), key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            yield key
            return
    words = set(message.replace(",", " ").replace(":", " ").split())
    for key, field in get_recipe_fields().items():
        if (field.section == path and key.rpartition(".")[2] in words) or key in words:
            yield key
