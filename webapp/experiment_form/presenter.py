"""The sheet of a launch as its template needs it."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.engines.endpoints import read_endpoints
from meta_reward_core.errors import EndpointError
from meta_reward_core.system.command_hint import format_command
from webapp.experiment_form.engine_offer import EngineOffer
from webapp.experiment_form.form_state import PREFIX, LaunchFormState
from webapp.experiment_form.recipe_draft import RecipeDraft
from webapp.experiment_form.recipe_fields import RecipeField, get_field_sections, get_recipe_fields

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

_ENGINE: Final = "engine.kind"


@dataclass(frozen=True, slots=True)
class FieldView:
    """A field of the recipe on the page.

    Attributes:
        field: its declaration.
        name, identity: of the control.
        text: what stands in it.
        before: what stands in the base, if that differs.
        error: what is wrong, if something is.
        choices: what may be chosen here.
        suggestions: what this installation knows by name.
    """

    field: RecipeField
    name: str
    identity: str
    text: str
    before: str
    error: str
    choices: Sequence[str] = ()
    suggestions: Sequence[str] = ()

    @property
    def is_touched(self) -> bool:
        """Whether a person should see it at once."""
        return bool(self.before or self.error)


@dataclass(frozen=True, slots=True)
class SectionView:
    """A section of the recipe on the page."""

    key: str
    title: str
    text: str
    fields: Sequence[FieldView]

    @property
    def changed(self) -> int:
        """How many values differ from the base."""
        return sum(bool(shown.before) for shown in self.fields)

    @property
    def is_open(self) -> bool:
        """Whether a person should see its fields at once."""
        return any(shown.is_touched for shown in self.fields)


@dataclass(frozen=True, slots=True)
class FieldNote:
    """What stands below a field: what is wrong, or what it was before."""

    identity: str
    error: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class FormProblem:
    """Something that is wrong: what it is about, where that stands, and why."""

    label: str
    anchor: str
    text: str


def build_sections(state: LaunchFormState) -> list[SectionView]:
    """The recipe's fields, section by section."""
    return build_draft_sections(state.draft, state.errors, engines=state.engines)


def build_draft_sections(
    draft: RecipeDraft,
    errors: Mapping[str, str],
    *,
    engines: EngineOffer,
    left_out: Collection[str] = (),
) -> list[SectionView]:
    """The fields of a recipe that is edited, section by section.

    Args:
        errors: by the name of the control.
        left_out: keys that are not shown; a section without a field is not, either.
    """
    built = _build_fields(draft, errors, engines)
    shown = {key: view for key, view in built.items() if key not in left_out}
    sections = [
        SectionView(
            key=section.key or "schedule",
            title=section.title,
            text=section.text,
            fields=[shown[field.key] for field in section.fields if field.key in shown],
        )
        for section in get_field_sections()
    ]
    return [section for section in sections if section.fields]


def list_notes(state: LaunchFormState) -> list[FieldNote]:
    """What stands below every field, of the settings and of the recipe."""
    of_settings = [FieldNote(name, _get_error(state, name)) for name in _NOTED]
    of_recipe = [
        FieldNote(shown.identity, shown.error, shown.before)
        for shown in _build_fields(state.draft, state.errors, state.engines).values()
    ]
    return of_settings + of_recipe


def list_problems(state: LaunchFormState) -> list[FormProblem]:
    """All that is wrong, with the place of each on the page."""
    return [FormProblem("", "", text) for text in state.problems] + [
        FormProblem(_get_label(state, name), f"note-{name.replace('.', '-')}", text)
        for name, text in state.errors.items()
    ]


def _get_error(state: LaunchFormState, name: str) -> str:
    """What is wrong with the prompts themselves stands beside what was read of them."""
    error = state.errors.get(name, "")
    return "" if name == "prompts_from" and error == state.prompts.error else error


def _get_label(state: LaunchFormState, name: str) -> str:
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    return str(state.form[name].label) if name in state.form.fields else name


def _build_fields(
    draft: RecipeDraft, errors: Mapping[str, str], engines: EngineOffer
) -> dict[str, FieldView]:
    endpoints = _list_known_endpoints()
    before = {difference.key: difference.before for difference in draft.differences}
    return {
        key: FieldView(
            field=field,
            name=PREFIX + key,
            identity=(PREFIX + key).replace(".", "-"),
            text=draft.texts[key],
            before=before.get(key, ""),
            error=errors.get(PREFIX + key, ""),
            choices=engines.select_offered(field.choices, chosen=draft.texts[key])
            if key == _ENGINE
            else field.choices,
            suggestions=endpoints if key.rpartition(".")[2] == "endpoint" else (),
        )
        for key, field in get_recipe_fields().items()
    }


def _list_known_endpoints() -> Sequence[str]:
    """Names of servers; workers elsewhere may know others, so any name can be typed."""
    try:
        return sorted(read_endpoints())
    except EndpointError:
        return ()


def build_cli_command(state: LaunchFormState) -> str:
    """Write the form as a command; empty as long as it is not ready, or where it is a duplicate.

    A recipe that was sent as a text, and prompts, are named as files that the person has.
    """
    if not state.is_ready or state.base.origin is not None:
        return ""
    given = state.form.cleaned_data
    options: list[tuple[str, object]] = [
        ("--experiment", given["name"]),
        ("--recipe", state.base.name or "recipe.yaml"),
        *(("--set", change) for change in state.draft.changes),
        ("--iterations", given["until"]),
        ("--seed", given["seed"]),
    ]
    if state.prompts.found is not None:
        options.append(("--prompts", state.prompts.called.replace("pasted text", "prompts.txt")))
    written = [f"{name} {shlex.quote(str(value))}" for name, value in options]
    return " \\\n    ".join([format_command("run_iteration", "--queue"), *written])
