"""Pages about experiments."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from webapp.experiments.progress import (
    count_live_workers,
    experiments_progress,
    is_active,
    needs_workers,
    worker_states,
)
from webapp.people.access import sees, visible_experiments
from webapp.regions import render_page

_EXPERIMENTS_ON_A_PAGE = 10


@require_safe
@sees
def index(request: HttpRequest) -> HttpResponse:
    """Show how far all experiments are, newest first."""
    rows = visible_experiments(request.user).select_related("owner").prefetch_related("iterations")
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
@sees
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
