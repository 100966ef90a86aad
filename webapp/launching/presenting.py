"""The sheet of a launch as its template needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.engines.endpoints import read_endpoints
from meta_reward_core.errors import EndpointError
from webapp.launching.fields import RecipeField, field_sections, recipe_fields
from webapp.launching.sheets import PREFIX, Sheet

_NOTED: Final = (
    "name",
    "until",
    "seed",
    "is_private",
    "model_from",
    "model_folder",
    "model_hub",
    "prompts_from",
    "prompts_text",
)
"""Settings with a place for what is wrong; of a file that stands beside what was read of it."""


@dataclass(frozen=True, slots=True)
class ShownField:
    """A field of the recipe on the page.

    Attributes:
        field: its declaration.
        name, identity: of the control.
        text: what stands in it.
        before: what stands in the base, if that differs.
        error: what is wrong, if something is.
        suggestions: what this installation knows by name.
    """

    field: RecipeField
    name: str
    identity: str
    text: str
    before: str
    error: str
    suggestions: Sequence[str] = ()

    @property
    def is_touched(self) -> bool:
        """Whether a person should see it at once."""
        return bool(self.before or self.error)


@dataclass(frozen=True, slots=True)
class ShownSection:
    """A section of the recipe on the page."""

    key: str
    title: str
    text: str
    common: Sequence[ShownField]
    rest: Sequence[ShownField]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Note:
    """What stands below a field: what is wrong, or what it was before."""

    identity: str
    error: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong: what it is about, where that stands, and why."""

    label: str
    anchor: str
    text: str


def shown_sections(sheet: Sheet) -> list[ShownSection]:
    """The recipe's fields, section by section."""
    shown = _shown(sheet)
    return [
        ShownSection(
            key=section.key or "schedule",
            title=section.title,
            text=section.text,
            common=[shown[field.key] for field in section.common],
            rest=[shown[field.key] for field in section.rest],
            is_open=any(shown[field.key].is_touched for field in section.rest),
        )
        for section in field_sections()
    ]


def notes(sheet: Sheet) -> list[Note]:
    """What stands below every field, of the settings and of the recipe."""
    of_settings = [Note(name, _error_below(sheet, name)) for name in _NOTED]
    of_recipe = [
        Note(shown.identity, shown.error, shown.before) for shown in _shown(sheet).values()
    ]
    return of_settings + of_recipe


def problems(sheet: Sheet) -> list[Problem]:
    """All that is wrong, with the place of each on the page."""
    return [Problem("", "", text) for text in sheet.problems] + [
        Problem(_label(sheet, name), f"note-{name.replace('.', '-')}", text)
        for name, text in sheet.errors.items()
    ]


def _error_below(sheet: Sheet, name: str) -> str:
    """What is wrong with the prompts themselves stands beside what was read of them."""
    error = sheet.errors.get(name, "")
    return "" if name == "prompts_from" and error == sheet.prompts.error else error


def _label(sheet: Sheet, name: str) -> str:
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    return str(sheet.form[name].label) if name in sheet.form.fields else name


def _shown(sheet: Sheet) -> dict[str, ShownField]:
    endpoints = _known_endpoints()
    before = {difference.key: difference.before for difference in sheet.draft.differences}
    return {
        key: ShownField(
            field=field,
            name=PREFIX + key,
            identity=(PREFIX + key).replace(".", "-"),
            text=sheet.draft.texts[key],
            before=before.get(key, ""),
            error=sheet.errors.get(PREFIX + key, ""),
            suggestions=endpoints if key.rpartition(".")[2] == "endpoint" else (),
        )
        for key, field in recipe_fields().items()
    }


def _known_endpoints() -> Sequence[str]:
    """Names of servers; workers elsewhere may know others, so any name can be typed."""
    try:
        return sorted(read_endpoints())
    except EndpointError:
        return ()
