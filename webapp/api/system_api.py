"""Operations on shared objects: recipes, workers, jobs."""

from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status
from ninja.pagination import paginate

from meta_reward_core.errors import InputError, RecipeError
from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from webapp.accounts.permissions import get_user, get_visible_experiments, get_visible_jobs
from webapp.activity.models import Activity
from webapp.api.create_experiment import submit_model_check
from webapp.api.errors import PROBLEMS
from webapp.api.pagination import RowPagination
from webapp.api.permissions import require_run, require_view
from webapp.api.schemas import (
    ActivityFilter,
    ActivityOut,
    JobOut,
    ModelCheckIn,
    OrderOut,
    RecipeFieldOut,
    RecipeOut,
    WorkerOut,
)
from webapp.dashboard import activity_log
from webapp.experiment_form.recipe_fields import get_recipe_fields
from webapp.experiments.models import Job
from webapp.experiments.progress import list_worker_states

router = Router(tags=["installation"])


@router.get("/recipes", response={200: list[RecipeOut], **PROBLEMS})
@require_view
def list_recipes(request: HttpRequest) -> list[RecipeOut]:  # noqa: ARG001
    """List the built-in recipes."""
    return [_load_recipe_out(name) for name in list_shipped_recipes()]


@router.get("/recipes/fields", response={200: list[RecipeFieldOut], **PROBLEMS})
@require_view
def list_recipe_fields(request: HttpRequest) -> list[RecipeFieldOut]:  # noqa: ARG001
    """List the recipe fields with meaning, bounds, unit and source."""
    return [RecipeFieldOut.model_validate(field) for field in get_recipe_fields().values()]


@router.get("/recipes/{name}", response={200: RecipeOut, **PROBLEMS})
@require_view
def get_recipe(request: HttpRequest, name: str) -> RecipeOut:  # noqa: ARG001
    """Get a built-in recipe."""
    if name not in list_shipped_recipes():
        raise RecipeError(f"no built-in recipe with this name: {name!r}")
    return _load_recipe_out(name)


@router.get("/workers", response={200: list[WorkerOut], **PROBLEMS})
@require_view
def list_workers(request: HttpRequest) -> list[WorkerOut]:
    """List the workers and their current tasks."""
    return [
        WorkerOut.from_state(state)
        for state in list_worker_states(get_visible_experiments(request.user))
    ]


@router.get("/jobs", response={200: list[JobOut], **PROBLEMS})
@paginate(RowPagination, items="jobs", write=JobOut.from_row)
@require_view
def list_jobs(request: HttpRequest) -> "QuerySet[Job]":
    """List the jobs that users requested, newest first."""
    return get_visible_jobs(request.user).select_related("created_by")


@router.get("/jobs/{number}", response={200: JobOut, **PROBLEMS})
@require_view
def get_job(request: HttpRequest, number: int) -> JobOut:
    """Get the status and the result of a job."""
    rows = get_visible_jobs(request.user).select_related("created_by")
    return JobOut.from_row(get_object_or_404(rows, pk=number))


def _write_activity(row: Activity) -> ActivityOut:
    return ActivityOut.from_entry(activity_log.make_entry(row))


@router.get("/activity", response={200: list[ActivityOut], **PROBLEMS})
@paginate(RowPagination, items="entries", write=_write_activity)
@require_view
def list_activity(request: HttpRequest, wanted: Query[ActivityFilter]) -> "QuerySet[Activity]":
    """List the activity that you may see, newest first."""
    known = [name for name, _ in activity_log.KINDS]
    if wanted.kind not in known:
        names = ", ".join(name for name in known if name)
        raise InputError(f"kind: unknown kind {wanted.kind!r}; use one of {names}")
    chosen = activity_log.LogFilter(
        wanted.user, wanted.experiment, wanted.kind, wanted.source or "", wanted.since, wanted.until
    )
    return activity_log.find_activity(request.user, chosen)


@router.get("/orders", response={200: list[OrderOut], **PROBLEMS}, deprecated=True)
@paginate(RowPagination, items="orders", write=OrderOut.from_row)
@require_view
def list_orders(request: HttpRequest) -> "QuerySet[Job]":
    """List the jobs that users requested. Deprecated: use GET /jobs."""
    return get_visible_jobs(request.user).select_related("created_by")


@router.get("/orders/{number}", response={200: JobOut, **PROBLEMS}, deprecated=True)
@require_view
def get_order(request: HttpRequest, number: int) -> JobOut:
    """Get the status and the result of a job. Deprecated: use GET /jobs/{number}."""
    return get_job(request, number)


@router.post("/models/check", response={202: JobOut, **PROBLEMS})
@require_run
def check_model(request: HttpRequest, given: ModelCheckIn) -> Status[JobOut]:
    """Check whether a model can be used for a recipe, before an experiment is created.

    Once the returned job is completed, its outcome contains the report: a level (green, amber or
    red), and every check with its level, message, remedy and file.
    """
    job, warnings = submit_model_check(given, by=get_user(request))
    return Status(202, JobOut.from_row(job, warnings=warnings))


def _load_recipe_out(name: str) -> RecipeOut:
    recipe = load_recipe(name)
    return RecipeOut(
        name=recipe.name,
        description=recipe.description,
        values=recipe.model_dump(mode="json"),
    )
