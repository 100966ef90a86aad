"""A recipe being edited: typed values, errors, and differences from its base."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meta_reward_core.errors import RecipeError
from meta_reward_core.planning.launch_request import find_task_error
from meta_reward_core.recipes.changed_values import ADAPTERS, check_changes
from meta_reward_core.recipes.loader import TEMPLATE_KEYS
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.evaluation_data import find_evaluation_errors, resolve_evaluation_data
from webapp.experiment_form.recipe_fields import (
    TASK_KEY,
    RecipeField,
    get_recipe_fields,
    get_value_at,
    list_installed_templates,
    read_value,
    write_change,
    write_value,
)


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A value that differs from the base, both as text."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RecipeDraft:
    """A recipe that is being edited.

    Attributes:
        texts: content of each field, by key.
        recipe: None while there are errors or problems.
        errors: errors by key.
        problems: errors that do not belong to a single value.
        values: values that differ from the base's, by key; empty while there are errors.
        differences: the changes, as shown to users.
    """

    base: Recipe
    texts: Mapping[str, str]
    recipe: Recipe | None
    errors: Mapping[str, str]
    problems: tuple[str, ...]
    values: Mapping[str, Any]
    differences: tuple[ValueDifference, ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """Values in the form of `--set`."""
        return tuple(write_change(key, value) for key, value in self.values.items())


def to_texts(recipe: Recipe) -> dict[str, str]:
    """Return every value of a recipe as the text of its field."""
    values = recipe.model_dump(mode="json")
    return {key: _to_text(field, values) for key, field in get_recipe_fields().items()}


def draft_recipe(
    base: Recipe, texts: Mapping[str, str], *, model: str | None, is_new: bool = True
) -> RecipeDraft:
    """Read the fields as changes of a base.

    Args:
        texts: contents of the fields by key; missing fields keep the base's value.
        model: the base model (M0); None for that of the base recipe.
        is_new: whether the recipe is for a new experiment, which must not refer to files on this
            machine.
    """
    typed = to_texts(base) | {
        key: text for key, text in texts.items() if key in get_recipe_fields()
    }
    return _make_draft(base, typed, _read_all(base, typed), model=model, is_new=is_new)


def draft_values(base: Recipe, values: Mapping[str, Any], *, model: str | None) -> RecipeDraft:
    """Apply typed values by key to a base, for an experiment to be created."""
    return _make_draft(base, to_texts(base), values, model=model, is_new=True)


def _make_draft(
    base: Recipe,
    texts: Mapping[str, str],
    values: Mapping[str, Any],
    *,
    model: str | None,
    is_new: bool,
) -> RecipeDraft:
    given = dict(values) if model is None else {**values, "model": model}
    if is_new:
        given = resolve_evaluation_data(given)
    checked = check_changes(base, given)
    recipe, errors = checked.recipe, dict(checked.errors)
    if recipe is not None and is_new:
        errors = find_web_errors(recipe)
        recipe = None if errors else recipe
    return RecipeDraft(
        base,
        texts,
        recipe,
        errors,
        tuple(checked.problems),
        dict(checked.values) if recipe is not None else {},
        tuple(list_differences(base, recipe)) if recipe is not None else (),
    )


def list_differences(before: Recipe, after: Recipe) -> list[ValueDifference]:
    """List the differences between two recipes, in recipe order."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [
        ValueDifference(key, _format_value(key, old), _format_value(key, new))
        for key in ("model", *get_recipe_fields())
        if get_value_at(old, key) != get_value_at(new, key) and not _is_listed_whole(key, old, new)
    ]


def find_web_errors(recipe: Recipe) -> dict[str, str]:
    """Find values, by key, that a remotely sent recipe must not contain.

    A remote recipe must not make this machine read arbitrary files: templates must come with the
    package or an installed task, and evaluation data must be in META_REWARD_EVALUATION_ROOT.
    """
    errors: dict[str, str] = {}
    if error := find_task_error(recipe):
        errors[TASK_KEY] = error
    if recipe.sample.held_out is not None:
        errors["sample.held_out"] = (
            "sample.held_out is a file on the workers' machine and cannot be set here"
        )
    errors |= find_evaluation_errors(recipe)
    values = recipe.model_dump(mode="json")
    for key in TEMPLATE_KEYS:
        if get_value_at(values, key) not in list_installed_templates(key):
            errors[key] = f"Choose one of: {', '.join(list_installed_templates(key))}."
    return errors


def require_launchable(recipe: Recipe) -> None:
    """Refuse a recipe that would make this machine read files for a remote user.

    Raises:
        RecipeError: see `find_web_errors`.
    """
    errors = find_web_errors(recipe)
    if errors:
        raise RecipeError("\n".join(f"{key}: {text}" for key, text in errors.items()))


def _to_text(field: RecipeField, values: Mapping[str, Any]) -> str:
    if field.key == ADAPTERS:
        return "yes" if get_value_at(values, ADAPTERS) else "no"
    if field.section == ADAPTERS and get_value_at(values, ADAPTERS) is None:
        return field.default
    return _format_value(field.key, values)


def _format_value(key: str, values: Mapping[str, Any]) -> str:
    value = get_value_at(values, key)
    if key == ADAPTERS:
        return "yes" if value else "no"
    return "" if value is None and key == "actor.system_prompt" else write_value(value)


def _is_listed_whole(key: str, *versions: Mapping[str, Any]) -> bool:
    """Whether an adapter is in both recipes, so that its values are listed one by one."""
    both = all(get_value_at(values, ADAPTERS) is not None for values in versions)
    if key == ADAPTERS:
        return both
    return key.startswith(f"{ADAPTERS}.") and get_value_at(versions[1], ADAPTERS) is None


def _read_all(base: Recipe, texts: Mapping[str, str]) -> dict[str, Any]:
    """Read the values that differ from the base, by key.

    A value that cannot be parsed stays text; validating the recipe then reports the error.
    """
    same = to_texts(base)
    values: dict[str, Any] = {}
    adapters: dict[str, Any] = {}
    for key, field in get_recipe_fields().items():
        try:
            value = read_value(field, texts[key])
        except ValueError:
            value = texts[key].strip() or None
        if field.section == ADAPTERS:
            adapters[key.rpartition(".")[2]] = value
        elif texts[key].strip() != same[key].strip() and key != ADAPTERS:
            values[key] = value
    return values | _diff_adapters(base, adapters, texts)


def _diff_adapters(base: Recipe, given: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    before = base.model_dump(mode="json")["training"]["lora"]
    after = given if texts[ADAPTERS] == "yes" else None
    return {} if after == before else {ADAPTERS: after}
