"""Pages about experiments, iterations, the activity log and workers."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.db.models import prefetch_related_objects
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.accounts.ownership import OwnershipForm, transfer_ownership
from webapp.accounts.permissions import (
    can_control,
    can_transfer,
    get_controllable_experiment,
    get_transferable_experiment,
    get_user,
    get_viewable_experiment,
    get_visible_experiments,
    require_run,
    require_view,
    require_view_or_audit,
)
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.audit.selectors import make_training_notes
from webapp.charts.chart import Chart
from webapp.dashboard import activity_log as log_entries
from webapp.dashboard.alarms import list_alarms
from webapp.dashboard.attempts import (
    Failure,
    list_last_failures,
    paginate_shards,
    select_attempts,
)
from webapp.dashboard.bulk_actions import BULK_ACTIONS, RESTORE, apply_to_all, find_chosen
from webapp.dashboard.deletion import (
    DeletionForm,
    is_on_this_machine,
    plan_deletion,
    read_disk_use,
)
from webapp.dashboard.experiment_charts import build_experiment_charts
from webapp.dashboard.external_charts import build_external_charts
from webapp.dashboard.iteration_charts import build_iteration_charts
from webapp.dashboard.lineage import read_lineage
from webapp.dashboard.machine_charts import build_charts_of_run, build_recent_charts
from webapp.dashboard.probe import read_probe_view
from webapp.dashboard.queues import count_messages, list_waiting_work
from webapp.dashboard.recipe_diff import make_recipe_view
from webapp.dashboard.refused_prompts import list_refusals
from webapp.dashboard.run_table import read_run_table, stream_csv
from webapp.experiments import actions
from webapp.experiments.attempt_logs import get_log_path, iter_log_chunks, read_log_tail
from webapp.experiments.details import (
    DetailsForm,
    StillRunningError,
    archive_experiment,
    change_details,
    get_details,
    restore_experiment,
)
from webapp.experiments.error_text import ErrorText, split_error
from webapp.experiments.ground_truth import read_ground_truth_levels
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import (
    AttemptStatus,
    Experiment,
    Iteration,
    JobKind,
    RunStatus,
    ShardStatus,
)
from webapp.experiments.outcome_summary import build_outcome_summary, find_changes
from webapp.experiments.own_data_intervals import read_own_data_intervals
from webapp.experiments.progress import (
    count_finished,
    count_live_workers,
    estimate_iteration_seconds_left,
    find_before,
    find_current_stage,
    find_unrequested_iteration,
    get_latest_iteration,
    is_active,
    list_worker_states,
    needs_workers,
    summarize_experiments,
)
from webapp.experiments.retry_advice import RetryAdvice, find_retry_advice
from webapp.experiments.stage_progress import (
    StageProgress,
    format_time_left,
    list_running_workers,
    list_stage_progress,
)
from webapp.htmx import is_partial_request, render_cached_partial, render_page_or_partial
from webapp.own_addresses import is_own_address

_REQUESTED: Final = {JobKind.CANCEL: "stop", JobKind.RESUME: "resume"}
_CHARTS_REGION: Final = "iteration-charts"
_MACHINES_REGION: Final = "machine-load"


@require_safe
@require_view_or_audit
def list_experiments(request: HttpRequest) -> HttpResponseBase:
    """Show the run table as specified by the URL; with `format=csv` as a file."""
    if request.GET.get("format") == "csv":
        log_event(Action.EXPORTED, "run table")
        return StreamingHttpResponse(
            stream_csv(request.user, request.GET),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="experiments.csv"'},
        )
    table = read_run_table(request.user, request.GET)
    return render_page_or_partial(
        request,
        "dashboard/experiments.html",
        region="dashboard/_experiment_list.html",
        context={"table": table, "page": table.page, "is_active": table.is_active},
    )


@require_POST
@require_run
def request_bulk_action(request: HttpRequest) -> HttpResponse:
    """Pause, cancel, archive or restore the experiments selected in the run table."""
    back = _get_way_back(request)
    names = request.POST.getlist("name")
    if not names:
        messages.warning(request, "Select at least one experiment.")
        return redirect(back)
    if request.POST.get("do") not in BULK_ACTIONS:
        raise BadRequest("Unknown action.")
    kind, user = request.POST["do"], get_user(request)
    rows = find_chosen(user, names)
    if kind == JobKind.CANCEL and "confirmed" not in request.POST:
        context = {"experiments": rows, "back": back, "kind": kind}
        return render(request, "dashboard/confirm_bulk.html", context)
    result = apply_to_all(kind, rows, by=user)
    if result.summary:
        messages.success(request, result.summary)
    if result.skipped:
        messages.warning(request, f"Skipped: {'; '.join(result.skipped)}.")
    return redirect(back)


def _get_way_back(request: HttpRequest) -> str:
    """Return the URL of the table with its filter, else the home page."""
    back = request.POST.get("next", "")
    is_own = is_own_address(request, back)
    return back if is_own and back.startswith("/") else reverse("index")


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def edit_details(request: HttpRequest, name: str) -> HttpResponse:
    """Change the description, the tags and the notes of an experiment."""
    row = get_controllable_experiment(request.user, name)
    form = DetailsForm(request.POST if request.method == "POST" else None, experiment=row)
    if request.method != "POST" or not form.is_valid():
        status = 422 if request.method == "POST" else 200
        context = {"experiment": row, "details": form}
        return render(request, "dashboard/details.html", context, status=status)
    changed = change_details(row, form.cleaned_data, by=get_user(request))
    messages.success(request, "Saved." if changed else "No changes were made.")
    return redirect("experiment", name)


@require_POST
@require_run
def change_archive(request: HttpRequest, name: str) -> HttpResponse:
    """Archive an experiment, or restore it."""
    row, user = get_controllable_experiment(request.user, name), get_user(request)
    if request.POST.get("do") == RESTORE:
        restore_experiment(row, by=user)
        messages.success(request, f"{row} is listed again.")
        return redirect("experiment", name)
    try:
        archive_experiment(row, by=user)
    except StillRunningError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{row} is archived. It can be restored on this page.")
    return redirect("experiment", name)


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def delete_experiment(request: HttpRequest, name: str) -> HttpResponse:
    """Show the effects of deleting an experiment; delete it once its name is typed."""
    row = get_transferable_experiment(request.user, name)
    form = DeletionForm(request.POST if request.method == "POST" else None, name=row.name)
    plan = plan_deletion(row)
    if request.method == "POST" and form.is_valid() and not plan.obstacles:
        if not actions.has_pending(row, JobKind.DELETE):
            enqueue_job(JobKind.DELETE, by=get_user(request), experiment=row)
        messages.success(request, f"Deletion of {row} requested.")
        return redirect("index")
    context = {"experiment": row, "form": form, "plan": plan}
    status = 422 if request.method == "POST" else 200
    return render(request, "dashboard/delete.html", context, status=status)


def _has_no_workers(experiments: list[Experiment]) -> bool:
    return any(map(needs_workers, experiments)) and not count_live_workers()


@require_safe
@require_view
def show_experiment(request: HttpRequest, name: str) -> HttpResponse:
    """Show an experiment: status, actions, lineage, charts, alarms, recipe."""
    row = _prefetch_iterations(get_viewable_experiment(request.user, name))
    if not is_partial_request(request):
        return render_page_or_partial(
            request,
            "dashboard/experiment.html",
            region="",
            context=_build_state(request, row)
            | _build_history(row)
            | _build_details(request, row)
            | _build_ownership(request, row),
        )
    response = _render_partial(
        request,
        row,
        "dashboard/_experiment_status.html",
        lambda: _build_state(request, row) | _build_lineage(row) | {"is_update": True},
    )
    if request.GET.get("seen") not in (None, str(count_finished(row))):
        response.headers["HX-Refresh"] = "true"
    return response


def _build_state(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Build the context that changes while an experiment runs."""
    latest = get_latest_iteration(row)
    unfinished = latest if latest and latest.status != RunStatus.FINISHED else None
    (summary,) = summarize_experiments([row])
    stages = summary.all_stages
    error = split_error(unfinished.message) if unfinished and unfinished.message else None
    return {
        "experiment": row,
        "iteration": unfinished,
        "error": error,
        "advice": _find_advice(unfinished, error),
        "is_running": unfinished is not None and _is_running(unfinished),
        "stages": stages,
        "stage": find_current_stage(stages),
        "seen": count_finished(row),
        "done_of": summary.done_of,
        "percent": summary.percent,
        "left": summary.left,
        "unasked": find_unrequested_iteration(row),
        **_build_controls(request, row),
    }


def _build_details(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Build the context of user-provided details, with the form for users who can change them."""
    may = can_control(request.user, row)
    return {
        "tags": get_details(row)["tags"],
        "details": DetailsForm(experiment=row) if may else None,
        "may_delete": can_transfer(request.user, row),
    }


def _build_controls(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Build the context of actions; the page keeps updating while a job is pending."""
    jobs = actions.list_jobs(row)
    may = can_control(request.user, row)
    return {
        "pending_jobs": [job for job in jobs if actions.is_pending(job)],
        "ended_jobs": [job for job in jobs if not actions.is_pending(job)],
        "controls": actions.list_actions(row, jobs) if may else [],
        "may_steer": may,
        "is_active": is_active(row) or any(map(actions.is_pending, jobs)),
        "lacks_workers": _has_no_workers([row]),
        "waits_in_vain": actions.is_stuck(jobs),
    }


def _build_ownership(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Build the form for users who can transfer the experiment."""
    return {"ownership": OwnershipForm(experiment=row)} if can_transfer(request.user, row) else {}


def _build_history(row: Experiment) -> dict[str, Any]:
    """Build the context that changes only when an iteration is completed."""
    iterations = _sort_iterations(row)
    return _build_lineage(row) | {
        "outcome": build_outcome_summary(row, iterations),
        "disk": read_disk_use(row) if is_on_this_machine(row) else None,
        "charts": _draw_charts(row, iterations),
        "machines": build_charts_of_run(row),
        "outside_charts": build_external_charts(row, models=len(iterations) + 1),
        "alarms": list_alarms(iterations),
        "recipe": make_recipe_view(row.recipe),
    }


def _draw_charts(row: Experiment, iterations: Sequence[Iteration]) -> list[Chart]:
    measured = [one for one in iterations if one.status == RunStatus.FINISHED and one.metrics]
    return build_experiment_charts(
        iterations,
        read_ground_truth_levels(row, iterations),
        read_own_data_intervals(row, iterations),
        find_changes(row, measured[0], measured[-1]) if measured else {},
    )


def _build_lineage(row: Experiment) -> dict[str, Any]:
    return {"lineage": read_lineage(row, _sort_iterations(row))}


def _sort_iterations(row: Experiment) -> list[Iteration]:
    return sorted(row.iterations.all(), key=lambda iteration: iteration.number)


@require_safe
@require_view
def show_iteration(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show an iteration: its stages, shards, attempts, failures and charts."""
    row = _find_iteration(_prefetch_iterations(get_viewable_experiment(request.user, name)), number)
    if not is_partial_request(request):
        context = _build_progress(request, row) | {"drawn": build_iteration_charts(row)}
        context |= {
            "alarms": list_alarms([row]),
            "probe": read_probe_view(row),
            "refusals": list_refusals(row),
        }
        response = render_page_or_partial(
            request, "dashboard/iteration.html", region="", context=context
        )
    elif request.headers.get("HX-Target") == _CHARTS_REGION:
        response = _render_partial(
            request,
            row.experiment,
            "dashboard/_iteration_charts.html",
            lambda: {"drawn": build_iteration_charts(row), "is_running": _is_running(row)},
        )
    else:
        response = _render_partial(
            request,
            row.experiment,
            "dashboard/_iteration_status.html",
            lambda: _build_progress(request, row) | {"is_update": True},
        )
    patch_vary_headers(response, ["HX-Target"])
    return response


@require_safe
@require_view
def show_attempt_output(request: HttpRequest, name: str, number: int, pk: int) -> HttpResponseBase:
    """Show the end of an attempt's console output, live; with `format=text`, send all of it."""
    experiment = get_viewable_experiment(request.user, name)
    attempt = get_object_or_404(select_attempts(experiment, number), pk=pk)
    path = get_log_path(attempt)
    tail = read_log_tail(path)
    if request.GET.get("format") == "text":
        if tail is None:
            raise Http404("The output of this attempt is not on this machine.")
        return StreamingHttpResponse(
            iter_log_chunks(path),
            content_type="text/plain; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{path.name}"'},
        )
    context = {
        "experiment": experiment,
        "iteration": attempt.shard.stage.iteration,
        "attempt": attempt,
        "tail": tail,
        "is_running": attempt.status == AttemptStatus.RUNNING,
    }
    return render_page_or_partial(
        request,
        "dashboard/attempt_output.html",
        region="dashboard/_attempt_output.html",
        context=context,
    )


def _render_partial(
    request: HttpRequest, row: Experiment, region: str, gather: Callable[[], dict[str, Any]]
) -> HttpResponse:
    """Render the changing region, with buttons and the result of the last action."""
    if can_control(request.user, row):
        return render_page_or_partial(request, "", region=region, context=gather())
    return render_cached_partial(request, region, gather)


def _prefetch_iterations(row: Experiment) -> Experiment:
    prefetch_related_objects([row], "iterations")
    return row


def _find_iteration(experiment: Experiment, number: int) -> Iteration:
    for row in experiment.iterations.all():
        if row.number == number:
            return row
    raise Http404("Iteration not found.")


def _is_running(row: Iteration) -> bool:
    return row.status == RunStatus.RUNNING


def _build_progress(request: HttpRequest, row: Iteration) -> dict[str, Any]:
    experiment = row.experiment
    stage, status = request.GET.get("stage", ""), request.GET.get("status", "")
    page, shards = paginate_shards(row, stage=stage, status=status, page=request.GET.get("page"))
    steering = _build_controls(request, experiment)
    if get_latest_iteration(experiment) != row:
        steering["controls"] = []
    stages, left = _read_stages(row)
    failures = list_last_failures(row)
    error = _explain_stop(row, failures)
    cause = error or (failures[0].error if failures else None)
    return {
        "experiment": experiment,
        "iteration": row,
        "before": row.number - 1,
        "is_running": _is_running(row),
        "stages": stages,
        "stage": find_current_stage(stages),
        "left": left,
        "running_on": list_running_workers(row) if _is_running(row) else [],
        "training_notes": make_training_notes(row),
        "failures": failures,
        "error": error,
        "cause": cause,
        "advice": _find_advice(row, cause),
        "now": timezone.now(),
        "page": page,
        "shards": shards,
        "stage_shown": stage,
        "status_shown": status,
        "statuses": ShardStatus.choices,
        "opens_shards": any(name in request.GET for name in ("stage", "status", "page")),
        **steering,
        "is_active": _is_running(row) or steering["is_active"],
    }


def _read_stages(row: Iteration) -> tuple[list[StageProgress], str]:
    """Read the stages of an iteration, and the estimated time left while it runs."""
    before = find_before(row, [row.experiment])
    found = list_stage_progress([row] if before is None else [row, before])
    stages = found[row.pk]
    if before is None or not _is_running(row):
        return stages, ""
    return stages, format_time_left(estimate_iteration_seconds_left(stages, found[before.pk]))


def _explain_stop(row: Iteration, failures: Sequence[Failure]) -> ErrorText | None:
    """Explain why an iteration stopped, unless its last failure already explains it."""
    error = split_error(row.message)
    if not row.message or (failures and failures[0].error.cause == error.cause):
        return None
    return error


def _find_advice(row: Iteration | None, error: ErrorText | None) -> RetryAdvice | None:
    """Find a setting to change before a failed iteration is retried."""
    if row is None or error is None or row.status != RunStatus.FAILED:
        return None
    return find_retry_advice(error.cause, row.experiment.recipe)


@require_POST
@require_run
def request_action(request: HttpRequest, name: str) -> HttpResponse:
    """Request to run, pause, cancel or resume; the page shows the result."""
    row = get_controllable_experiment(request.user, name)
    form = actions.ActionForm(request.POST)
    if not form.is_valid():
        raise BadRequest("Unknown action.")
    kind = JobKind(form.cleaned_data["do"])
    if actions.has_pending(row, kind):
        messages.info(request, "An identical request is already pending.")
    else:
        enqueue_job(kind, by=_get_user(request), experiment=row)
        messages.success(request, f"Requested: {_REQUESTED.get(kind, kind.label)}.")
    number = form.cleaned_data["iteration"]
    return redirect("iteration", name, number) if number else redirect("experiment", name)


def _get_user(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


@require_safe
@require_view
def show_activity_log(request: HttpRequest) -> HttpResponseBase:
    """Show user activity and its outcome, newest first; with `format=csv` as a file."""
    form = log_entries.LogForm(request.GET)
    form.is_valid()
    wanted = log_entries.LogFilter(**form.cleaned_data)
    if request.GET.get("format") == "csv":
        log_event(Action.EXPORTED, "activity log")
        return StreamingHttpResponse(
            log_entries.stream_csv(request.user, wanted),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="activity.csv"'},
        )
    rows = log_entries.find_activity(request.user, wanted)
    page = Paginator(rows, log_entries.ENTRIES_ON_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "page": page,
        "entries": [log_entries.make_entry(row) for row in page.object_list],
    }
    return render_page_or_partial(
        request,
        "dashboard/activity.html",
        region="dashboard/_activity_entries.html",
        context=context,
    )


@require_safe
@require_view
def show_workers(request: HttpRequest) -> HttpResponse:
    """Show the workers, their current tasks, the pending work, and the load of the machines."""
    if is_partial_request(request) and request.headers.get("HX-Target") == _MACHINES_REGION:
        return render_cached_partial(
            request, "dashboard/_machine_load.html", lambda: {"machines": build_recent_charts()}
        )
    states = list_worker_states(get_visible_experiments(request.user))
    waiting = list_waiting_work(request.user)
    heard = [state for state in states if not state.is_silent]
    context: dict[str, object] = {
        "workers": states,
        "queues": count_messages(),
        "waiting": waiting,
        "is_active": any(state.doing for state in heard) or bool(heard and waiting),
    }
    if not is_partial_request(request):
        context["machines"] = build_recent_charts()
    response = render_page_or_partial(
        request,
        "dashboard/workers.html",
        region="dashboard/_worker_list.html",
        context=context,
    )
    patch_vary_headers(response, ["HX-Target"])
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def edit_ownership(request: HttpRequest, name: str) -> HttpResponse:
    """Change the owner and visibility of an experiment."""
    row = get_transferable_experiment(request.user, name)
    form = OwnershipForm(request.POST if request.method == "POST" else None, experiment=row)
    if request.method != "POST" or not form.is_valid():
        return render(request, "dashboard/ownership.html", {"experiment": row, "ownership": form})
    changed = transfer_ownership(row, by=get_user(request), **form.cleaned_data)
    messages.success(request, "Saved." if changed else "No changes were made.")
    if get_visible_experiments(request.user).filter(pk=row.pk).exists():
        return redirect("experiment", name)
    return redirect("index")
