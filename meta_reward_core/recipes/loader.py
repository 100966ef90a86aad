"""Read recipes: YAML files that can extend one another, plus `key=value` changes.

Renamed keys are accepted: each is reported to `warn` and replaced by the current key.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from meta_reward_core.errors import MalformedInputError, RecipeError
from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.recipes.changed_values import parse_changes
from meta_reward_core.recipes.prompt_templates import is_shipped_name
from meta_reward_core.recipes.renamed_keys import (
    Values,
    Warn,
    drop_removed_keys,
    set_value,
    translate_renamed_keys,
    warn_renamed,
)
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.system.untrusted_input import parse_yaml

TEMPLATE_KEYS: Final = ("judge.template", "judge.rubric", "meta_judge.template")
"""Keys whose values name a template of the package, or a file."""
_MAX_PROBLEMS: Final = 20


def list_shipped_recipes() -> list[str]:
    """List the names of the shipped recipes, sorted."""
    names = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_recipe(
    name_or_path: str, *, changes: Sequence[str] = (), warn: Warn = warn_renamed
) -> Recipe:
    """Load a recipe by its shipped name or file, apply `key=value` changes and validate it.

    Args:
        name_or_path: a name from `list_shipped_recipes`, or the path of a YAML file.
        changes: changes such as `actor.samples=5`; values are YAML.
        warn: called for each deprecated key.

    Raises:
        RecipeError: the recipe is missing or malformed, extends itself, or has an impossible value.
    """
    values = _read_extended(name_or_path, chain=(), warn=warn)
    for key, value in parse_changes(changes, base=values, warn=warn).items():
        set_value(values, key, value)
    return parse_recipe(values, origin=name_or_path)


def read_recipe_text(text: str, *, warn: Warn = warn_renamed) -> Recipe:
    """Parse a recipe sent by a user: it can extend a shipped recipe, but no local file.

    Args:
        warn: called for each deprecated key.

    Raises:
        RecipeError: the text is malformed, refers to local files, or has an impossible value.
    """
    values = _read_untrusted(text)
    parent = values.pop("extends", None)
    if parent is not None and parent not in list_shipped_recipes():
        known = ", ".join(list_shipped_recipes())
        raise RecipeError(
            f"`extends` must name a built-in recipe here ({known}), not {parent!r:.80}"
        )
    base = _read_extended(parent, chain=(), warn=warn) if parent else {}
    values = translate_renamed_keys(drop_removed_keys(values, warn=warn), base=base, warn=warn)
    return parse_recipe(_merge_values(base, values), origin=f"{values.get('name', 'sent')!s:.64}")


def _read_untrusted(text: str) -> Values:
    try:
        values = parse_yaml(text)
    except MalformedInputError as error:
        raise RecipeError(f"the recipe {error}") from error
    if not isinstance(values, dict):
        raise RecipeError("a recipe must consist of `key: value` lines")
    return values


def parse_stored_recipe(values: Mapping[str, Any], *, origin: str) -> Recipe:
    """Parse a stored recipe of an experiment or a record; see `canonical`.

    Raises:
        RecipeError: a value is wrong; the message has one line per wrong value.
    """
    return parse_recipe(restore_names(values), origin=origin)


def read_stored_values(values: Mapping[str, Any], *, origin: str) -> Values:
    """Return all values of a stored recipe under the current keys.

    Values of other versions that cannot be parsed are shown as far as possible.
    """
    try:
        return parse_stored_recipe(values, origin=origin).model_dump(mode="json")
    except RecipeError:
        return restore_names(values)


def parse_recipe(values: Values, *, origin: str) -> Recipe:
    """Validate plain values under the current keys as a recipe.

    Raises:
        RecipeError: a value is wrong; the message has one line per wrong value.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_describe(problem) for problem in problems[:_MAX_PROBLEMS]]
        if len(problems) > _MAX_PROBLEMS:
            lines.append(f"  and {len(problems) - _MAX_PROBLEMS:,} more")
        raise RecipeError(f"recipe {origin!r} is not valid:\n" + "\n".join(lines)) from error


def _describe(problem: Any) -> str:
    where = ".".join(f"{part!s:.80}" for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"  {where}: unknown key; `--help` and docs/recipes.md list the known ones"
    return f"  {where}: {problem['msg']} (given: {problem['input']!r:.80})"


def _read_extended(name_or_path: str, *, chain: tuple[str, ...], warn: Warn) -> Values:
    path = _find_recipe(name_or_path, relative_to=chain[-1] if chain else None)
    if path in chain:
        steps = " -> ".join([*chain[chain.index(path) :], path])
        raise RecipeError(f"recipes extend each other in a cycle: {steps}")
    values = _read_yaml(path)
    parent = values.pop("extends", None)
    if not isinstance(parent, str | None):
        raise RecipeError(f"{path}: `extends` must be the name of one recipe, not {parent!r}")
    base = _read_extended(parent, chain=(*chain, path), warn=warn) if parent is not None else {}

    def warn_of_file(message: str) -> None:
        warn(f"{path}: {message}")

    try:
        values = drop_removed_keys(values, warn=warn_of_file)
        values = translate_renamed_keys(values, base=base, warn=warn_of_file)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return _merge_values(base, values)


def _find_recipe(name_or_path: str, *, relative_to: str | None) -> str:
    """Find a shipped recipe by name, or a file (relative to the recipe that extends it)."""
    if name_or_path in list_shipped_recipes():
        return str(files(__package__) / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if relative_to is not None and not path.is_absolute():
        path = Path(relative_to).parent / path
    if path.is_file():
        return str(path.resolve())
    known = ", ".join(list_shipped_recipes())
    raise RecipeError(f"recipe {name_or_path!r} not found: use a YAML file, or one of: {known}")


def _read_yaml(path: str) -> Values:
    try:
        values = parse_yaml(Path(path).read_bytes(), allow_aliases=True)
    except MalformedInputError as error:
        raise RecipeError(f"{path} {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} must consist of `key: value` lines, but contains {type(values).__name__}"
        )
    _resolve_template_paths(values, Path(path).parent)
    return values


def _resolve_template_paths(values: Values, folder: Path) -> None:
    """Make the paths of template files absolute, so that they work from any folder."""
    for name in TEMPLATE_KEYS:
        section, _, key = name.partition(".")
        words = values.get(section)
        if isinstance(words, dict) and isinstance(words.get(key), str):
            file = folder / words[key]
            if not is_shipped_name(words[key]) and file.is_file():
                words[key] = str(file)


def _merge_values(base: Values, over: Values) -> Values:
    """Merge `over` into `base`: sections are merged, all other values are replaced."""
    merged = dict(base)
    for key, new in over.items():
        old = merged.get(key)
        merged[key] = (
            _merge_values(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
        )
    return merged
