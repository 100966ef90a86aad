"""Change the settings of an existing experiment: preview and request.

A plan only needs small files, so a page can show it immediately. The change itself is a job,
because it needs the experiment's lock and updates rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.contrib.auth.models import User

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.planning.settings_change import (
    FIXED_FIELDS,
    ApplyChanges,
    SettingsPlan,
    SettingsRequest,
    plan_settings_change,
)
from meta_reward_core.recipes.canonical import get_current_key
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.engine_offer import EngineOffer
from webapp.experiment_form.form_state import PREFIX
from webapp.experiment_form.presenter import SectionView, build_draft_sections
from webapp.experiment_form.recipe_draft import ValueDifference, draft_recipe
from webapp.experiments.files import open_experiment_files, read_settings_history
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Job, JobKind

APPLY_CHOICES: Final[dict[str, ApplyChanges]] = {"now": "now", "next": "next"}


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A changed value, by its current name."""

    key: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class SettingsPreview:
    """Preview of a change.

    Attributes:
        plan: plan for applying the change now; None if nothing differs or the change is refused.
        later: plan for applying the change from the next iteration on, if applying it now would
            rerun something.
        problem: why the change is refused.
    """

    plan: SettingsPlan | None = None
    later: SettingsPlan | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SettingsFormState:
    """The form of an experiment's settings.

    Attributes:
        sections: fields with their current content; empty if the files cannot be read.
        problems: errors of the values.
        values: changed values, by key.
        differences: the changes, as shown to users.
        preview: effects of the change.
    """

    sections: Sequence[SectionView] = ()
    problems: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    differences: Sequence[ValueDifference] = ()
    preview: SettingsPreview = SettingsPreview()


def read_form(experiment: Experiment, given: Mapping[str, str]) -> SettingsFormState:
    """Read the form; without input it shows the settings of future iterations."""
    try:
        recipe = get_latest_recipe(experiment)
    except (InputError, ArtifactError) as error:
        return SettingsFormState(problems=[str(error)])
    texts = {
        name.removeprefix(PREFIX): text for name, text in given.items() if name.startswith(PREFIX)
    }
    draft = draft_recipe(recipe, texts, model=None, is_new=False)
    errors = {PREFIX + key: text for key, text in draft.errors.items()}
    wrong = [f"{key}: {text}" for key, text in draft.errors.items()]
    return SettingsFormState(
        sections=build_draft_sections(
            draft, errors, engines=EngineOffer.read(), left_out=FIXED_FIELDS
        ),
        problems=[*wrong, *draft.problems],
        values=draft.values,
        differences=draft.differences,
        preview=preview_change(experiment, draft.values) if draft.values else SettingsPreview(),
    )


def get_latest_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe of future iterations.

    Raises:
        ArtifactError: the files cannot be read.
    """
    return read_settings_history(experiment).get_recipe()


def plan_change(experiment: Experiment, request: SettingsRequest) -> SettingsPlan | None:
    """Plan a change of settings; None if it changes nothing.

    Raises:
        InputError: a value cannot be used, or the change is refused.
        ArtifactError: the files cannot be read.
    """
    recipe = change_recipe(get_latest_recipe(experiment), request.values)
    return plan_settings_change(open_experiment_files(experiment), recipe, apply=request.apply)


def preview_change(experiment: Experiment, values: Mapping[str, Any]) -> SettingsPreview:
    """Preview a change applied now and, if that reruns something, also one applied later."""
    try:
        plan = plan_change(experiment, SettingsRequest(values=dict(values), apply="now"))
        has_choice = plan is not None and bool(plan.made_again)
        later = (
            plan_change(experiment, SettingsRequest(values=dict(values), apply="next"))
            if has_choice
            else None
        )
    except (InputError, ArtifactError) as error:
        return SettingsPreview(problem=str(error))
    return SettingsPreview(plan, later)


def list_changed_values(plan: SettingsPlan) -> list[ChangedValue]:
    """List the changed values."""
    return [
        ChangedValue(get_current_key(key), plan.before[key], plan.after[key]) for key in plan.after
    ]


def request_change(experiment: Experiment, request: SettingsRequest, *, by: User) -> Job:
    """Request a change of settings.

    Raises:
        InputError: a value cannot be used, the change is refused, or nothing changes.
        ArtifactError: the files cannot be read.
    """
    plan = plan_change(experiment, request)
    if plan is None:
        raise InputError("the experiment already has these settings")
    payload = request.model_dump(mode="json") | {
        "before": dict(plan.before),
        "after": dict(plan.after),
    }
    return enqueue_job(JobKind.SETTINGS, by=by, experiment=experiment, payload=payload)
