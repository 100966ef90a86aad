"""Operations on experiments."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from ninja import Query, Router, Status
from ninja.errors import HttpError
from ninja.pagination import paginate

from meta_reward_core.planning.fork import ForkPoint
from meta_reward_core.planning.settings_change import SettingsPlan, SettingsRequest
from meta_reward_core.recipes.canonical import get_current_key
from meta_reward_core.recipes.loader import read_stored_values
from webapp.accounts.ownership import OwnershipForm, get_ownership, transfer_ownership
from webapp.accounts.permissions import (
    get_controllable_experiment,
    get_transferable_experiment,
    get_user,
    get_viewable_experiment,
    get_visible_experiments,
)
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.api.create_experiment import submit_launch, translate_values
from webapp.api.errors import PROBLEMS, ConflictError, require_valid
from webapp.api.pagination import RowPagination
from webapp.api.pair_exports import KINDS, export_lines
from webapp.api.permissions import require_run, require_view
from webapp.api.schemas import (
    ChangedValueOut,
    DetailsIn,
    DiskUseOut,
    ExperimentOut,
    FilterIn,
    ForkIn,
    JobOut,
    LaunchChanges,
    LaunchIn,
    MadeAgainOut,
    MetricsOut,
    ModelSizeOut,
    OwnershipIn,
    SettingsChangeOut,
    SettingsIn,
    SettingsPlanOut,
    StatusOut,
)
from webapp.dashboard.deletion import plan_deletion
from webapp.dashboard.run_table import filter_experiments
from webapp.experiment_form.change_settings import (
    list_changed_values,
    plan_change,
    request_change,
)
from webapp.experiment_form.fork import make_fork_request
from webapp.experiment_form.form_state import find_base
from webapp.experiments.actions import has_pending
from webapp.experiments.details import (
    StillRunningError,
    archive_experiment,
    change_details,
    parse_tags,
    restore_experiment,
)
from webapp.experiments.files import read_settings_history
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Job, JobKind, RunStatus
from webapp.experiments.stage_progress import list_stage_progress

Format = Literal["trl", "distilabel", "openrlhf", "llama-factory", "online-rlhf", "oxen"]

_ACTIONS: Final = {
    "start": JobKind.NEXT,
    "next": JobKind.NEXT,
    "pause": JobKind.PAUSE,
    "resume": JobKind.RESUME,
    "cancel": JobKind.CANCEL,
}

_RELATED: Final[Sequence[str]] = ("tags",)

router = Router(tags=["experiments"])


@router.get("", response={200: list[ExperimentOut], **PROBLEMS})
@paginate(RowPagination, items="experiments", write=ExperimentOut.from_row)
@require_view
def list_experiments(
    request: HttpRequest, filters: Annotated[FilterIn, Query()]
) -> "QuerySet[Experiment]":
    """List the experiments that you may see and that are not archived, newest first."""
    given = filters.model_dump()
    visible = get_visible_experiments(request.user)
    rows = filter_experiments(visible, **given)
    return rows.select_related("owner").prefetch_related(*_RELATED)


@router.post("", response={202: JobOut, **PROBLEMS})
@require_run
def create_experiment(request: HttpRequest, given: LaunchIn) -> Status[JobOut]:
    """Create an experiment from a built-in recipe or a recipe's text. It starts immediately."""
    base = find_base(request.user, name=given.recipe, text=given.recipe_text, origin="")
    return _accept(*submit_launch(base, given, by=get_user(request)))


@router.get("/{name}", response={200: ExperimentOut, **PROBLEMS})
@require_view
def get_experiment(request: HttpRequest, name: str) -> ExperimentOut:
    """Get an experiment."""
    return ExperimentOut.from_row(get_viewable_experiment(request.user, name))


@router.patch("/{name}", response={200: ExperimentOut, **PROBLEMS})
@require_run
def hand_experiment_over(request: HttpRequest, name: str, given: OwnershipIn) -> ExperimentOut:
    """Change the owner or visibility of your experiment. Admins can change any experiment."""
    row = get_transferable_experiment(request.user, name)
    form = OwnershipForm(get_ownership(row) | given.model_dump(exclude_unset=True), experiment=row)
    require_valid(form)
    transfer_ownership(row, by=get_user(request), **form.cleaned_data)
    row.refresh_from_db()
    return ExperimentOut.from_row(row)


@router.patch("/{name}/details", response={200: ExperimentOut, **PROBLEMS})
@require_run
def change_experiment_details(request: HttpRequest, name: str, given: DetailsIn) -> ExperimentOut:
    """Change the description, the tags or the notes of an experiment."""
    row = get_controllable_experiment(request.user, name)
    values = given.model_dump(exclude_unset=True)
    if "tags" in values:
        try:
            values["tags"] = parse_tags(values["tags"])
        except ValueError as error:
            raise HttpError(422, str(error)) from error
    change_details(row, values, by=get_user(request))
    row.refresh_from_db()
    return ExperimentOut.from_row(row)


@router.post("/{name}/archive", response={200: ExperimentOut, **PROBLEMS})
@require_run
def archive(request: HttpRequest, name: str) -> ExperimentOut:
    """Archive an experiment: it is hidden from lists, and everything is kept."""
    row = get_controllable_experiment(request.user, name)
    try:
        archive_experiment(row, by=get_user(request))
    except StillRunningError as error:
        raise ConflictError(str(error)) from error
    row.refresh_from_db()
    return ExperimentOut.from_row(row)


@router.post("/{name}/restore", response={200: ExperimentOut, **PROBLEMS})
@require_run
def restore(request: HttpRequest, name: str) -> ExperimentOut:
    """Restore an experiment from the archive."""
    row = get_controllable_experiment(request.user, name)
    restore_experiment(row, by=get_user(request))
    row.refresh_from_db()
    return ExperimentOut.from_row(row)


@router.get("/{name}/disk", response={200: DiskUseOut, **PROBLEMS})
@require_view
def get_disk_use(request: HttpRequest, name: str) -> DiskUseOut:
    """Get the disk space that deleting an experiment would free."""
    plan = plan_deletion(get_viewable_experiment(request.user, name))
    return DiskUseOut(
        bytes=plan.disk.total if plan.disk else None,
        models=[
            ModelSizeOut(number=model.number, bytes=model.size)
            for model in (plan.disk.models if plan.disk else ())
        ],
        obstacles=list(plan.obstacles),
    )


@router.delete("/{name}", response={202: JobOut, **PROBLEMS})
@require_run
def delete_experiment(request: HttpRequest, name: str) -> Status[JobOut]:
    """Permanently delete an experiment with all its files. The job later gives the result."""
    row = get_transferable_experiment(request.user, name)
    if obstacles := plan_deletion(row).obstacles:
        raise ConflictError(" ".join(obstacles))
    if has_pending(row, JobKind.DELETE):
        raise ConflictError("An identical request is already pending.")
    return _accept(enqueue_job(JobKind.DELETE, by=get_user(request), experiment=row))


@router.get("/{name}/recipe", response={200: dict[str, Any], **PROBLEMS})
@require_view
def get_experiment_recipe(request: HttpRequest, name: str) -> dict[str, Any]:
    """Get the recipe of an experiment."""
    row = get_viewable_experiment(request.user, name)
    return read_stored_values(row.recipe, origin=row.name)


@router.get("/{name}/settings", response={200: list[SettingsChangeOut], **PROBLEMS})
@require_view
def list_settings_changes(request: HttpRequest, name: str) -> list[SettingsChangeOut]:
    """List the changes of an experiment's settings, oldest first."""
    history = read_settings_history(get_viewable_experiment(request.user, name))
    return [
        SettingsChangeOut(
            number=change.number,
            from_iteration=change.from_iteration,
            values=[
                ChangedValueOut(
                    key=get_current_key(key), before=change.before[key], after=change.after[key]
                )
                for key in change.after
            ],
        )
        for change in history.changes
    ]


@router.patch("/{name}/settings", response={200: SettingsPlanOut, 202: JobOut, **PROBLEMS})
@require_run
def change_settings(
    request: HttpRequest, name: str, given: SettingsIn
) -> Status[SettingsPlanOut] | Status[JobOut]:
    """Change settings of an experiment; `apply` controls results that depend on them.

    With `dry_run` the response describes the effect. The returned job later contains the result.
    """
    row = get_controllable_experiment(request.user, name)
    warnings: list[str] = []
    wanted = SettingsRequest(values=translate_values(given.values, warnings), apply=given.apply)
    if given.dry_run:
        planned = wanted.model_copy(update={"apply": given.apply or "now"})
        return Status(200, _describe_plan(plan_change(row, planned)))
    if has_pending(row, JobKind.SETTINGS):
        raise ConflictError("Another change of the settings is already pending.")
    return _accept(request_change(row, wanted, by=get_user(request)), warnings)


def _describe_plan(plan: SettingsPlan | None) -> SettingsPlanOut:
    if plan is None:
        raise ConflictError("The experiment already has these settings.")
    return SettingsPlanOut(
        from_iteration=plan.from_iteration,
        values=[
            ChangedValueOut(key=one.key, before=one.before, after=one.after)
            for one in list_changed_values(plan)
        ],
        made_again=[MadeAgainOut(stage=one.stage, shards=one.shards) for one in plan.made_again],
        why_later=plan.why_later,
    )


@router.post("/{name}/duplicate", response={202: JobOut, **PROBLEMS})
@require_run
def duplicate_experiment(request: HttpRequest, name: str, given: LaunchChanges) -> Status[JobOut]:
    """Create a copy of an experiment, with changes."""
    base = find_base(request.user, name="", text="", origin=name)
    return _accept(*submit_launch(base, given, by=get_user(request)))


@router.post("/{name}/fork", response={202: JobOut, **PROBLEMS})
@require_run
def fork_experiment(request: HttpRequest, name: str, given: ForkIn) -> Status[JobOut]:
    """Create a fork, which keeps results up to a stage. It starts immediately."""
    row = get_viewable_experiment(request.user, name)
    warnings: list[str] = []
    wanted = make_fork_request(
        row,
        ForkPoint.parse(f"{given.iteration}:{given.keep}"),
        translate_values(given.values, warnings),
        name=given.name,
        until=given.until,
        is_private=given.is_private,
    )
    job = enqueue_job(
        JobKind.FORK,
        by=get_user(request),
        experiment_name=wanted.experiment,
        payload=wanted.model_dump(mode="json"),
    )
    return _accept(job, warnings)


@router.get("/{name}/status", response={200: StatusOut, **PROBLEMS})
@require_view
def get_status(request: HttpRequest, name: str) -> StatusOut:
    """Get the progress of an experiment by iteration and stage."""
    found = get_visible_experiments(request.user).prefetch_related("iterations__experiment")
    row = found.get(pk=get_viewable_experiment(request.user, name).pk)
    return StatusOut.from_row(row, list_stage_progress(row.iterations.all()))


@router.get("/{name}/metrics", response={200: list[MetricsOut], **PROBLEMS})
@require_view
def get_metrics(request: HttpRequest, name: str) -> list[MetricsOut]:
    """Get the metrics of each completed iteration."""
    row = get_viewable_experiment(request.user, name)
    finished = row.iterations.filter(status=RunStatus.FINISHED).order_by("number")
    return [
        MetricsOut(iteration=number, metrics=metrics)
        for number, metrics in finished.values_list("number", "metrics")
    ]


@router.get(
    "/{name}/pairs",
    response={200: Any, **PROBLEMS},
    openapi_extra={
        "responses": {
            200: {
                "description": "One JSON object per line.",
                "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            }
        }
    },
)
@require_view
def export_pairs(
    request: HttpRequest,
    name: str,
    form: Annotated[Format, Query(alias="format")] = "trl",
    kind: Literal["actor", "judge"] | None = None,
    iteration: Annotated[int | None, Query(ge=1, le=10**6)] = None,
) -> StreamingHttpResponse:
    """Export preference pairs of one or all completed iterations in the format of another tool."""
    row = get_viewable_experiment(request.user, name)
    finished = row.iterations.filter(status=RunStatus.FINISHED).order_by("number")
    numbers = [
        number
        for number in finished.values_list("number", flat=True)
        if iteration in (None, number)
    ]
    lines = export_lines(row, numbers=numbers, kinds=[kind] if kind else KINDS, form=form)
    log_event(Action.EXPORTED, row.name, detail=f"pairs as {form}")
    response = StreamingHttpResponse(lines, content_type="application/x-ndjson")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{form}.jsonl"'
    return response


@router.post("/{name}/next", response={202: JobOut, **PROBLEMS})
@require_run
def start_next_iteration(request: HttpRequest, name: str) -> Status[JobOut]:
    """Start the next iteration of an experiment.

    The returned job later gives the result.
    """
    return _request_action(request, name, JobKind.NEXT)


@router.post("/{name}/pause", response={202: JobOut, **PROBLEMS})
@require_run
def pause_experiment(request: HttpRequest, name: str) -> Status[JobOut]:
    """Pause the running iteration once its running shards are completed.

    The returned job later gives the result.
    """
    return _request_action(request, name, JobKind.PAUSE)


@router.post("/{name}/resume", response={202: JobOut, **PROBLEMS})
@require_run
def resume_experiment(request: HttpRequest, name: str) -> Status[JobOut]:
    """Resume the latest iteration and retry its failed shards.

    The returned job later gives the result.
    """
    return _request_action(request, name, JobKind.RESUME)


@router.post("/{name}/cancel", response={202: JobOut, **PROBLEMS})
@require_run
def cancel_experiment(request: HttpRequest, name: str) -> Status[JobOut]:
    """Cancel the running iteration. Completed shards are kept.

    The returned job later gives the result.
    """
    return _request_action(request, name, JobKind.CANCEL)


@router.post("/{name}/accept-probe", response={202: JobOut, **PROBLEMS})
@require_run
def accept_probe(request: HttpRequest, name: str) -> Status[JobOut]:
    """Continue an iteration that needs attention despite the judge probe or a finished shard.

    The returned job later gives the result.
    """
    return _request_action(request, name, JobKind.ACCEPT_PROBE)


@router.post("/{name}/{action}", response={202: JobOut, **PROBLEMS}, deprecated=True)
@require_run
def steer_experiment(
    request: HttpRequest,
    name: str,
    action: Literal["start", "next", "pause", "resume", "cancel"],
) -> Status[JobOut]:
    """Request an action on an experiment. Deprecated: use the operation of the action.

    `start` is another name of `next`.
    """
    return _request_action(request, name, _ACTIONS[action])


def _request_action(request: HttpRequest, name: str, kind: JobKind) -> Status[JobOut]:
    row = get_controllable_experiment(request.user, name)
    if has_pending(row, kind):
        raise ConflictError("An identical request is already pending.")
    return _accept(enqueue_job(kind, by=get_user(request), experiment=row))


def _accept(job: Job, warnings: Sequence[str] = ()) -> Status[JobOut]:
    return Status(202, JobOut.from_row(job, warnings=warnings))
