"""The launch request as stored in a job, and the recipes that it can be based on.

The request itself is `meta_reward_core.planning.launch_request`.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import yaml
from pydantic import ValidationError

from meta_reward_core.errors import InputError, RecipeError
from meta_reward_core.planning.launch_request import (
    LaunchBase,
    LaunchRequest,
    LaunchSettings,
    PromptsReference,
    build_launch_request,
)
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.loader import (
    list_shipped_recipes,
    load_recipe,
    read_recipe_text,
)
from meta_reward_core.recipes.renamed_keys import Warn, ignore_renamed
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.recipe_draft import require_launchable
from webapp.experiment_form.recipe_fields import write_change

_CALLED: Final = "prompts_called"
_ORIGIN_UUID: Final = "origin_uuid"
_BESIDE: Final = (_CALLED, _ORIGIN_UUID)
"""Keys of a payload that are not part of the request."""


def write_payload(
    request: LaunchRequest, *, prompts_called: str = "", origin_uuid: str = ""
) -> dict[str, Any]:
    """Convert a request to the payload of a job.

    Args:
        prompts_called: name that the user gave the prompt file; not part of the request.
        origin_uuid: UUID of the duplicated experiment; its name may be reused before the job runs.
    """
    found = {**request.model_dump(mode="json"), _CALLED: prompts_called}
    return {**found, _ORIGIN_UUID: origin_uuid} if origin_uuid else found


def read_payload(payload: Mapping[str, Any]) -> LaunchRequest:
    """Read the request of a job, including those of earlier versions.

    Raises:
        InputError: the payload is invalid.
    """
    values = {name: value for name, value in payload.items() if name not in _BESIDE}
    if "until" in values:
        return _read_earlier(values)
    try:
        return LaunchRequest.model_validate(values)
    except ValidationError as error:
        raise InputError(f"the request cannot be read: {error}") from error


def write_deprecated_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a launch to the payload of the previous version, for programs."""
    if "experiment" not in payload:
        return dict(payload)
    prompts = payload.get("prompts")
    values: Mapping[str, Any] = payload.get("values", {})
    base = payload.get("recipe_values")
    return {
        **payload,
        "name": payload["experiment"],
        "until": payload.get("iterations"),
        "recipe_text": yaml.safe_dump(base, sort_keys=False, width=100) if base else "",
        "changes": [write_change(*change) for change in values.items()],
        "prompts": f"{prompts['sha256']}.{prompts['format']}" if prompts else "",
    }


def get_origin_uuid(payload: Mapping[str, Any]) -> str:
    """UUID of the duplicated experiment; empty in jobs from before it was recorded."""
    return str(payload.get(_ORIGIN_UUID, ""))


def get_prompts_name(payload: Mapping[str, Any]) -> str:
    """Return the name that the user gave the prompt file."""
    return str(payload.get(_CALLED, ""))


def build_requested_recipe(request: LaunchRequest) -> Recipe:
    """Build the recipe of a remote request.

    Raises:
        InputError: a value cannot be used, or refers to a file on this machine.
    """
    recipe = request.build_recipe()
    require_launchable(recipe)
    return recipe


def _read_earlier(values: Mapping[str, Any]) -> LaunchRequest:
    """Read a payload from before the launch request: `key=value` texts and a base in YAML."""
    name = str(values.get("recipe", ""))
    base = load_base_recipe(name, str(values.get("recipe_text", "")), warn=ignore_renamed)
    recipe = change_recipe(base, parse_changes(values.get("changes", ()), warn=ignore_renamed))
    stored = str(values.get("prompts", ""))
    settings = LaunchSettings(
        experiment=values["name"],
        seed=values["seed"],
        iterations=values["until"],
        is_private=bool(values.get("is_private")),
        prompts=PromptsReference.parse(stored) if stored else None,
        same_prompts=bool(values.get("same_prompts")),
        skip_bad_rows=bool(values.get("skip_bad_rows")),
    )
    origin = str(values.get("origin", ""))
    return build_launch_request(LaunchBase(base, name, origin), recipe, settings)


def load_base_recipe(name: str, text: str, *, warn: Warn) -> Recipe:
    """Load a built-in recipe by name, or a recipe from a user's text.

    Args:
        warn: called for each deprecated key of the text.

    Raises:
        RecipeError: it is missing or wrong.
    """
    if not name:
        return read_recipe_text(text, warn=warn)
    if name not in list_shipped_recipes():
        known = ", ".join(list_shipped_recipes())
        raise RecipeError(f"{name!r} is not a built-in recipe; use one of: {known}")
    return load_shipped_recipe(name)


@cache
def load_shipped_recipe(name: str) -> Recipe:
    """Load a built-in recipe, once per process."""
    return load_recipe(name)


def dump_recipe(recipe: Recipe) -> str:
    """Convert a recipe to a text that `load_base_recipe` reads."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)
    return text
