"""Pages about experiments."""

from django.core.paginator import Paginator
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from webapp.experiments.models import Experiment
from webapp.experiments.progress import (
    count_live_workers,
    experiments_progress,
    is_active,
    needs_workers,
    worker_states,
)
from webapp.regions import render_page

_EXPERIMENTS_ON_A_PAGE = 10


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show how far all experiments are, newest first."""
    rows = Experiment.objects.select_related("owner").prefetch_related("iterations")
    page = Paginator(rows, _EXPERIMENTS_ON_A_PAGE).get_page(request.GET.get("page"))
    experiments = experiments_progress(page.object_list)
    context = {
        "page": page,
        "experiments": experiments,
        "is_active": any(is_active(experiment.row) for experiment in experiments),
        "lacks_workers": any(needs_workers(experiment.row) for experiment in experiments)
        and not count_live_workers(),
    }
    return render_page(
        request,
        "experiments/index.html",
        region="experiments/partials/experiment-list.html",
        context=context,
    )


@require_safe
def workers(request: HttpRequest) -> HttpResponse:
    """Show the workers and what each does."""
    states = worker_states()
    context = {
        "workers": states,
        "is_active": any(state.doing and not state.is_silent for state in states),
    }
    return render_page(
        request,
        "experiments/workers.html",
        region="experiments/partials/worker-list.html",
        context=context,
    )


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Say whether the site and its database answer."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return HttpResponse("the database does not answer", status=503, content_type="text/plain")
    return HttpResponse("ok", content_type="text/plain")
