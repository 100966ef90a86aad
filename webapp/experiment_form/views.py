"""Pages that start experiments: the form, its checks while it is filled in, and the job."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from meta_reward_core.errors import ArtifactError, InputError, RecipeError
from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.planning.settings_change import SettingsRequest
from meta_reward_core.recipes.loader import list_shipped_recipes
from meta_reward_core.recipes.schema import Recipe
from webapp.accounts.permissions import (
    get_controllable_experiment,
    get_requested_job,
    get_user,
    get_viewable_experiment,
    get_visible_experiments,
    require_run,
    require_view,
)
from webapp.experiment_form.change_settings import APPLY_CHOICES, read_form, request_change
from webapp.experiment_form.fork import ForkRequest, read_fork_form, write_fork_request
from webapp.experiment_form.form_state import (
    FormBase,
    LaunchFormState,
    find_base,
    get_stored_name,
    list_task_examples,
    make_initial_state,
    make_refilled_state,
    make_submitted_state,
    read_kept_fields,
    write_launch_payload,
)
from webapp.experiment_form.launch_request import (
    dump_recipe,
    get_origin_uuid,
    get_prompts_name,
    load_shipped_recipe,
    read_payload,
)
from webapp.experiment_form.model_check import CheckRequest, ModelCheckState, request_check
from webapp.experiment_form.model_choices import describe_base_model
from webapp.experiment_form.presenter import (
    build_cli_command,
    build_sections,
    list_key_values,
    list_notes,
    list_problems,
)
from webapp.experiment_form.recipe_fields import write_change
from webapp.experiment_form.uploads import format_upload_limit
from webapp.experiments.actions import can_request, has_pending
from webapp.experiments.jobs import PENDING, enqueue_job
from webapp.experiments.models import Job, JobKind, JobStatus
from webapp.experiments.progress import get_latest_iteration
from webapp.htmx import is_partial_request, render_page_or_partial, vary_on_htmx

_RECIPE_FILE_BYTES: Final = 65_536
_PAPER_MODELS: Final = ("llama3-8b", "llama3-8b-neutral")
_WAITS_LONG: Final = timedelta(seconds=20)
_MAX_ID_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class RecipeGroup:
    """Built-in recipes for one purpose; with `brings_all`, they include a model and prompts."""

    title: str
    recipes: Sequence[Recipe]
    brings_all: bool = False


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def create_experiment(request: HttpRequest) -> HttpResponse:
    """Choose a recipe, fill in the form, check it, and request the experiment."""
    try:
        if request.method != "POST":
            return _render_first_form(request)
        given = request.POST
        base = find_base(
            request.user,
            name=given.get("base_recipe", ""),
            text=_read_sent_text(request),
            origin=given.get("origin", ""),
            origin_uuid=given.get("origin_uuid", ""),
        )
    except RecipeError as error:
        return _choose_recipe(request, problem=str(error))
    shown = given.get("shown_recipe")
    if shown is None and given.get("action") == "begin":
        return _render_form(request, make_initial_state(request.user, base))
    if shown is not None and shown != given.get("base_recipe"):
        kept = read_kept_fields(given)
        return _render_form(request, make_initial_state(request.user, base, kept=kept))
    return _check_or_submit(request, base)


@require_safe
@require_run
def duplicate_experiment(request: HttpRequest, name: str) -> HttpResponse:
    """Fill in the form with the initial settings of another experiment."""
    try:
        base = find_base(request.user, name="", text="", origin=name)
    except RecipeError as error:
        return _choose_recipe(request, problem=f"{name} cannot be duplicated: {error}")
    return _render_form(request, make_initial_state(request.user, base, given=request.GET))


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def edit_settings(request: HttpRequest, name: str) -> HttpResponse:
    """Change the settings of an experiment after a preview; the query can fill in values."""
    row = get_controllable_experiment(request.user, name)
    state = read_form(row, request.POST if request.method == "POST" else request.GET)
    latest = get_latest_iteration(row)
    can_resume = latest is not None and can_request(latest, JobKind.RESUME)
    if request.POST.get("action") in {"apply", "retry"} and state.preview.plan is not None:
        if has_pending(row, JobKind.SETTINGS):
            messages.error(request, "Another change of the settings is already pending.")
            return redirect("experiment", name)
        apply = APPLY_CHOICES.get(request.POST.get("apply", ""))
        try:
            wanted = SettingsRequest(values=dict(state.values), apply=apply)
            request_change(row, wanted, by=get_user(request))
        except (InputError, ArtifactError) as error:
            state = replace(state, preview=replace(state.preview, problem=str(error)))
        else:
            messages.success(request, "Change of settings requested.")
            if request.POST["action"] == "retry" and can_resume:
                enqueue_job(JobKind.RESUME, by=get_user(request), experiment=row)
            return redirect("experiment", name)
    context = {"experiment": row, "state": state, "can_resume": can_resume}
    return render(request, "experiment_form/settings.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def fork_experiment(request: HttpRequest, name: str) -> HttpResponse:
    """Choose what a fork of an experiment keeps, change values, and request it."""
    row = get_viewable_experiment(request.user, name)
    is_sent = request.method == "POST"
    state = read_fork_form(row, request.POST if is_sent else request.GET, is_sent=is_sent)
    if is_sent and request.POST.get("action") == "fork" and state.is_ready:
        wanted = write_fork_request(row, state)
        payload = wanted.model_dump(mode="json")
        job = enqueue_job(
            JobKind.FORK,
            by=get_user(request),
            experiment_name=wanted.experiment,
            payload=payload,
        )
        return redirect("job", pk=job.pk)
    return render(request, "experiment_form/fork.html", {"experiment": row, "state": state})


@require_POST
@require_run
def preview_prompts(request: HttpRequest) -> HttpResponse:
    """Accept uploaded prompts and show a summary of them."""
    try:
        base = find_base(
            request.user,
            name=request.POST.get("base_recipe", ""),
            text=request.POST.get("base_text", ""),
            origin=request.POST.get("origin", ""),
            origin_uuid=request.POST.get("origin_uuid", ""),
        )
    except RecipeError as error:
        return _choose_recipe(request, problem=str(error))
    state = make_submitted_state(request, base, is_final=False)
    response = _render_form(request, state, region="experiment_form/_prompts.html")
    if is_partial_request(request):
        response.headers["HX-Trigger-After-Swap"] = "prompts-ready"
    return response


@require_safe
@require_view
def show_launch(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the status of a launch; once it is done, the experiment."""
    row = get_requested_job(request.user, pk, JobKind.LAUNCH, JobKind.FORK)
    if row.status == JobStatus.DONE and row.experiment is not None:
        page = reverse("experiment", args=[row.experiment.name])
        response = (
            HttpResponseClientRedirect(page) if is_partial_request(request) else redirect(page)
        )
        return vary_on_htmx(response)
    launch_request = _read_request(row)
    context = {
        "fork_request": _read_fork_request(row),
        "job": row,
        "launch_request": launch_request,
        "changes": _list_changes(launch_request),
        "prompts_called": get_prompts_name(row.payload),
        "said": row.outcome.get("said", []),
        "is_active": row.status in PENDING,
        "waits_long": row.status == JobStatus.WAITING
        and timezone.now() - row.created > _WAITS_LONG,
    }
    return render_page_or_partial(
        request,
        "experiment_form/job.html",
        region="experiment_form/_job.html",
        context=context,
    )


def _list_changes(request: LaunchRequest | None) -> list[str]:
    return [write_change(*change) for change in request.values.items()] if request else []


def _read_fork_request(job: Job) -> ForkRequest | None:
    return ForkRequest.read(job.payload) if job.kind == JobKind.FORK else None


def _read_request(job: Job) -> LaunchRequest | None:
    """Read the request of a launch; None if it is in an old format that is no longer supported."""
    if job.kind != JobKind.LAUNCH:
        return None
    try:
        return read_payload(job.payload)
    except InputError:
        return None


@require_safe
@require_run
def show_model_check(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the results of a model check; the page polls until it is done."""
    job = get_requested_job(request.user, pk, JobKind.CHECK_MODEL)
    checked = ModelCheckState.from_job(job)
    response = render_page_or_partial(
        request,
        "experiment_form/model_check.html",
        region="experiment_form/_model_check.html",
        context={"checked": checked, "job": job},
    )
    if is_partial_request(request) and not checked.is_running:
        response.headers["HX-Trigger-After-Settle"] = "model-checked"  # the form is validated again
    return response


def _render_first_form(request: HttpRequest) -> HttpResponse:
    job = request.GET.get(
        "job", request.GET.get("order")
    )  # "order" in bookmarks of earlier versions
    if job is not None:
        return _render_form(request, _make_state_from_job(request, job))
    if "recipe" not in request.GET:
        return _choose_recipe(request)
    base = find_base(request.user, name=request.GET["recipe"], text="", origin="")
    return _render_form(request, make_initial_state(request.user, base))


def _make_state_from_job(request: HttpRequest, pk: str) -> LaunchFormState:
    """Fill the form with what this user submitted."""
    if not pk.isdecimal() or len(pk) > _MAX_ID_DIGITS:
        raise Http404
    row = get_object_or_404(Job, pk=int(pk), kind=JobKind.LAUNCH, created_by=request.user)
    try:
        launch_request = read_payload(row.payload)
    except InputError as error:
        raise Http404(str(error)) from error
    origins = get_visible_experiments(request.user).filter(name=launch_request.origin)
    if uuid := get_origin_uuid(row.payload):
        origins = get_visible_experiments(request.user).filter(uuid=uuid)
    found = origins.first()
    origin = found.name if found else ""
    text = "" if launch_request.recipe_values is None else dump_recipe(launch_request.get_base())
    base = find_base(request.user, name=launch_request.recipe, text=text, origin=origin)
    return make_refilled_state(
        request.user, base, launch_request, prompts_called=get_prompts_name(row.payload)
    )


def _read_sent_text(request: HttpRequest) -> str:
    """Read the YAML of a recipe from a file or from the form.

    Raises:
        RecipeError: the file is not text, or is larger than the limit.
    """
    file = request.FILES.get("recipe_file")
    text = request.POST.get("base_text", "")
    if file is not None:
        data = file.read(_RECIPE_FILE_BYTES + 1)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RecipeError("the recipe is not UTF-8 text") from error
    if len(text) > _RECIPE_FILE_BYTES:
        raise RecipeError(f"a recipe has at most {_RECIPE_FILE_BYTES:,} characters")
    return text


def _check_or_submit(request: HttpRequest, base: FormBase) -> HttpResponse:
    is_final = request.POST.get("action") == "launch" and not is_partial_request(request)
    state = make_submitted_state(request, base, is_final=is_final)
    if request.POST.get("action") == "check":
        _request_model_check(request, state)
        state = make_submitted_state(request, base, is_final=is_final)
    if not is_final or not state.is_ready:
        return _render_form(request, state)
    payload = write_launch_payload(state)
    placed = enqueue_job(
        JobKind.LAUNCH,
        by=_get_user(request),
        experiment_name=payload["experiment"],
        payload=payload,
    )
    return redirect("job", pk=placed.pk)


def _request_model_check(request: HttpRequest, state: LaunchFormState) -> None:
    """Request the complete check of the chosen model, unless its files already fail."""
    recipe = state.draft.recipe
    if recipe is None or recipe.model is None or state.model_check.problems:
        return
    if state.errors.keys() & {"model_from", "model_folder", "model_hub"}:
        return
    prompts = get_stored_name(state.form, state.prompts)
    request_check(CheckRequest.build(recipe.model, recipe, prompts=prompts), by=_get_user(request))


def _get_user(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _choose_recipe(request: HttpRequest, *, problem: str = "") -> HttpResponse:
    context = {
        "groups": list_recipe_groups(),
        "problem": problem,
        "text": request.POST.get("base_text", ""),
    }
    return render(request, "experiment_form/choose_recipe.html", context)


def list_recipe_groups() -> list[RecipeGroup]:
    """Group the built-in recipes by purpose, the quickest first."""
    shipped = sorted(
        map(load_shipped_recipe, list_shipped_recipes()), key=lambda one: one.sample.prompts
    )
    own = [one for one in shipped if one.task is None]
    groups = [
        RecipeGroup("Toy task, on a CPU", [one for one in shipped if one.task], brings_all=True),
        RecipeGroup("The paper", [one for one in own if one.name.endswith(_PAPER_MODELS)]),
        RecipeGroup("Other models", [one for one in own if not one.name.endswith(_PAPER_MODELS)]),
    ]
    return [group for group in groups if group.recipes]


def _render_form(
    request: HttpRequest,
    state: LaunchFormState,
    *,
    region: str = "experiment_form/_check.html",
) -> HttpResponse:
    context = {
        "state": state,
        "checked": state.model_check,
        "form": state.form,
        "base": state.base,
        "command": build_cli_command(state),
        "sections": build_sections(state),
        "groups": list_recipe_groups(),
        "notes": list_notes(state),
        "key_values": list_key_values(state),
        "model_facts": describe_base_model(state.base.recipe),
        "task_examples": list_task_examples(state.base.recipe),
        "problems": list_problems(state),
        "is_region": is_partial_request(request),
        "upload_limit": format_upload_limit(),
    }
    return render_page_or_partial(
        request, "experiment_form/new.html", region=region, context=context
    )
