"""Data of the launch form for its template."""

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
"""Fields that show their own errors; errors of a prompt file appear with its summary instead."""

_ENGINE: Final = "engine.kind"
_KEY_VALUES: Final = {
    "actor.samples": "responses per prompt (K)",
    "judge.samples": "judgments per response (N)",
    "pairing.rho": "rho",
    "training.beta": "beta",
    "training.learning_rate": "learning rate",
    "training.epochs": "epochs",
}
"""The values shown without opening a section."""


@dataclass(frozen=True, slots=True)
class FieldView:
    """A field of the recipe on the page.

    Attributes:
        field: its declaration.
        name, identity: name and id of the control.
        text: current content.
        before: content in the base, if it differs.
        error: error message, if there is one.
        choices: allowed values.
        suggestions: names known to this installation.
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
        """Whether the field is shown expanded."""
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
        """Number of values that differ from the base."""
        return sum(bool(shown.before) for shown in self.fields)

    @property
    def is_open(self) -> bool:
        """Whether its fields are shown expanded."""
        return any(shown.is_touched for shown in self.fields)


@dataclass(frozen=True, slots=True)
class FieldNote:
    """The note below a field: its error, or its previous value."""

    identity: str
    error: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class FormProblem:
    """A problem: its subject, the position of the subject on the page, and the reason."""

    label: str
    anchor: str
    text: str


def build_sections(state: LaunchFormState) -> list[SectionView]:
    """Build the recipe's fields, section by section."""
    return build_draft_sections(state.draft, state.errors, engines=state.engines)


def build_draft_sections(
    draft: RecipeDraft,
    errors: Mapping[str, str],
    *,
    engines: EngineOffer,
    left_out: Collection[str] = (),
) -> list[SectionView]:
    """Build the fields of an edited recipe, section by section.

    Args:
        errors: errors by the name of the control.
        left_out: keys that are not shown; sections without any shown field are omitted.
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


def list_key_values(state: LaunchFormState) -> list[tuple[str, str]]:
    """List the names of the most important values of the recipe with their texts."""
    return [(name, state.draft.texts[key]) for key, name in _KEY_VALUES.items()]


def list_notes(state: LaunchFormState) -> list[FieldNote]:
    """Build the notes below all fields of the settings and the recipe."""
    of_settings = [FieldNote(name, _get_error(state, name)) for name in _NOTED]
    of_recipe = [
        FieldNote(shown.identity, shown.error, shown.before)
        for shown in _build_fields(state.draft, state.errors, state.engines).values()
    ]
    return of_settings + of_recipe


def list_problems(state: LaunchFormState) -> list[FormProblem]:
    """List all problems with their positions on the page."""
    return [FormProblem("", "", text) for text in state.problems] + [
        FormProblem(_get_label(state, name), f"note-{name.replace('.', '-')}", text)
        for name, text in state.errors.items()
    ]


def _get_error(state: LaunchFormState, name: str) -> str:
    """Return the error of a field; errors of the prompts themselves appear with their summary."""
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
    """List known server names; remote workers may know others, so any name can be typed."""
    try:
        return sorted(read_endpoints())
    except EndpointError:
        return ()


def build_cli_command(state: LaunchFormState) -> str:
    """Write the form as a command; empty while it is not ready, or if it is a duplicate.

    A recipe that was sent as text, and prompts, appear as names of files that the user has.
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
