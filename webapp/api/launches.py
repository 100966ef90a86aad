"""Ask for an experiment: a request becomes a filled-in form, which the pages' own rules check."""

import json
from typing import Any, Final

from django.contrib.auth.models import User
from django.http import HttpRequest, QueryDict
from django.utils.datastructures import MultiValueDict

from meta_reward_core.errors import InputError
from webapp.api.schemas import LaunchChanges, SeedModel
from webapp.experiments.models import Order, OrderKind
from webapp.experiments.orders import place_order
from webapp.launching import forms
from webapp.launching.fields import recipe_fields, write_value
from webapp.launching.sheets import PREFIX, Base, Sheet, first_sheet, submitted_sheet, wish_of
from webapp.launching.uploads import store_prompts

_CALLED: Final = "the prompts"


def place_launch(request: HttpRequest, base: Base, given: LaunchChanges, *, by: User) -> Order:
    """Ask for an experiment.

    Raises:
        InputError: something that was asked for is wrong, one line for each.
    """
    unknown = sorted(given.values.keys() - recipe_fields().keys())
    if unknown:
        raise InputError(f"there are no recipe values of these names: {', '.join(unknown)}")
    first = first_sheet(request, base)
    form = HttpRequest()
    form.method, form.user = "POST", request.user
    form.POST = _fields(first, given)  # type: ignore[assignment]
    form.FILES = MultiValueDict()
    sheet = submitted_sheet(form, base, is_final=True)
    if not sheet.is_ready:
        raise InputError("\n".join(_problems(sheet)))
    wish = wish_of(sheet)
    return place_order(OrderKind.LAUNCH, by=by, subject=wish.name, wish=wish.write())


def _fields(first: Sheet, given: LaunchChanges) -> QueryDict:
    """Fill in the form: what it shows at first, and over it what was given."""
    fields: dict[str, Any] = {
        **first.form.data,
        "name": given.name,
        **_model(given.model),
        **_prompts(given.prompts),
        **{f"{PREFIX}{key}": write_value(value) for key, value in given.values.items()},
    }
    for name in ("seed", "until", "is_private"):
        if (value := getattr(given, name)) is not None:
            fields[name] = value
    filled = QueryDict(mutable=True)
    filled.update({name: value for name, value in fields.items() if value is not False})
    return filled


def _model(model: SeedModel | None) -> dict[str, str]:
    if model is None:
        return {}
    if model.source == "folder":
        return {"model_from": forms.MODEL_FOLDER, "model_folder": model.name}
    return {"model_from": forms.MODEL_HUB, "model_hub": model.name}


def _prompts(prompts: list[str] | None) -> dict[str, str]:
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


def _problems(sheet: Sheet) -> list[str]:
    return [
        *(f"{field.removeprefix(PREFIX)}: {text}" for field, text in sheet.errors.items()),
        *sheet.problems,
        *(f"{label} is missing" for label in sheet.missing),
    ]
