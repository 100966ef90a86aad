"""Recipe values of an experiment, and their differences from the shipped recipe."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from meta_reward_core.recipes.dataflow import flatten_values
from meta_reward_core.recipes.loader import (
    list_shipped_recipes,
    load_recipe,
    read_stored_values,
)
from meta_reward_core.recipes.schema import Recipe


@dataclass(frozen=True, slots=True)
class RecipeValue:
    """A recipe value.

    Attributes:
        shipped: value in the built-in recipe, if it differs.
    """

    key: str
    text: str
    shipped: str | None
    meaning: str
    unit: str


@dataclass(frozen=True, slots=True)
class RecipeView:
    """Recipe values; `shipped` is the name of the built-in recipe for comparison, if any."""

    name: str
    shipped: str
    values: tuple[RecipeValue, ...]

    @property
    def changed(self) -> list[RecipeValue]:
        """Values that differ from the shipped recipe."""
        return [value for value in self.values if value.shipped is not None]


def make_recipe_view(recipe: Mapping[str, Any]) -> RecipeView:
    """Build the view of a stored recipe, under the current keys."""
    name = str(recipe.get("name", ""))
    shipped = name if name in list_shipped_recipes() else ""
    known = _load_shipped_values(shipped) if shipped else {}
    meanings = dict(_iter_meanings(Recipe, ""))
    values = tuple(
        _make_value(key, text, known.get(key), meanings.get(key, ("", "")))
        for key, text in _write_values(read_stored_values(recipe, origin=name)).items()
        if key not in ("name", "description")
    )
    return RecipeView(name, shipped, values)


def _make_value(key: str, text: str, shipped: str | None, words: tuple[str, str]) -> RecipeValue:
    return RecipeValue(
        key=key,
        text=text,
        shipped=None if shipped == text else shipped,
        meaning=words[0],
        unit=words[1],
    )


@lru_cache(maxsize=32)
def _load_shipped_values(name: str) -> Mapping[str, str]:
    return _write_values(load_recipe(name).model_dump(mode="json"))


def _write_values(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(value, ensure_ascii=False).strip('"')
        for name, value in flatten_values(values).items()
    }


def _iter_meanings(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the meaning and unit of each value."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _iter_meanings(inner, f"{prefix}{name}.")
        else:
            extra: Any = field.json_schema_extra or {}
            yield prefix + name, (field.description or "", extra.get("unit", ""))
