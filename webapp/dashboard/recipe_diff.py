"""The values of an experiment's recipe, and where they differ from the shipped one of its name."""

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
    """One value.

    Attributes:
        shipped: what the shipped recipe says, where it says something else.
    """

    key: str
    text: str
    shipped: str | None
    meaning: str
    unit: str


@dataclass(frozen=True, slots=True)
class RecipeView:
    """A recipe's values; `shipped` names the one that they are compared with, if there is one."""

    name: str
    shipped: str
    values: tuple[RecipeValue, ...]

    @property
    def changed(self) -> list[RecipeValue]:
        """The values that the shipped recipe has otherwise."""
        return [value for value in self.values if value.shipped is not None]


def make_recipe_view(recipe: Mapping[str, Any]) -> RecipeView:
    """Lay out the recipe that an experiment has stored, under today's keys."""
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
    """Yield what each value means, and its unit."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _iter_meanings(inner, f"{prefix}{name}.")
        else:
            extra: Any = field.json_schema_extra or {}
            yield prefix + name, (field.description or "", extra.get("unit", ""))
