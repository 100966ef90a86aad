"""Experiment requests: a request fills in the form, and the site's rules check it."""

import json
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.models import User
from django.http import HttpRequest, QueryDict
from django.utils.datastructures import MultiValueDict

from meta_reward_core.errors import InputError
from meta_reward_core.models.hf_hub import parse_hub_name
from meta_reward_core.planning.experiment_request import DEFAULT_RECIPE
from meta_reward_core.recipes.renamed_keys import translate_flat_keys
from webapp.api.schemas import LaunchChanges, ModelCheckIn, SeedModel
from webapp.experiment_form import forms
from webapp.experiment_form.form_state import (
    PREFIX,
    FormBase,
    LaunchFormState,
    build_launch_request,
    make_initial_state,
    make_submitted_state,
)
from webapp.experiment_form.launch_request import load_base_recipe
from webapp.experiment_form.model_check import CheckRequest, is_model_folder, request_check
from webapp.experiment_form.recipe_draft import draft_recipe, require_launchable, to_texts
from webapp.experiment_form.recipe_fields import get_recipe_fields, write_value
from webapp.experiment_form.uploads import store_prompts
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Job, JobKind

_CALLED: Final = "the prompts"


def submit_launch(
    request: HttpRequest, base: FormBase, given: LaunchChanges, *, by: User
) -> tuple[Job, list[str]]:
    """Request an experiment.

    Returns:
        The job, and what is deprecated in the request.

    Raises:
        InputError: something that was asked for is wrong, one line for each.
    """
    warnings = list(base.warnings)
    values = _translate_values(given.values, warnings)
    first = make_initial_state(request, base)
    form = HttpRequest()
    form.method, form.user = "POST", request.user
    form.POST = _fill_fields(first, given, values)  # type: ignore[assignment]
    form.FILES = MultiValueDict()
    state = make_submitted_state(form, base, is_final=True)
    if not state.is_ready:
        raise InputError("\n".join(_list_problems(state)))
    launch_request = build_launch_request(state)
    job = enqueue_job(
        JobKind.LAUNCH, by=by, experiment_name=launch_request.name, payload=launch_request.write()
    )
    return job, warnings


def submit_model_check(given: ModelCheckIn, *, by: User | None) -> tuple[Job, list[str]]:
    """Request the check of a model.

    Returns:
        The job, and what is deprecated in the request.

    Raises:
        InputError: the recipe, a value, the prompts or the model's name cannot be used.
    """
    warnings: list[str] = []
    values = _translate_values(given.values, warnings)
    name = given.recipe or ("" if given.recipe_text else DEFAULT_RECIPE)
    base = load_base_recipe(name, given.recipe_text, warn=warnings.append)
    texts = to_texts(base) | {key: write_value(value) for key, value in values.items()}
    draft = draft_recipe(base, texts, model=given.model.name)
    if draft.recipe is None:
        errors = [f"{key}: {text}" for key, text in draft.errors.items()]
        raise InputError("\n".join([*errors, *draft.problems]))
    require_launchable(draft.recipe)
    if given.model.source == "hub" and parse_hub_name(given.model.name) is None:
        raise InputError("model: use an id such as org/name or org/name@revision")
    if given.model.source == "folder" and not is_model_folder(given.model.name):
        raise InputError(f"model: there is no folder {given.model.name!r} of this installation")
    stored = _store_prompt_fields(given.prompts).get("prompts_stored", "")
    request = CheckRequest.build(given.model.name, draft.recipe, prompts=stored)
    return request_check(request, by=by), warnings


def _translate_values(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Values under the keys of today; what is deprecated is added to `warnings`.

    Raises:
        InputError: a key is unknown.
    """
    values = dict(translate_flat_keys(given, warn=warnings.append))
    unknown = sorted(values.keys() - get_recipe_fields().keys())
    if unknown:
        raise InputError(f"there are no recipe values of these names: {', '.join(unknown)}")
    return values


def _fill_fields(
    first: LaunchFormState, given: LaunchChanges, values: Mapping[str, Any]
) -> QueryDict:
    """Fill in the form: what it shows at first, and over it what was given."""
    fields: dict[str, Any] = {
        **first.form.data,
        "name": given.name,
        **_get_model_fields(given.model),
        **_store_prompt_fields(given.prompts),
        **{f"{PREFIX}{key}": write_value(value) for key, value in values.items()},
    }
    fields["skip_bad_rows"] = given.skip_bad_rows
    for name in ("seed", "until", "is_private"):
        if (value := getattr(given, name)) is not None:
            fields[name] = value
    filled = QueryDict(mutable=True)
    filled.update({name: value for name, value in fields.items() if value is not False})
    return filled


def _get_model_fields(model: SeedModel | None) -> dict[str, str]:
    if model is None:
        return {}
    if model.source == "folder":
        return {"model_from": forms.MODEL_FOLDER, "model_folder": model.name}
    return {"model_from": forms.MODEL_HUB, "model_hub": model.name}


def _store_prompt_fields(prompts: list[str] | None) -> dict[str, str]:
    """Keep prompts as lines of JSON, so that line ends may stand in them.

    Raises:
        PromptFileError: none of them can be used.
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
        *(f"{field.removeprefix(PREFIX)}: {text}" for field, text in state.errors.items()),
        *state.problems,
        *(f"{label} is missing" for label in state.missing),
    ]
