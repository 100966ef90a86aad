"""The page on which an experiment is handed over, or hidden from others."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from webapp.experiments.ownership import OwnershipForm, hand_over
from webapp.people.access import find_to_hand_over, runs, visible_experiments
from webapp.people.signed_in import person_of


@require_http_methods(["GET", "HEAD", "POST"])
@runs
def ownership(request: HttpRequest, name: str) -> HttpResponse:
    """Say who owns an experiment and who sees it."""
    row = find_to_hand_over(request.user, name)
    form = OwnershipForm(request.POST if request.method == "POST" else None, experiment=row)
    if request.method != "POST" or not form.is_valid():
        return render(request, "experiments/ownership.html", {"experiment": row, "ownership": form})
    changed = hand_over(row, by=person_of(request), **form.cleaned_data)
    messages.success(request, "Saved." if changed else "Nothing was changed.")
    if visible_experiments(request.user).filter(pk=row.pk).exists():
        return redirect("experiment", name)
    return redirect("index")
