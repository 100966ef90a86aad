"""Experiment requests: typed values, checked by the rules of the site."""

import json
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.models import User

from meta_reward_core.errors import InputError
from meta_reward_core.models.hf_hub import parse_hub_name
from meta_reward_core.planning.experiment_request import DEFAULT_RECIPE
from meta_reward_core.recipes.changed_values import ADAPTERS
from meta_reward_core.recipes.renamed_keys import translate_flat_keys
from webapp.api.schemas import LaunchChanges, ModelCheckIn, SeedModel
from webapp.experiment_form import forms
from webapp.experiment_form.form_state import (
    PREFIX,
    FormBase,
    LaunchFormState,
    make_requested_state,
    write_launch_payload,
)
from webapp.experiment_form.launch_request import load_base_recipe
from webapp.experiment_form.model_check import CheckRequest, is_model_folder, request_check
from webapp.experiment_form.recipe_draft import draft_values
from webapp.experiment_form.uploads import store_prompts
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Job, JobKind

_CALLED: Final = "the prompts"
_FIELDS: Final = {
    "prompts_from": "prompts",
    **dict.fromkeys(("model_from", "model_folder", "model_hub"), "model"),
}
"""Fields of the form, by another name in the API."""
_SWITCH: Final[dict[bool | str, dict[str, Any] | None]] = {
    True: {},
    "yes": {},
    False: None,
    "no": None,
}


def submit_launch(base: FormBase, given: LaunchChanges, *, by: User) -> tuple[Job, list[str]]:
    """Request an experiment.

    Returns:
        The job, and deprecation warnings for the request.

    Raises:
        InputError: the request is invalid; the message has one line per problem.
    """
    warnings = list(base.warnings)
    values = translate_values(given.values, warnings)
    state = make_requested_state(by, base, _fill_fields(given), values)
    if not state.is_ready:
        raise InputError("\n".join(_list_problems(state)))
    payload = write_launch_payload(state)
    job = enqueue_job(JobKind.LAUNCH, by=by, experiment_name=payload["experiment"], payload=payload)
    return job, warnings


def submit_model_check(given: ModelCheckIn, *, by: User | None) -> tuple[Job, list[str]]:
    """Request the check of a model.

    Returns:
        The job, and deprecation warnings for the request.

    Raises:
        InputError: the recipe, a value, the prompts or the model's name cannot be used.
    """
    warnings: list[str] = []
    values = translate_values(given.values, warnings)
    name = given.recipe or ("" if given.recipe_text else DEFAULT_RECIPE)
    base = load_base_recipe(name, given.recipe_text, warn=warnings.append)
    draft = draft_values(base, values, model=given.model.name)
    if draft.recipe is None:
        errors = [f"{key}: {text}" for key, text in draft.errors.items()]
        raise InputError("\n".join([*errors, *draft.problems]))
    if given.model.source == "hub" and parse_hub_name(given.model.name) is None:
        raise InputError("model: use an id such as org/name or org/name@revision")
    if given.model.source == "folder" and not is_model_folder(given.model.name):
        raise InputError(f"model: folder {given.model.name!r} not found on this site")
    stored = _store_prompt_fields(given.prompts).get("prompts_stored", "")
    request = CheckRequest.build(given.model.name, draft.recipe, prompts=stored)
    return request_check(request, by=by), warnings


def translate_values(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Translate values to current keys; deprecated keys are added to `warnings`.

    For adapters, "yes" and "no" turn them on and off, as in the form.

    Raises:
        InputError: a key is given under two names.
    """
    values = dict(translate_flat_keys(given, warn=warnings.append))
    if isinstance(values.get(ADAPTERS), bool | str) and values[ADAPTERS] in _SWITCH:
        values = {ADAPTERS: _SWITCH[values.pop(ADAPTERS)], **values}
    return values


def _fill_fields(given: LaunchChanges) -> dict[str, Any]:
    """Build the form fields outside the recipe from the given values."""
    optional = {name: getattr(given, name) for name in ("seed", "until", "is_private")}
    return {
        "name": given.name,
        **_get_model_fields(given.model),
        **_store_prompt_fields(given.prompts),
        "skip_bad_rows": given.skip_bad_rows,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _get_model_fields(model: SeedModel | None) -> dict[str, str]:
    if model is None:
        return {}
    if model.source == "folder":
        return {"model_from": forms.MODEL_FOLDER, "model_folder": model.name}
    return {"model_from": forms.MODEL_HUB, "model_hub": model.name}


def _store_prompt_fields(prompts: list[str] | None) -> dict[str, str]:
    """Store prompts as JSON Lines, which allows line breaks in prompts.

    Raises:
        PromptFileError: no prompt is usable.
    """
    if prompts is None:
        return {}
    lines = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    stored = store_prompts([lines.encode()], called=_CALLED)
    return {
        "prompts_from": forms.PROMPTS_FILE,
        "prompts_stored": stored.name,
        "prompts_called": _CALLED,
    }


def _list_problems(state: LaunchFormState) -> list[str]:
    return [
        *(
            f"{_FIELDS.get(field, field.removeprefix(PREFIX))}: {text}"
            for field, text in state.errors.items()
        ),
        *state.problems,
        *(f"{label} is missing" for label in state.missing),
    ]
