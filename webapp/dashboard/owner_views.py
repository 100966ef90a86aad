"""The page on which an experiment is handed over, or hidden from others."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from webapp.accounts.current_user import get_user
from webapp.accounts.ownership import OwnershipForm, transfer_ownership
from webapp.accounts.permissions import (
    get_transferable_experiment,
    get_visible_experiments,
    require_run,
)


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def edit_ownership(request: HttpRequest, name: str) -> HttpResponse:
    """Say who owns an experiment and who sees it."""
    row = get_transferable_experiment(request.user, name)
    form = OwnershipForm(request.POST if request.method == "POST" else None, experiment=row)
    if request.method != "POST" or not form.is_valid():
        return render(request, "dashboard/ownership.html", {"experiment": row, "ownership": form})
    changed = transfer_ownership(row, by=get_user(request), **form.cleaned_data)
    messages.success(request, "Saved." if changed else "No changes were made.")
    if get_visible_experiments(request.user).filter(pk=row.pk).exists():
        return redirect("experiment", name)
    return redirect("index")
