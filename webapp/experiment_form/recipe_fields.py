"""Recipe values as form fields: meaning, formatting and parsing.

Fields are derived from the recipe's schema, so a new value becomes a new field. A field is named
by its key, such as `actor.samples`.
"""

import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meta_reward_core.errors import MalformedInputError
from meta_reward_core.recipes.field import OURS, PAPER
from meta_reward_core.recipes.prompt_templates import list_package_templates
from meta_reward_core.recipes.renamed_keys import REMOVED_KEYS
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.system.untrusted_input import REQUEST_LIMITS, parse_json, parse_yaml
from meta_reward_core.tasks.registry import list_experiment_tasks

FieldKind = Literal[
    "choice", "integer", "number", "text", "long_text", "schedule", "words", "benchmarks"
]

NONE: Final = "none"

_LIST_MARKS: Final = re.compile(r"([\[\],])")
_LIST_CHARS: Final = 2000

_COMMON: Final = frozenset(
    {
        "sample.prompts",
        "actor.samples",
        "actor.temperature",
        "judge.samples",
        "pairing.rho",
        "meta_judge.max_judgments",
        "training.learning_rate",
        "training.epochs",
        "training.beta",
        "engine.kind",
        "engine.endpoint",
        "engine.device",
        "iterations",
        "train_on",
    }
)
_LONG: Final = frozenset({"actor.system_prompt", "description"})
_ELSEWHERE: Final = frozenset({"model", "sample.held_out", *REMOVED_KEYS})
_BENCHMARKS: Final = frozenset({"evaluation.tasks", "development.tasks"})
"""Keys with controls of their own, and keys of workers' files, which the page does not offer."""
_TITLES: Final = {
    "": ("Schedule", "Values of all iterations."),
    "sample": ("Prompt sampling", ""),
    "actor": ("Actor", ""),
    "judge": ("Judge", ""),
    "pairing": ("Pair selection", ""),
    "meta_judge": ("Meta-judge", ""),
    "training": ("Training", "Direct Preference Optimization."),
    "training.lora": ("LoRA adapters", ""),
    "development": ("Checkpoint selection", ""),
    "engine": ("Engine", ""),
    "evaluation": ("Evaluation", ""),
}
_SIGNS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True, slots=True)
class RecipeField:
    """A recipe value as a field.

    Attributes:
        section: key of the section that it belongs to; empty for the recipe itself.
        unit, bounds: text; empty if there are none.
        from_paper: whether its default is the paper's.
        default: in the format of the form.
        depth: nesting depth of lists in a schedule.
        choices: allowed values, in the format of the form.
    """

    key: str
    section: str
    label: str
    text: str
    unit: str
    bounds: str
    source: str
    from_paper: bool
    default: str
    kind: FieldKind
    depth: int
    is_optional: bool
    is_common: bool
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldSection:
    """The fields of a recipe section, the most frequently changed first."""

    key: str
    title: str
    text: str
    fields: tuple[RecipeField, ...]


@cache
def get_field_sections() -> tuple[FieldSection, ...]:
    """List every section with its fields, in recipe order."""
    found: dict[str, list[RecipeField]] = {}
    texts: dict[str, str] = {}
    for section, model, name, info in _walk_fields(Recipe, ""):
        texts.setdefault(section, _get_first_line(model))
        found.setdefault(section, []).append(_make_field(section, name, info))
    return tuple(_make_section(key, texts[key], fields) for key, fields in found.items())


@cache
def get_recipe_fields() -> Mapping[str, RecipeField]:
    """List every field by its key."""
    return {field.key: field for section in get_field_sections() for field in section.fields}


def write_value(value: Any) -> str:
    """Format a recipe value as a user would type it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        if any(isinstance(one, Mapping) for one in value):
            return json.dumps(value)
        if len(value) == 1 and not isinstance(value[0], (list, tuple, str)):
            # a list with one entry differs from the plain value
            return f"[{write_value(value[0])}]"
        return ", ".join(
            f"[{write_value(one)}]" if _is_list(one) else _format_item(one) for one in value
        )
    return _format_item(value)


def read_value(field: RecipeField, text: str) -> Any:
    """Parse a typed value; the recipe checks the bounds.

    Raises:
        ValueError: the text is not a valid value of this field; the message is shown to users.
    """
    text = text.replace("\r\n", "\n")
    if field.kind in {"text", "long_text"}:
        return None if field.is_optional and text.strip() in {"", NONE} else text
    text = text.strip()
    if field.kind == "benchmarks":
        return _read_benchmarks(text)
    if field.is_optional and text in {"", NONE}:
        return None
    if not text:
        raise ValueError("A value is required.")
    return _READERS[field.kind](field, text)


def get_value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key such as `actor.samples`; None if its section is absent."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def write_change(key: str, value: Any) -> str:
    """Format a change for `--set`: a key and its value in YAML."""
    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**9)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def _walk_fields(
    model: type[BaseModel], section: str
) -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    for name, info in model.model_fields.items():
        inner = _find_inner_section(info.annotation)
        if f"{section}.{name}".lstrip(".") in _ELSEWHERE:
            continue
        if inner is None or _accepts_none(info.annotation):
            yield section, model, name, info
        if inner is not None:
            yield from _walk_fields(inner, f"{section}.{name}".lstrip("."))


def _find_inner_section(annotation: Any) -> type[BaseModel] | None:
    for part in _iter_alternatives(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _iter_alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types of a value, without names and bounds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _iter_alternatives(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for part in get_args(annotation):
            yield from _iter_alternatives(part)
    else:
        yield annotation


def _accepts_none(annotation: Any) -> bool:
    return any(part is type(None) for part in _iter_alternatives(annotation))


def _make_field(section: str, name: str, info: FieldInfo) -> RecipeField:
    key = f"{section}.{name}".lstrip(".")
    kind, depth = _detect_kind(key, info.annotation)
    extra: Any = info.json_schema_extra or {}
    source = extra.get("source", OURS)
    return RecipeField(
        key=key,
        section=section,
        label=name.replace("_", " "),
        text=info.description or "",
        unit=extra.get("unit", ""),
        bounds=_format_bounds(info),
        source=source,
        from_paper=source.startswith(PAPER),
        default=_format_default(info),
        kind=kind,
        depth=depth,
        is_optional=_accepts_none(info.annotation),
        is_common=key in _COMMON,
        choices=_list_choices(key, info.annotation),
    )


def _format_default(info: FieldInfo) -> str:
    if info.is_required():
        return ""
    return write_value(False if _find_inner_section(info.annotation) else info.default)


def _detect_kind(key: str, annotation: Any) -> tuple[FieldKind, int]:
    parts = [part for part in _iter_alternatives(annotation) if part is not type(None)]
    if key in _BENCHMARKS:
        return "benchmarks", 0
    if _list_choices(key, annotation):
        return "choice", 0
    lists = [part for part in parts if get_origin(part) is list]
    if lists:
        return "schedule", max(_compute_depth(part) for part in lists)
    if any(get_origin(part) is tuple for part in parts):
        return "words", 0
    if str in parts:
        return ("long_text" if key in _LONG else "text"), 0
    return ("integer" if int in parts else "number"), 0


def _compute_depth(annotation: Any) -> int:
    if get_origin(annotation) is not list:
        return 0
    return 1 + max(_compute_depth(part) for part in _iter_alternatives(get_args(annotation)[0]))


def _list_choices(key: str, annotation: Any) -> tuple[str, ...]:
    """List the choices of a field; empty for a typed value."""
    none = (NONE,) if _accepts_none(annotation) else ()
    if _find_inner_section(annotation) is not None or bool in set(_iter_types(annotation)):
        return ("yes", "no")
    if key in _TEMPLATES:
        return list_installed_templates(key)
    if key == TASK_KEY:
        return (*none, *(task.name for task in list_experiment_tasks()))
    parts = [part for part in _iter_alternatives(annotation) if part is not type(None)]
    if all(get_origin(part) is Literal for part in parts):
        return (*none, *(str(one) for part in parts for one in get_args(part)))
    return ()


def _iter_types(annotation: Any) -> Iterator[Any]:
    return (part for part in _iter_alternatives(annotation) if isinstance(part, type))


_TEMPLATES: Final = {
    "judge.template": "judge",
    "judge.rubric": "rubric",
    "meta_judge.template": "meta_judge",
}


TASK_KEY: Final = "task"
"""The value that names a task."""


@cache
def list_installed_templates(key: str) -> tuple[str, ...]:
    """List the built-in templates of a role, then those of installed tasks.

    Template files on this machine are not offered in forms.
    """
    of_tasks = sorted(name for task in list_experiment_tasks() for name in task.templates)
    return (
        *_select_for_role(key, list_package_templates()),
        *_select_for_role(key, of_tasks),
    )


def _select_for_role(key: str, names: Sequence[str]) -> tuple[str, ...]:
    kind = _TEMPLATES[key]
    of_meta_judge = {name for name in names if name.endswith("meta_judge")}
    if kind == "meta_judge":
        return tuple(sorted(of_meta_judge))
    return tuple(name for name in names if name.endswith(kind) and name not in of_meta_judge)


def _format_bounds(info: FieldInfo) -> str:
    return ", ".join(
        f"{words} {getattr(rule, name):g}"
        for rule in info.metadata
        for name, words in _SIGNS.items()
        if getattr(rule, name, None) is not None
    )


def _make_section(key: str, text: str, fields: Sequence[RecipeField]) -> FieldSection:
    title, said = _TITLES.get(key, (key.replace("_", " ").capitalize(), ""))
    return FieldSection(
        key=key,
        title=title,
        text=said or text,
        fields=tuple(sorted(fields, key=lambda field: not field.is_common)),
    )


def _get_first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _format_item(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _read_benchmarks(text: str) -> Any:
    """Parse a list such as `[{name: ifeval, data: FILE}]`; an empty text is an empty list."""
    try:
        return parse_yaml(text) if text else []
    except MalformedInputError as error:
        raise ValueError(
            f"{text!r:.40} is not a list such as [{{name: ifeval, data: FILE}}]."
        ) from error


def _read_choice(field: RecipeField, text: str) -> Any:
    if text not in field.choices:
        raise ValueError(f"Choose one of: {', '.join(field.choices)}.")
    return text == "yes" if set(field.choices) == {"yes", "no"} else text


def _read_integer(field: RecipeField, text: str) -> int:  # noqa: ARG001
    try:
        return int(text.replace("_", "").replace(",", ""))
    except ValueError:
        raise ValueError(f"{text!r:.40} is not a whole number.") from None


def _read_number(field: RecipeField, text: str) -> float:  # noqa: ARG001
    number = _parse_entry(text)
    if isinstance(number, str) or number is None or not math.isfinite(number):
        raise ValueError(f"{text!r:.40} is not a number.")
    return float(number)


def _read_texts(field: RecipeField, text: str) -> Any:  # noqa: ARG001
    words = [word.strip() for word in text.split(",") if word.strip()]
    return words[0] if words == ["all-linear"] else words


def _read_schedule(field: RecipeField, text: str) -> Any:
    """Parse a list by iteration, with or without brackets; a single value applies to all."""
    entries = _parse_list(text)
    is_list = text.startswith("[") and text.endswith("]")
    while (
        len(entries) == 1
        and isinstance(entries[0], list)
        and _measure_nesting(entries) > field.depth
    ):
        entries = entries[0]
    return entries[0] if field.depth == 1 and len(entries) == 1 and not is_list else entries


def _parse_list(text: str) -> list[Any]:
    """Parse entries between commas and brackets: numbers, words and `none`."""
    tokens = _LIST_MARKS.split(text[:_LIST_CHARS])
    written = "".join(_encode_list_token(token.strip()) for token in tokens)
    try:
        entries: list[Any] = parse_json(f"[{written}]", REQUEST_LIMITS)
    except MalformedInputError:
        raise ValueError(f"{text!r:.40} is not a list such as 0.3, 0.4.") from None
    if not entries:
        raise ValueError("A value is required.")
    return entries


def _encode_list_token(token: str) -> str:
    return token if token in {"", "[", "]", ","} else json.dumps(_parse_entry(token))


def _measure_nesting(value: Any) -> int:
    return 1 + max(map(_measure_nesting, value), default=0) if isinstance(value, list) else 0


def _parse_entry(entry: str) -> int | float | str | None:
    if entry == NONE:
        return None
    for number in (int, float):
        try:
            return number(entry)
        except ValueError:
            continue
    return entry


_READERS: Final = {
    "choice": _read_choice,
    "integer": _read_integer,
    "number": _read_number,
    "schedule": _read_schedule,
    "words": _read_texts,
}
