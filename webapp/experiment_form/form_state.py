"""State of the launch form: its base, input, errors and cost estimate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, QueryDict

from meta_reward_core.errors import ArtifactError, InputError, PromptFileError, TaskError
from meta_reward_core.planning.experiment_request import compute_task_pool_size
from meta_reward_core.planning.launch_request import (
    LaunchBase,
    LaunchRequest,
    LaunchSettings,
    PromptsReference,
    build_launch_request,
    find_pool_error,
)
from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.recipes.loader import parse_recipe
from meta_reward_core.recipes.renamed_keys import (
    drop_removed_keys,
    ignore_renamed,
    is_renamed,
    translate_flat_keys,
)
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.tasks.protocol import Task
from meta_reward_core.tasks.registry import find_task
from webapp.accounts.permissions import AnyUser, get_viewable_experiment
from webapp.experiment_form import forms
from webapp.experiment_form.cost import CostEstimate, estimate_cost
from webapp.experiment_form.engine_offer import EngineOffer
from webapp.experiment_form.forms import LaunchForm
from webapp.experiment_form.launch_request import (
    build_requested_recipe,
    load_base_recipe,
    write_payload,
)
from webapp.experiment_form.model_check import (
    ModelCheckState,
    explain_unusable,
    load_check_state,
)
from webapp.experiment_form.model_choices import ModelChoices, list_models
from webapp.experiment_form.recipe_draft import (
    RecipeDraft,
    ValueDifference,
    draft_recipe,
    draft_values,
    to_texts,
)
from webapp.experiment_form.recipe_fields import get_recipe_fields, write_value
from webapp.experiment_form.uploads import (
    StoredPrompts,
    format_upload_limit,
    inspect_prompts,
    is_too_large,
    list_first_texts,
    read_stored_prompts,
    store_prompts,
)
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment

_EXAMPLES = 2
PREFIX = "recipe."
"""Prefix of the form names of recipe fields."""

_KEPT = (
    "name",
    "seed",
    "is_private",
    "model_folder",
    "model_hub",
    "prompts_text",
    "prompts_stored",
    "prompts_called",
    "skip_bad_rows",
)
_OWN_MODELS = (forms.MODEL_FOLDER, forms.MODEL_HUB)
_OWN_PROMPTS = (forms.PROMPTS_FILE, forms.PROMPTS_TEXT)


@dataclass(frozen=True, slots=True)
class FormBase:
    """The initial content of a form.

    Attributes:
        name: name of a built-in recipe; empty for a text or an experiment.
        text: YAML that the user sent.
        origin: the experiment that is duplicated.
        warnings: deprecated keys of the text, and what to use instead.
    """

    recipe: Recipe
    name: str = ""
    text: str = ""
    origin: Experiment | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptsState:
    """The prompts that would be used.

    Attributes:
        found: content of the file or text; None if nothing was sent.
        count: size of the pool; None while it is unknown.
        error: why the prompts cannot be used.
        called: name that the user gave the file.
    """

    found: StoredPrompts | None = None
    count: int | None = None
    error: str = ""
    called: str = ""


@dataclass(frozen=True, slots=True)
class SentFile:
    """A prompt file uploaded with a form.

    Attributes:
        is_too_large: whether it was discarded during the upload.
    """

    file: "UploadedFile[bytes] | None" = None
    is_too_large: bool = False


@dataclass(frozen=True, slots=True)
class LaunchFormState:
    """A form of a launch.

    Attributes:
        errors: errors by name of a form field, or by `recipe.` and the key of a recipe field.
        problems: errors that do not belong to a single field.
        missing: labels of required fields that are empty.
        estimate: None while the recipe has errors.
        model_check: what is known about the chosen model.
        engines: kinds of engines that running workers offer.
    """

    base: FormBase
    form: LaunchForm
    draft: RecipeDraft
    models: ModelChoices
    prompts: PromptsState
    errors: Mapping[str, str]
    problems: Sequence[str]
    missing: Sequence[str]
    settings: Sequence[ValueDifference]
    estimate: CostEstimate | None
    model_check: ModelCheckState
    engines: EngineOffer

    @property
    def is_ready(self) -> bool:
        """Whether the experiment can be requested."""
        return not (self.errors or self.problems or self.missing)

    @property
    def engine_note(self) -> str:
        """Return why a requested experiment would wait; empty if a worker can start it."""
        recipe = self.draft.recipe
        return "" if recipe is None else self.engines.describe_wait(recipe.engine.kind)


def find_base(
    user: AnyUser, *, name: str, text: str, origin: str, origin_uuid: str = ""
) -> FormBase:
    """Find the initial content of a form.

    Args:
        origin: name of the experiment that is duplicated; empty for none.
        origin_uuid: UUID of the experiment that was shown; empty for the current one of this name.

    Raises:
        RecipeError: the recipe is wrong.
        Http404: this user cannot see the experiment to duplicate.
    """
    if not origin:
        warnings: list[str] = []
        recipe = load_base_recipe(name, text, warn=warnings.append)
        return FormBase(recipe, name=name, text=text, warnings=tuple(warnings))
    row = get_viewable_experiment(user, origin)
    if origin_uuid not in {"", str(row.uuid)}:
        raise Http404  # deleted, and the name is now used by another experiment
    values = drop_removed_keys(restore_names(row.recipe), warn=ignore_renamed)
    return FormBase(parse_recipe(values, origin=row.name), origin=row)


def write_recipe_query(values: Mapping[str, Any]) -> str:
    """Write recipe values by key as the query string of a form's address."""
    return urlencode({PREFIX + key: write_value(value) for key, value in values.items()})


def make_initial_state(
    user: AnyUser,
    base: FormBase,
    *,
    kept: Mapping[str, Any] | None = None,
    given: QueryDict | None = None,
) -> LaunchFormState:
    """Build the form before the user fills it in.

    Args:
        kept: fields outside the recipe, filled in before the user chose another recipe.
        given: the address's query, which may have values of the recipe; see `write_recipe_query`.
    """
    initial: dict[str, Any] = {"until": base.recipe.iterations, **(kept or {})}
    if base.origin is not None:
        initial |= {"seed": base.origin.seed, "is_private": base.origin.is_private}
        initial["until"] = base.origin.target_iteration or base.recipe.iterations
    texts = to_texts(base.recipe) | ({} if given is None else _read_texts(given))
    return _make_unsubmitted_state(user, base, texts, initial)


def read_kept_fields(sent: QueryDict) -> dict[str, Any]:
    """Read the fields to keep when another recipe is chosen: those that do not depend on it."""
    kept = {name: sent[name] for name in _KEPT if sent.get(name)}
    for name, own in (("model_from", _OWN_MODELS), ("prompts_from", _OWN_PROMPTS)):
        if sent.get(name) in own:
            kept[name] = sent[name]
    return kept


def make_refilled_state(
    user: AnyUser, base: FormBase, launch_request: LaunchRequest, *, prompts_called: str
) -> LaunchFormState:
    """Fill the form with the values of an earlier request."""
    recipe = build_requested_recipe(launch_request)
    initial = {
        "name": launch_request.experiment,
        "seed": launch_request.seed,
        "until": launch_request.iterations,
        "is_private": launch_request.is_private,
        "prompts_stored": launch_request.prompts.stored_name if launch_request.prompts else "",
        "prompts_called": prompts_called,
        "prompts_from": _choose_prompts_source(launch_request),
    }
    return _make_unsubmitted_state(
        user, base, to_texts(recipe), initial | _make_model_initial(base, recipe)
    )


def make_submitted_state(
    request: HttpRequest, base: FormBase, *, is_final: bool
) -> LaunchFormState:
    """Build the form from submitted values.

    Args:
        is_final: whether the form was submitted. While it is being filled in, empty fields are not
            errors, and pasted prompts are not kept.
    """
    form = _make_form(base, list_models(), data=request.POST, files=request.FILES)
    form.is_valid()
    draft = draft_recipe(base.recipe, _read_texts(request.POST), model=_get_model(form))
    return _make_state(request.user, base, form, draft, _get_sent_file(request), is_final=is_final)


def make_requested_state(
    user: AnyUser, base: FormBase, fields: Mapping[str, Any], values: Mapping[str, Any]
) -> LaunchFormState:
    """Build the state of a request with typed values, checked like a submitted form.

    Args:
        fields: fields of `LaunchForm`; they override the base.
        values: recipe values by current keys.
    """
    first = make_initial_state(user, base).form.data
    form = _make_form(base, list_models(), data={**first, **fields})
    form.is_valid()
    draft = draft_values(base.recipe, values, model=_get_model(form))
    return _make_state(user, base, form, draft, SentFile(), is_final=True)


def _get_sent_file(request: HttpRequest) -> SentFile:
    file = request.FILES.get("prompts_file")
    return SentFile(file if isinstance(file, UploadedFile) else None, is_too_large(request))


def _read_texts(sent: QueryDict) -> dict[str, str]:
    """Read the fields of the recipe; a page opened before an upgrade sends old keys."""
    texts = {name.removeprefix(PREFIX): str(sent[name]) for name in sent if name.startswith(PREFIX)}
    old = {key: text for key, text in texts.items() if is_renamed(key)}
    renamed = translate_flat_keys(old, warn=ignore_renamed)
    return {key: write_value(value) for key, value in renamed.items()} | {
        key: text for key, text in texts.items() if key in get_recipe_fields()
    }


def _choose_prompts_source(launch_request: LaunchRequest) -> str:
    if launch_request.prompts:
        return forms.PROMPTS_FILE
    return forms.PROMPTS_OF_ORIGIN if launch_request.same_prompts else forms.PROMPTS_OF_TASK


def _make_model_initial(base: FormBase, recipe: Recipe) -> dict[str, str]:
    if recipe.model == base.recipe.model or recipe.model is None:
        return {}
    if any(recipe.model == one.name for one in list_models().choices):
        return {"model_from": forms.MODEL_FOLDER, "model_folder": recipe.model}
    return {"model_from": forms.MODEL_HUB, "model_hub": recipe.model}


def _make_unsubmitted_state(
    user: AnyUser, base: FormBase, texts: Mapping[str, str], initial: Mapping[str, Any]
) -> LaunchFormState:
    """Build the state of an unsent form, checked as if its initial values were submitted."""
    models = list_models()
    shown = _make_form(base, models, initial=dict(initial))
    data = {name: shown.get_initial_for_field(field, name) for name, field in shown.fields.items()}
    form = _make_form(base, models, data={key: value for key, value in data.items() if value})
    form.is_valid()
    draft = draft_recipe(base.recipe, texts, model=_get_model(form))
    return _make_state(user, base, form, draft, SentFile(), is_final=False)


def _make_form(base: FormBase, models: ModelChoices, **kwargs: Any) -> LaunchForm:
    task = _find_installed_task(base.recipe)
    return LaunchForm(
        models=models,
        has_task_model=task is not None and task.base_model is not None,
        has_task_prompts=task is not None and task.prompts is not None,
        task_title=task.title if task is not None else "",
        origin=base.origin.name if base.origin else "",
        recipe_model=base.recipe.model,
        **kwargs,
    )


def _find_installed_task(recipe: Recipe) -> Task | None:
    """Return the task of a recipe; None if it has none or it is not installed (a field error)."""
    try:
        return find_task(recipe.task)
    except TaskError:
        return None


def _make_state(
    user: AnyUser,
    base: FormBase,
    form: LaunchForm,
    draft: RecipeDraft,
    file: SentFile,
    *,
    is_final: bool,
) -> LaunchFormState:
    recipe = draft.recipe or base.recipe
    prompts = _require_good_rows(
        _read_prompts_state(file, base, form, recipe, is_final=is_final),
        skip=bool(form.cleaned_data.get("skip_bad_rows")),
    )
    errors, missing = _collect_errors(form, is_final=is_final)
    if not prompts.error and prompts.count is None:
        missing = [*missing, "prompts"]
    error = prompts.error or (_find_pool_error(form, recipe, prompts) if draft.recipe else "")
    errors |= {"prompts_from": error} if error else {}
    errors |= {PREFIX + key: text for key, text in draft.errors.items()}
    engines = EngineOffer.read()
    if draft.recipe is not None and (refusal := engines.find_error(draft.recipe.engine.kind)):
        errors[f"{PREFIX}engine.kind"] = refusal
    checked = load_check_state(draft.recipe, prompts=get_stored_name(form, prompts), by=user)
    if found := _find_model_errors(form, checked):
        errors = {key: text for key, text in errors.items() if key != "model_from"} | found
    return LaunchFormState(
        base=base,
        form=form,
        draft=draft,
        models=form.models,
        prompts=prompts,
        errors=errors,
        problems=draft.problems,
        missing=missing,
        settings=_list_setting_differences(base, form),
        estimate=_estimate_cost(user, form, draft),
        model_check=checked,
        engines=engines,
    )


def _find_model_errors(form: LaunchForm, checked: ModelCheckState) -> dict[str, str]:
    """Find errors of the chosen model, by the field that chose it."""
    chosen = form.data.get("model_folder", "")
    reason = explain_unusable(chosen, form.models)
    is_folder = form.data.get("model_from") == forms.MODEL_FOLDER
    if is_folder and reason:
        return {"model_folder": reason}
    if not checked.problems:
        return {}
    return {"model_folder" if is_folder else "model_from": " ".join(checked.problems)}


def get_stored_name(form: LaunchForm, prompts: PromptsState) -> str:
    """Name of the stored file of prompts; empty for prompts that are already in place."""
    has_file = form.cleaned_data.get("prompts_from") in {forms.PROMPTS_FILE, forms.PROMPTS_TEXT}
    return prompts.found.name if has_file and prompts.found is not None else ""


def _collect_errors(form: LaunchForm, *, is_final: bool) -> tuple[dict[str, str], list[str]]:
    """Collect the errors by field, and the labels of empty required fields."""
    errors: dict[str, str] = {}
    missing: list[str] = []
    for name, found in form.errors.get_json_data().items():
        if not is_final and all(one["code"] == "required" for one in found):
            label = str(form[name].label)
            missing.append(label[:1].lower() + label[1:])
        else:
            errors[name] = " ".join(one["message"] for one in found)
    return errors, missing


def _get_model(form: LaunchForm) -> str | None:
    given = form.cleaned_data
    source = given.get("model_from")
    if source == forms.MODEL_FOLDER:
        return given.get("model_folder") or None
    return (given.get("model_hub") or None) if source == forms.MODEL_HUB else None


def _read_prompts_state(
    file: SentFile, base: FormBase, form: LaunchForm, recipe: Recipe, *, is_final: bool
) -> PromptsState:
    source = form.cleaned_data.get("prompts_from")
    try:
        if source == forms.PROMPTS_OF_TASK:
            return _make_task_prompts(recipe)
        if source == forms.PROMPTS_OF_ORIGIN and base.origin is not None:
            return _read_origin_prompts(base.origin)
        if source == forms.PROMPTS_TEXT:
            return _read_pasted_prompts(
                form.cleaned_data.get("prompts_text", ""), is_final=is_final
            )
        return _read_sent_prompts(file, form)
    except (InputError, ArtifactError) as error:
        return PromptsState(error=str(error))


def _require_good_rows(state: PromptsState, *, skip: bool) -> PromptsState:
    """Add an error if rows cannot be used and the user did not choose to skip them."""
    if state.error or state.found is None or not state.found.rejected_count or skip:
        return state
    count = state.found.rejected_count
    rows = "1 row cannot be used as a prompt" if count == 1 else f"{count:,} rows cannot be used"
    return replace(
        state, error=f"{rows}. Correct the file and upload it again, or skip these rows."
    )


def list_task_examples(recipe: Recipe) -> list[str]:
    """List the first prompts of a recipe's task; empty if it has none."""
    task = _find_installed_task(recipe)
    source = task.prompts if task is not None else None
    return [] if source is None else list(source.sample(min(_EXAMPLES, source.size)))


def _make_task_prompts(recipe: Recipe) -> PromptsState:
    return PromptsState(count=compute_task_pool_size(recipe))


def _read_origin_prompts(origin: Experiment) -> PromptsState:
    """Return the prompt pool of the duplicated experiment."""
    texts = open_experiment_files(origin).pool.read("prompts").column("text")
    if not len(texts):
        return PromptsState(
            error=f"The files of {origin.name}, including its prompts, no longer exist."
        )
    first = list_first_texts(text.as_py() for text in texts)
    found = StoredPrompts("", "parquet", len(texts), 0, first, (), 0)
    return PromptsState(found, len(texts), called=origin.name)


def _read_pasted_prompts(text: str, *, is_final: bool) -> PromptsState:
    if not text.strip():
        return PromptsState(error="Paste at least one prompt.") if is_final else PromptsState()
    read = store_prompts if is_final else inspect_prompts
    found = read([text.encode(errors="replace")], called="the pasted text")
    return PromptsState(found, found.count, called="pasted text")


def _read_sent_prompts(sent: SentFile, form: LaunchForm) -> PromptsState:
    """Read the prompts of the file sent with this request, or of one sent earlier.

    Raises:
        PromptFileError: the prompts cannot be used.
    """
    if sent.is_too_large:
        raise PromptFileError(f"The file is larger than {format_upload_limit()}.")
    if sent.file is not None:
        called = sent.file.name or "the file"
        found = store_prompts(sent.file.chunks(), called=called)
        return PromptsState(found, found.count, called=called)
    stored = form.cleaned_data.get("prompts_stored", "")
    if not stored:
        return PromptsState()
    found = read_stored_prompts(stored)
    return PromptsState(found, found.count, called=form.cleaned_data.get("prompts_called", ""))


def _find_pool_error(form: LaunchForm, recipe: Recipe, prompts: PromptsState) -> str:
    """Return why there are too few prompts; empty if there are enough."""
    if prompts.count is None:
        return ""
    target_iteration = form.cleaned_data.get("until") or 1
    return find_pool_error(recipe, count=prompts.count, iterations=target_iteration)


def _list_setting_differences(base: FormBase, form: LaunchForm) -> list[ValueDifference]:
    """List the settings outside the recipe that differ from the duplicated experiment."""
    if base.origin is None:
        return []
    given = form.cleaned_data
    same = forms.PROMPTS_OF_ORIGIN
    pairs = [
        ("seed", str(base.origin.seed), str(given.get("seed", ""))),
        (
            "private",
            _format_yes_no(base.origin.is_private),
            _format_yes_no(given.get("is_private")),
        ),
        ("prompts", same, same if given.get("prompts_from") == same else "others"),
    ]
    return [ValueDifference(*pair) for pair in pairs if pair[1] != pair[2]]


def _format_yes_no(value: object) -> str:
    return "yes" if value else "no"


def _estimate_cost(user: AnyUser, form: LaunchForm, draft: RecipeDraft) -> CostEstimate | None:
    target_iteration = form.cleaned_data.get("until")
    if draft.recipe is None or not target_iteration:
        return None
    return estimate_cost(user, draft.recipe, target_iteration=target_iteration)


def write_launch_payload(state: LaunchFormState) -> dict[str, Any]:
    """Convert a state that is ready to the payload of a job."""
    given, base = state.form.cleaned_data, state.base
    recipe = state.draft.recipe
    if recipe is None:
        raise InputError("\n".join(state.problems))
    stored = get_stored_name(state.form, state.prompts)
    request = build_launch_request(
        LaunchBase(base.recipe, base.name, base.origin.name if base.origin else ""),
        recipe,
        LaunchSettings(
            experiment=given["name"],
            seed=given["seed"],
            iterations=given["until"],
            is_private=given["is_private"],
            prompts=PromptsReference.parse(stored) if stored else None,
            same_prompts=given["prompts_from"] == forms.PROMPTS_OF_ORIGIN,
            skip_bad_rows=bool(given["skip_bad_rows"]),
        ),
    )
    return write_payload(
        request,
        prompts_called=state.prompts.called if stored else "",
        origin_uuid=str(base.origin.uuid) if base.origin else "",
    )
