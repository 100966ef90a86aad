"""The form of a launch as a whole: its base, what was filled in, what is wrong, what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.config import Recipe
from meta_reward_core.errors import ArtifactError, InputError, PromptFileError
from meta_reward_core.recipes import parse_recipe
from meta_reward_core.request import check_pool, world_pool_size
from meta_reward_core.shards import IterationFiles
from webapp.experiments.models import Experiment
from webapp.launching import forms
from webapp.launching.drafts import Difference, Draft, draft_recipe, texts_of
from webapp.launching.estimates import Estimate, estimate
from webapp.launching.fields import recipe_fields
from webapp.launching.forms import LaunchForm
from webapp.launching.model_choices import Models, list_models
from webapp.launching.uploads import (
    StoredPrompts,
    first_texts,
    look_at_prompts,
    store_prompts,
    stored_prompts,
    upload_limit_text,
    was_too_large,
)
from webapp.launching.wishes import LaunchWish, base_recipe, text_of_recipe
from webapp.people.access import find_experiment

PREFIX = "recipe."
"""Before the key of each recipe's field in the form."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a form begins with.

    Attributes:
        name: of a shipped recipe; empty for a text or an experiment.
        text: YAML that somebody sent.
        origin: the experiment that is duplicated.
    """

    recipe: Recipe
    name: str = ""
    text: str = ""
    origin: Experiment | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """The instructions that would be given.

    Attributes:
        found: what the file or the text holds; None where nothing was sent.
        count: of the pool; None as long as it is unknown.
        error: why it cannot be used.
        called: what the person calls the file.
    """

    found: StoredPrompts | None = None
    count: int | None = None
    error: str = ""
    called: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A form of a launch.

    Attributes:
        errors: by name of a form's field, or `recipe.` and the key of a recipe's.
        problems: what is wrong with no single field.
        missing: labels of what has not been filled in yet.
        estimate: None as long as something of the recipe is wrong.
    """

    base: Base
    form: LaunchForm
    draft: Draft
    models: Models
    prompts: Prompts
    errors: Mapping[str, str]
    problems: Sequence[str]
    missing: Sequence[str]
    settings: Sequence[Difference]
    estimate: Estimate | None

    @property
    def is_ready(self) -> bool:
        """Whether the experiment can be asked for."""
        return not (self.errors or self.problems or self.missing)


def find_base(request: HttpRequest, *, name: str, text: str, origin: str) -> Base:
    """Find what a form begins with.

    Raises:
        RecipeError: the recipe is wrong.
        Http404: this person cannot see the experiment that is to be duplicated.
    """
    if not origin:
        return Base(base_recipe(name, text), name=name, text=text)
    row = find_experiment(request.user, origin)
    return Base(parse_recipe(row.recipe, origin=row.name), origin=row)


def first_sheet(request: HttpRequest, base: Base) -> Sheet:
    """The form before anybody filled it in."""
    initial: dict[str, Any] = {"until": base.recipe.iterations}
    if base.origin is not None:
        initial |= {"seed": base.origin.seed, "is_private": base.origin.is_private}
        initial["until"] = base.origin.until or base.recipe.iterations
    return _unsubmitted(request, base, texts_of(base.recipe), initial)


def refilled_sheet(request: HttpRequest, base: Base, wish: LaunchWish) -> Sheet:
    """The form as it was when an order was placed from it."""
    recipe = wish.asked_recipe()
    initial = {
        "name": wish.name,
        "seed": wish.seed,
        "until": wish.until,
        "is_private": wish.is_private,
        "prompts_stored": wish.prompts,
        "prompts_called": wish.prompts_called,
        "prompts_from": _prompts_source(wish),
    }
    return _unsubmitted(request, base, texts_of(recipe), initial | _model_initial(base, recipe))


def submitted_sheet(request: HttpRequest, base: Base, *, is_final: bool) -> Sheet:
    """The form as it was sent.

    Args:
        is_final: whether it was sent for good. While it is being filled in, what is still empty
            is no error, and pasted prompts are not kept.
    """
    form = _form(base, list_models(), data=request.POST, files=request.FILES)
    form.is_valid()
    texts = {
        key: request.POST[PREFIX + key] for key in recipe_fields() if PREFIX + key in request.POST
    }
    return _sheet(request, base, form, texts, is_final=is_final)


def _prompts_source(wish: LaunchWish) -> str:
    if wish.prompts:
        return forms.PROMPTS_FILE
    return forms.PROMPTS_OF_ORIGIN if wish.same_prompts else forms.PROMPTS_OF_WORLD


def _model_initial(base: Base, recipe: Recipe) -> dict[str, str]:
    if recipe.model == base.recipe.model or recipe.model is None:
        return {}
    if any(recipe.model == one.name for one in list_models().choices):
        return {"model_from": forms.MODEL_FOLDER, "model_folder": recipe.model}
    return {"model_from": forms.MODEL_HUB, "model_hub": recipe.model}


def _unsubmitted(
    request: HttpRequest, base: Base, texts: Mapping[str, str], initial: Mapping[str, Any]
) -> Sheet:
    """A form is checked even before it is sent, as if what it shows had been filled in."""
    models = list_models()
    shown = _form(base, models, initial=dict(initial))
    data = {name: shown.get_initial_for_field(field, name) for name, field in shown.fields.items()}
    form = _form(base, models, data={key: value for key, value in data.items() if value})
    form.is_valid()
    return _sheet(request, base, form, texts, is_final=False)


def _form(base: Base, models: Models, **kwargs: Any) -> LaunchForm:
    return LaunchForm(
        models=models,
        has_world=base.recipe.world is not None,
        origin=base.origin.name if base.origin else "",
        recipe_model=base.recipe.model,
        **kwargs,
    )


def _sheet(
    request: HttpRequest, base: Base, form: LaunchForm, texts: Mapping[str, str], *, is_final: bool
) -> Sheet:
    draft = draft_recipe(base.recipe, texts, model=_model(form))
    recipe = draft.recipe or base.recipe
    prompts = _prompts(request, base, form, recipe, is_final=is_final)
    errors, missing = _errors(form, is_final=is_final)
    if not prompts.error and prompts.count is None:
        missing = [*missing, "prompts"]
    error = prompts.error or _pool_error(form, recipe, prompts)
    errors |= {"prompts_from": error} if error else {}
    errors |= {PREFIX + key: text for key, text in draft.errors.items()}
    return Sheet(
        base=base,
        form=form,
        draft=draft,
        models=form.models,
        prompts=prompts,
        errors=errors,
        problems=draft.problems,
        missing=missing,
        settings=_setting_differences(base, form),
        estimate=_estimate(request, form, draft),
    )


def _errors(form: LaunchForm, *, is_final: bool) -> tuple[dict[str, str], list[str]]:
    """What is wrong by field, and the labels of what is empty still."""
    errors: dict[str, str] = {}
    missing: list[str] = []
    for name, found in form.errors.get_json_data().items():
        if not is_final and all(one["code"] == "required" for one in found):
            label = str(form[name].label)
            missing.append(label[:1].lower() + label[1:])
        else:
            errors[name] = " ".join(one["message"] for one in found)
    return errors, missing


def _model(form: LaunchForm) -> str | None:
    given = form.cleaned_data
    source = given.get("model_from")
    if source == forms.MODEL_FOLDER:
        return given.get("model_folder") or None
    return (given.get("model_hub") or None) if source == forms.MODEL_HUB else None


def _prompts(
    request: HttpRequest, base: Base, form: LaunchForm, recipe: Recipe, *, is_final: bool
) -> Prompts:
    source = form.cleaned_data.get("prompts_from")
    try:
        if source == forms.PROMPTS_OF_WORLD:
            return _world_prompts(recipe)
        if source == forms.PROMPTS_OF_ORIGIN and base.origin is not None:
            return _origin_prompts(base.origin)
        if source == forms.PROMPTS_TEXT:
            return _pasted_prompts(form.cleaned_data.get("prompts_text", ""), is_final=is_final)
        return sent_prompts(request, form)
    except (PromptFileError, ArtifactError) as error:
        return Prompts(error=str(error))


def _world_prompts(recipe: Recipe) -> Prompts:
    if recipe.world is None:
        return Prompts(error="The recipe has no world now: give prompts of your own.")
    return Prompts(count=world_pool_size(recipe))


def _origin_prompts(origin: Experiment) -> Prompts:
    """The pool of the experiment that is duplicated."""
    files = IterationFiles(ArtifactStore(origin.artifact_root), f"{origin.name}/iteration-0")
    texts = files.read("prompts").column("text")
    if not len(texts):
        return Prompts(error=f"The files of {origin.name} are gone, its prompts with them.")
    first = first_texts(text.as_py() for text in texts)
    found = StoredPrompts("", "parquet", len(texts), 0, first, (), 0)
    return Prompts(found, len(texts), called=origin.name)


def _pasted_prompts(text: str, *, is_final: bool) -> Prompts:
    if not text.strip():
        return Prompts(error="Paste at least one prompt.") if is_final else Prompts()
    read = store_prompts if is_final else look_at_prompts
    found = read([text.encode(errors="replace")], called="the pasted text")
    return Prompts(found, found.count, called="pasted text")


def sent_prompts(request: HttpRequest, form: LaunchForm) -> Prompts:
    """Prompts of the file that comes with this request, or of one that came before.

    Raises:
        PromptFileError: it cannot be used.
    """
    if was_too_large(request):
        raise PromptFileError(f"The file is larger than {upload_limit_text()}.")
    file = request.FILES.get("prompts_file")
    if isinstance(file, UploadedFile):
        called = file.name or "the file"
        found = store_prompts(file.chunks(), called=called)
        return Prompts(found, found.count, called=called)
    stored = form.cleaned_data.get("prompts_stored", "")
    if not stored:
        return Prompts()
    found = stored_prompts(stored)
    return Prompts(found, found.count, called=form.cleaned_data.get("prompts_called", ""))


def _pool_error(form: LaunchForm, recipe: Recipe, prompts: Prompts) -> str:
    """Why there are too few prompts; empty if there are enough."""
    if prompts.count is None:
        return ""
    try:
        check_pool(recipe, prompts.count)
    except InputError:
        return (
            f"An iteration draws {recipe.sample.prompts:,} prompts, but there are only "
            f"{prompts.count:,}: give more, or lower sample.prompts."
        )
    until = form.cleaned_data.get("until") or 1
    wanted = recipe.sample.prompts * until
    if recipe.sample.allow_reuse or prompts.count >= wanted:
        return ""
    return (
        f"{until} iterations draw {wanted:,} different prompts, but there are only "
        f"{prompts.count:,}: give more, run fewer iterations, lower sample.prompts, or allow reuse "
        "(sample.allow_reuse)."
    )


def _setting_differences(base: Base, form: LaunchForm) -> list[Difference]:
    """What beside the recipe is not as in the experiment that is duplicated."""
    if base.origin is None:
        return []
    given = form.cleaned_data
    same = forms.PROMPTS_OF_ORIGIN
    pairs = [
        ("seed", str(base.origin.seed), str(given.get("seed", ""))),
        ("private", _yes(base.origin.is_private), _yes(given.get("is_private"))),
        ("prompts", same, same if given.get("prompts_from") == same else "others"),
    ]
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _estimate(request: HttpRequest, form: LaunchForm, draft: Draft) -> Estimate | None:
    until = form.cleaned_data.get("until")
    if draft.recipe is None or not until:
        return None
    return estimate(request.user, draft.recipe, until=until)


def wish_of(sheet: Sheet) -> LaunchWish:
    """What a sheet that is ready asks for."""
    given, base = sheet.form.cleaned_data, sheet.base
    has_file = given["prompts_from"] in {forms.PROMPTS_FILE, forms.PROMPTS_TEXT}
    found = sheet.prompts.found if has_file else None
    return LaunchWish(
        name=given["name"],
        seed=given["seed"],
        until=given["until"],
        is_private=given["is_private"],
        recipe=base.name,
        recipe_text=text_of_recipe(base.recipe) if base.origin else base.text,
        changes=sheet.draft.changes,
        origin=base.origin.name if base.origin else "",
        prompts=found.name if found else "",
        prompts_called=sheet.prompts.called if found else "",
        same_prompts=given["prompts_from"] == forms.PROMPTS_OF_ORIGIN,
    )
