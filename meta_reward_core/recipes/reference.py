"""`python -m meta_reward_core.recipes.reference`: generate the reference page of recipes."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from meta_reward_core.recipes.renamed_keys import REMOVED_KEYS, RENAMED_KEYS
from meta_reward_core.recipes.schema import Recipe

_HEAD = """\
# Recipes

A recipe is a YAML file. Omitted keys have the defaults below, which are the paper's values where
the paper states them. With `extends: NAME`, a recipe starts from the values of another one: a
built-in recipe, or a file in the same folder. On the command line, `--set section.key=value`
changes a value. An unknown key is an error.

A value marked "by iteration" may be a list. Its entries apply to iterations 1, 2, and so on; later
iterations use the last entry.

`python -m meta_reward_core.recipes.reference` generates this page; a test keeps it up to date.
"""

_RENAMED = """
## Deprecated keys

These keys still work, with a warning, and will be removed in a later version.
"""


def write_reference() -> str:
    """Generate the page."""
    lines = [_HEAD, "## Built-in recipes\n"]
    lines += [f"- `{name}`: {load_recipe(name).description}" for name in list_shipped_recipes()]
    lines += ["", "## Fields", "", "| key | default | bounds | unit | meaning | source |"]
    lines += ["|---|---|---|---|---|---|", *_iter_rows(Recipe, "")]
    lines += [_RENAMED, "| old key | key |", "|---|---|"]
    lines += [
        f"| `{old}` | `{new}` |" for old, new in RENAMED_KEYS.items() if old not in REMOVED_KEYS
    ]
    lines += ["| `world: miniature` | `task: toy` |"]
    lines += ["| `evaluation.oracle` | `task` and `evaluation.ground_truth` |"]
    lines += [f"| `{key}` | none: {instead} |" for key, instead in REMOVED_KEYS.items()]
    return "\n".join(lines) + "\n"


def _iter_rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _iter_rows(inner, f"{prefix}{name}.")
        elif prefix + name not in REMOVED_KEYS:
            yield _format_row(prefix + name, field)


def _format_row(key: str, field: FieldInfo) -> str:
    extra: Any = field.json_schema_extra or {}
    default = "required" if field.is_required() else f"`{_format_value(field.default)}`"
    cells = [f"`{key}`", default, _format_bounds(field), extra.get("unit", "")]
    cells += [field.description or "", extra.get("source", "")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _format_value(value: object) -> str:
    """Format a value as in a recipe file."""
    return json.dumps(value).strip('"')


def _format_bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    )


if __name__ == "__main__":
    sys.stdout.write(write_reference())
