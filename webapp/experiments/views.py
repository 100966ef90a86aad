"""Pages about experiments: the list, one of them, one of its iterations, the log, the workers."""

from collections.abc import Callable
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.db.models import QuerySet, prefetch_related_objects
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_POST, require_safe

from webapp.audit.training_notes import training_notes
from webapp.experiments import controls
from webapp.experiments import log as log_entries
from webapp.experiments.alarms import alarms_of
from webapp.experiments.attempts import last_failures, shards_page
from webapp.experiments.curves import experiment_charts
from webapp.experiments.iteration_charts import iteration_charts
from webapp.experiments.lineage import lineage_of
from webapp.experiments.models import (
    Experiment,
    Iteration,
    OrderKind,
    RunStatus,
    ShardStatus,
)
from webapp.experiments.orders import place_order
from webapp.experiments.outside_curves import outside_charts
from webapp.experiments.ownership import OwnershipForm
from webapp.experiments.progress import (
    count_finished,
    count_live_workers,
    current_stage,
    experiment_lines,
    is_active,
    latest_iteration,
    needs_workers,
    unasked_iteration,
    worker_states,
)
from webapp.experiments.queues import find_waiting, message_counts
from webapp.experiments.recipe_values import view_recipe
from webapp.experiments.stages import stages_of
from webapp.people.access import (
    find_experiment,
    find_to_steer,
    may_hand_over,
    may_steer,
    runs,
    sees,
    sees_or_audits,
    visible_experiments,
)
from webapp.regions import render_for_all, render_page, wants_region

_EXPERIMENTS_ON_A_PAGE: Final = 20
_CHARTS_REGION: Final = "iteration-charts"


class FilterForm(forms.Form):
    """Which experiments are listed; empty fields list all."""

    q = forms.CharField(required=False, max_length=64, label="Name")
    status = forms.ChoiceField(
        required=False, choices=[("", "any status"), *RunStatus.choices], label="Status"
    )


@require_safe
@sees_or_audits
def index(request: HttpRequest) -> HttpResponse:
    """List experiments, newest first."""
    form = FilterForm(request.GET)
    rows = visible_experiments(request.user).select_related("owner")
    page = Paginator(
        _filtered(rows, form).prefetch_related("iterations"), _EXPERIMENTS_ON_A_PAGE
    ).get_page(request.GET.get("page"))
    lines = experiment_lines(page.object_list)
    context = {
        "form": form,
        "is_filtered": any(request.GET.get(name) for name in form.fields),
        "page": page,
        "lines": lines,
        "is_active": any(is_active(line.row) for line in lines),
        "lacks_workers": _lacks_workers([line.row for line in lines]),
    }
    return render_page(
        request,
        "experiments/index.html",
        region="experiments/partials/experiment-list.html",
        context=context,
    )


def _filtered(rows: QuerySet[Experiment], form: FilterForm) -> QuerySet[Experiment]:
    """Keep what the form asks for; a field that makes no sense keeps all."""
    form.is_valid()
    given = form.cleaned_data
    if given.get("q"):
        rows = rows.filter(name__icontains=given["q"])
    if given.get("status"):
        rows = rows.filter(status=given["status"])
    return rows


def _lacks_workers(experiments: list[Experiment]) -> bool:
    return any(map(needs_workers, experiments)) and not count_live_workers()


@require_safe
@sees
def experiment(request: HttpRequest, name: str) -> HttpResponse:
    """Show an experiment: where it stands, what can be done, lineage, curves, alarms, recipe."""
    row = _with_iterations(find_experiment(request.user, name))
    if not wants_region(request):
        return render_page(
            request,
            "experiments/experiment.html",
            region="",
            context=_state_of(request, row) | _story_of(row) | _ownership(request, row),
        )
    response = _region(
        request,
        row,
        "experiments/partials/experiment-state.html",
        lambda: _state_of(request, row),
    )
    if request.GET.get("seen") not in (None, str(count_finished(row))):
        response.headers["HX-Refresh"] = "true"
    return response


def _state_of(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Gather what changes while an experiment runs."""
    latest = latest_iteration(row)
    unfinished = latest if latest and latest.status != RunStatus.FINISHED else None
    stages = stages_of([unfinished])[unfinished.pk] if unfinished else []
    return {
        "experiment": row,
        "iteration": unfinished,
        "is_running": unfinished is not None and _runs(unfinished),
        "stages": stages,
        "stage": current_stage(stages),
        "seen": count_finished(row),
        "unasked": unasked_iteration(row),
        **_steering(request, row),
    }


def _steering(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Gather what was asked and what can be asked; a page lives while an order waits."""
    orders = controls.find_orders(row)
    may = may_steer(request.user, row)
    return {
        "orders": orders,
        "controls": controls.controls_of(row, orders) if may else [],
        "may_steer": may,
        "is_active": is_active(row) or any(map(controls.is_pending, orders)),
        "lacks_workers": _lacks_workers([row]),
        "waits_in_vain": controls.waits_in_vain(orders),
    }


def _ownership(request: HttpRequest, row: Experiment) -> dict[str, Any]:
    """Make the form for whoever may hand the experiment over."""
    return {"ownership": OwnershipForm(experiment=row)} if may_hand_over(request.user, row) else {}


def _story_of(row: Experiment) -> dict[str, Any]:
    """Gather what changes only when an iteration is finished."""
    iterations = sorted(row.iterations.all(), key=lambda iteration: iteration.number)
    return {
        "lineage": lineage_of(row, iterations),
        "charts": experiment_charts(iterations),
        "outside_charts": outside_charts(row, models=len(iterations) + 1),
        "alarms": alarms_of(iterations),
        "recipe": view_recipe(row.recipe),
    }


@require_safe
@sees
def iteration(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show an iteration: its stages, shards, attempts, failures and charts."""
    row = _find_iteration(_with_iterations(find_experiment(request.user, name)), number)
    if not wants_region(request):
        context = _progress_of(request, row) | {"drawn": iteration_charts(row)}
        context["alarms"] = alarms_of([row])
        response = render_page(request, "experiments/iteration.html", region="", context=context)
    elif request.headers.get("HX-Target") == _CHARTS_REGION:
        response = _region(
            request,
            row.experiment,
            "experiments/partials/iteration-charts.html",
            lambda: {"drawn": iteration_charts(row), "is_running": _runs(row)},
        )
    else:
        response = _region(
            request,
            row.experiment,
            "experiments/partials/iteration-state.html",
            lambda: _progress_of(request, row),
        )
    patch_vary_headers(response, ["HX-Target"])
    return response


def _region(
    request: HttpRequest, row: Experiment, region: str, gather: Callable[[], dict[str, Any]]
) -> HttpResponse:
    """Render what changes; whoever steers sees buttons, and at once what came of them."""
    if may_steer(request.user, row):
        return render_page(request, "", region=region, context=gather())
    return render_for_all(request, region, gather)


def _with_iterations(row: Experiment) -> Experiment:
    prefetch_related_objects([row], "iterations")
    return row


def _find_iteration(experiment: Experiment, number: int) -> Iteration:
    for row in experiment.iterations.all():
        if row.number == number:
            return row
    raise Http404("there is no such iteration")


def _runs(row: Iteration) -> bool:
    return row.status == RunStatus.RUNNING


def _progress_of(request: HttpRequest, row: Iteration) -> dict[str, Any]:
    experiment = row.experiment
    stage, status = request.GET.get("stage", ""), request.GET.get("status", "")
    page, shards = shards_page(row, stage=stage, status=status, page=request.GET.get("page"))
    steering = _steering(request, experiment)
    if latest_iteration(experiment) != row:
        steering["controls"] = []
    return {
        "experiment": experiment,
        "iteration": row,
        "before": row.number - 1,
        "is_running": _runs(row),
        "stages": stages_of([row])[row.pk],
        "training_notes": training_notes(row),
        "failures": last_failures(row),
        "page": page,
        "shards": shards,
        "stage_shown": stage,
        "status_shown": status,
        "statuses": ShardStatus.choices,
        "opens_shards": any(name in request.GET for name in ("stage", "status", "page")),
        **steering,
        "is_active": _runs(row) or steering["is_active"],
    }


@require_POST
@runs
def steer(request: HttpRequest, name: str) -> HttpResponse:
    """Ask the workers to run, pause, cancel or resume; the page says what became of it."""
    row = find_to_steer(request.user, name)
    form = controls.SteerForm(request.POST)
    if not form.is_valid():
        raise BadRequest("nothing that can be asked of an experiment")
    kind = OrderKind(form.cleaned_data["do"])
    if controls.has_pending(row, kind):
        messages.info(request, f"{row} was asked to {kind.label} already.")
    else:
        place_order(kind, by=_person(request), experiment=row)
    number = form.cleaned_data["iteration"]
    return redirect("iteration", name, number) if number else redirect("experiment", name)


def _person(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


@require_safe
@sees
def log(request: HttpRequest) -> HttpResponse:
    """Show who did what when, and what became of it, newest first."""
    form = log_entries.LogForm(request.GET)
    form.is_valid()
    wanted = log_entries.Wanted(**form.cleaned_data)
    keys = log_entries.find_keys(request.user, wanted)
    page = Paginator(keys, log_entries.ENTRIES_ON_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "page": page,
        "entries": log_entries.read_entries(page.object_list),
    }
    return render_page(
        request,
        "experiments/log.html",
        region="experiments/partials/log-entries.html",
        context=context,
    )


@require_safe
@sees
def workers(request: HttpRequest) -> HttpResponse:
    """Show the workers, what each does, and what waits for them."""
    states = worker_states()
    waiting = find_waiting(request.user)
    heard = [state for state in states if not state.is_silent]
    context = {
        "workers": states,
        "queues": message_counts(),
        "waiting": waiting,
        "is_active": any(state.doing for state in heard) or bool(heard and waiting),
    }
    return render_page(
        request,
        "experiments/workers.html",
        region="experiments/partials/worker-list.html",
        context=context,
    )
