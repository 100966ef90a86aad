"""Changes of a recipe as typed values by key, with all errors at once.

All interfaces (command line, API, form) use this module, so that the same values give the same
recipe, the same list of changes and the same errors.
"""

import copy
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meta_reward_core.errors import MalformedInputError, RecipeError
from meta_reward_core.recipes.renamed_keys import (
    Values,
    Warn,
    drop_removed_keys,
    get_value,
    has_value,
    is_renamed,
    set_value,
    translate_renamed_keys,
    warn_renamed,
)
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.system.untrusted_input import parse_yaml

ADAPTERS: Final = "training.lora"
"""The section that may be absent; it changes as a whole."""

TASKS: Final = ("evaluation.tasks", "development.tasks")
"""Lists of sections; the key of an error contains the entry and its field."""

_UNKNOWN_KEY: Final = "Unknown recipe value."
_INTEGER_ERRORS: Final = frozenset({"int_type", "int_parsing", "int_from_float"})
_NUMBER_ERRORS: Final = frozenset({"float_type", "float_parsing", "finite_number"})
_INPUT_CHARS: Final = 40


class RecipeValuesError(RecipeError):
    """Values of a recipe that cannot be used, all at once.

    Attributes:
        errors: errors by field, which is a key of the recipe or a field of a request.
        problems: problems that do not belong to a single field.
    """

    def __init__(self, errors: Mapping[str, str], problems: Sequence[str] = ()) -> None:
        super().__init__(
            "\n".join([*(f"{name}: {text}" for name, text in errors.items()), *problems])
        )
        self.errors = dict(errors)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A base recipe with changed values.

    Attributes:
        recipe: the recipe; None if a value is wrong.
        errors: errors by key.
        problems: problems that do not belong to a single value.
        values: values that differ from the base's, by key, in recipe order; empty if a value is
            wrong.
    """

    recipe: Recipe | None
    errors: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def parse_changes(
    changes: Sequence[str], *, base: Mapping[str, Any] | None = None, warn: Warn = warn_renamed
) -> dict[str, Any]:
    """Read `key=value` changes with YAML values; the last value of a key counts.

    Args:
        base: nested values of the recipe to change; the meaning of some deprecated keys depends on
            them.
        warn: called for each deprecated key.

    Raises:
        RecipeError: a change is malformed.
    """
    found: dict[str, Any] = {}
    nested = copy.deepcopy(dict(base or {}))
    for change in changes:
        key, equals, text = (part.strip() for part in change.partition("="))
        if not equals or not key:
            raise RecipeError(f"--set expects key=value, such as actor.samples=5; got {change!r}")
        try:
            value = parse_yaml(text)
        except MalformedInputError as error:
            raise RecipeError(f"--set {key}: {text!r:.80} {error}") from error
        for name, translated in _translate(key, value, nested, warn).items():
            found.pop(name, None)
            found[name] = translated
            try:
                set_value(nested, name, translated)
            except RecipeError as error:
                raise RecipeError(f"--set {error}") from error
    return found


def _translate(key: str, value: Any, base: Values, warn: Warn) -> dict[str, Any]:
    layer: Values = {}
    set_value(layer, key, value)
    layer = drop_removed_keys(layer, warn=warn)
    try:
        layer = translate_renamed_keys(layer, base=base, warn=warn)
    except RecipeError as error:
        raise RecipeError(f"--set {error}") from error
    if not is_renamed(key):
        return {key: get_value(layer, key)} if has_value(layer, key) else {}
    return {name: get_value(layer, name) for name in list_value_keys() if has_value(layer, name)}


@cache
def list_value_keys() -> tuple[str, ...]:
    """List the keys of all values of a recipe, such as `actor.samples`, in order."""
    return tuple(_iter_keys(Recipe, ""))


def _iter_keys(model: type[BaseModel], section: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        key = f"{section}.{name}".lstrip(".")
        inner = _find_section(info.annotation)
        if inner is None:
            yield key
        elif key == ADAPTERS:
            yield key
            yield from _iter_keys(inner, key)
        else:
            yield from _iter_keys(inner, key)


def _find_section(annotation: Any) -> type[BaseModel] | None:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _find_section(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return next(filter(None, map(_find_section, get_args(annotation))), None)
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def check_changes(base: Recipe, values: Mapping[str, Any]) -> CheckedRecipe:
    """Apply changed values to a base recipe and collect all errors.

    Args:
        values: changed values by current key; a section such as `actor` may be given as a whole.
    """
    errors: dict[str, str] = {}
    nested = copy.deepcopy(base.model_dump(mode="json"))
    for key, value in values.items():
        if _is_not_finite(value):
            errors[key] = f"{str(value)!r} is not a number."
            continue
        if key.startswith(f"{ADAPTERS}.") and get_value(nested, ADAPTERS) is None:
            set_value(nested, ADAPTERS, {})
        try:
            set_value(nested, key, _drop_negative_zero(value))
        except RecipeError:
            errors[key] = _UNKNOWN_KEY
    try:
        recipe = Recipe.model_validate(nested)
    except ValidationError as error:
        found, problems = explain_errors(error, given=values)
        return CheckedRecipe(None, found | errors, problems)
    if errors:
        return CheckedRecipe(None, errors)
    return CheckedRecipe(recipe, values=list_changed_values(base, recipe))


def change_recipe(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Apply changed values to a recipe.

    Args:
        values: changed values by current key.

    Raises:
        RecipeValuesError: a value is wrong; the error contains all problems.
    """
    checked = check_changes(base, values)
    if checked.recipe is None:
        raise RecipeValuesError(checked.errors, checked.problems)
    return checked.recipe


def _is_not_finite(value: Any) -> bool:
    """Whether a number, or a text that would be parsed as one, is NaN or infinite."""
    if not isinstance(value, float | str):
        return False
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return False


def _drop_negative_zero(value: Any) -> Any:
    """Copy a value with 0.0 instead of -0.0: the numbers are equal, but would differ in hashes."""
    if isinstance(value, list | tuple):
        return [_drop_negative_zero(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _drop_negative_zero(part) for key, part in value.items()}
    return 0.0 if isinstance(value, float) and value == 0 else copy.deepcopy(value)


def list_changed_values(before: Recipe, after: Recipe) -> dict[str, Any]:
    """List the values of a recipe that differ from another recipe, by key, in order.

    The adapters are listed as a whole if one of the two recipes has none.
    """
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    found: dict[str, Any] = {}
    for key in list_value_keys():
        if key.startswith(f"{ADAPTERS}."):
            continue
        if key == ADAPTERS or has_value(new, key):
            value = get_value(new, key)
            if value != get_value(old, key) or type(value) is not type(get_value(old, key)):
                found[key] = value
    return found


def explain_errors(
    error: ValidationError, *, given: Mapping[str, Any]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Convert pydantic errors to one sentence per key, and those without a key.

    Args:
        given: values by key; an unknown key is reported under its own name.
    """
    errors: dict[str, str] = {}
    problems: list[str] = []
    for problem in error.errors(include_url=False):
        message = _explain(problem)
        keys = list(_find_keys(problem, message, given))
        if len(keys) == 1 and keys[0] in TASKS:
            place = ".".join(str(part) for part in problem["loc"])[len(keys[0]) + 1 :]
            message = f"{place}: {message}" if place else message
        for key in keys:
            errors.setdefault(key, f"{message.rstrip('.')}.")
        if not keys:
            problems.append(message)
    return errors, tuple(problems)


def _explain(problem: ErrorDetails) -> str:
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _UNKNOWN_KEY
    if given is None and kind not in {"value_error"}:
        return "A value is required."
    if kind in _INTEGER_ERRORS:
        return f"{str(given)!r:.{_INPUT_CHARS}} is not a whole number."
    if kind in _NUMBER_ERRORS:
        return f"{str(given)!r:.{_INPUT_CHARS}} is not a number."
    if kind in {"bool_type", "bool_parsing"}:
        return "Choose one of: yes, no."
    if kind == "literal_error":
        choices = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"Choose one of: {choices}."
    return problem["msg"].removeprefix("Value error, ")


def _find_keys(problem: ErrorDetails, message: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Return the key of an error; for an error across values, the keys that its message names."""
    path = ".".join(str(part) for part in problem["loc"])
    known = [*given, *list_value_keys()]
    for key in sorted(known, key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            yield key
            return
    unknown = [key for key in given if key.startswith(f"{path}.")] if path else []
    if unknown and problem["type"] == "extra_forbidden":
        yield from unknown
        return
    words = set(message.replace(",", " ").replace(":", " ").split())
    for key in list_value_keys():
        section, _, name = key.rpartition(".")
        if (section == path and name in words) or key in words:
            yield key
