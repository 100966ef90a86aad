"""Pages about experiments."""

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.experiments.models import Experiment


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """List all experiments with their iterations."""
    experiments = Experiment.objects.select_related("owner").prefetch_related("iterations")
    return render(request, "experiments/index.html", {"experiments": experiments})


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Say whether the site and its database answer."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return HttpResponse("the database does not answer", status=503, content_type="text/plain")
    return HttpResponse("ok", content_type="text/plain")
