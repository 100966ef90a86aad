"""Pages on which models are tried, and published."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from meta_reward_core.recipes import parse_recipe
from webapp.experiments.models import Experiment, Order, OrderKind
from webapp.experiments.orders import place_order
from webapp.experiments.progress import count_live_workers
from webapp.people.access import (
    find_experiment,
    find_to_steer,
    may_steer,
    runs,
    sees,
)
from webapp.people.events import note
from webapp.people.models import EventKind
from webapp.people.roles import RUN
from webapp.people.signed_in import person_of
from webapp.regions import render_page
from webapp.trying import published, tries
from webapp.trying.conversations import (
    conversations_of,
    tries_of,
    turns_of,
    why_not_followed,
    with_earlier_turns,
)
from webapp.trying.forms import (
    FollowForm,
    PublishForm,
    TryForm,
    first_values,
    turn_values,
    values_of,
)

_TRIES_ON_A_PAGE = 20


@require_http_methods(["GET", "HEAD", "POST"])
@sees
def try_models(request: HttpRequest, name: str) -> HttpResponse:
    """Ask two models of an experiment; below, what was asked before."""
    experiment = find_experiment(request.user, name)
    may_run = request.user.has_perm(RUN)
    made = tries.made_models(experiment)
    if request.method == "POST":
        if not may_run:
            raise PermissionDenied
        form = TryForm(request.POST, made=made)
        if form.is_valid():
            order = _place(request, experiment, form)
            return redirect("try_result", name=name, number=order.pk)
    else:
        form = TryForm(initial=_first_values(request, experiment, made), made=made)
    context = {
        "experiment": experiment,
        "form": form,
        "may_run": may_run,
        "has_two_models": len(made) > 1,
        **_past_tries(request, experiment),
    }
    return render_page(
        request,
        "trying/try.html",
        region="trying/partials/past-tries.html",
        context=context,
    )


def _place(request: HttpRequest, experiment: Experiment, form: TryForm) -> Order:
    by = person_of(request)
    return place_order(OrderKind.CHAT, by=by, experiment=experiment, wish=form.wish())


def _past_tries(request: HttpRequest, experiment: Experiment) -> dict[str, Any]:
    rows = conversations_of(experiment)
    page = Paginator(rows, _TRIES_ON_A_PAGE).get_page(request.GET.get("page"))
    found = [tries.read_line(order) for order in page.object_list]
    return {"page": page, "lines": found, "is_active": any(one.is_active for one in found)}


def _asked_again(request: HttpRequest, among: QuerySet[Order]) -> Order | None:
    """The try that `again` names, if it is among those that can be meant."""
    again = request.GET.get("again", "")
    return among.filter(pk=again).first() if again.isdecimal() and len(again) < 16 else None


def _first_values(request: HttpRequest, experiment: Experiment, made: list[int]) -> dict[str, Any]:
    """Begin with an earlier try where `again` names one, else with the recipe's own values."""
    earlier = _asked_again(request, tries_of(experiment))
    if earlier is not None:
        return values_of(earlier.wish)
    return first_values(parse_recipe(experiment.recipe, origin=experiment.name), made)


@require_http_methods(["GET", "HEAD", "POST"])
@sees
def try_result(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show a conversation up to a try: all answers side by side, what judges said, and a form."""
    experiment = find_experiment(request.user, name)
    order = get_object_or_404(with_earlier_turns(tries_of(experiment)), pk=number)
    turns = turns_of(order)
    hindrance = why_not_followed(turns)
    if request.method == "POST":
        if not request.user.has_perm(RUN):
            raise PermissionDenied
        if hindrance is not None:
            messages.error(request, hindrance)
            return redirect("try_result", name=name, number=number)
        form = FollowForm(request.POST, models=order.wish["models"])
        if form.is_valid():
            return _follow(request, order, form, turn=len(turns) + 1)
    else:
        initial = _next_values(request, order)
        form = FollowForm(initial=initial, models=order.wish["models"])
    *earlier, shown = [tries.read_try(turn) for turn in turns]
    context = {
        "experiment": experiment,
        "earlier": earlier,
        "try": shown,
        "followers": tries.read_followers(order),
        "form": form,
        "hindrance": hindrance,
        "may_cancel": tries.may_cancel(person_of(request), order),
        "may_run": request.user.has_perm(RUN),
        "lacks_workers": shown.is_active and not count_live_workers(),
    }
    return render_page(
        request,
        "trying/result.html",
        region="trying/partials/try-result.html",
        context=context,
    )


def _follow(request: HttpRequest, last: Order, form: FollowForm, *, turn: int) -> HttpResponse:
    order = place_order(
        OrderKind.CHAT,
        by=person_of(request),
        experiment=last.experiment,
        wish=form.wish(),
        follows=last,
    )
    address = reverse("try_result", args=[order.subject, order.pk])
    return redirect(f"{address}#turn-{turn}")


def _next_values(request: HttpRequest, last: Order) -> dict[str, Any]:
    """Begin as in the turn before without its words, or with a follow-up that `again` names."""
    follower = _asked_again(request, last.followed_by.all())
    if follower is not None:
        return turn_values(follower.wish)
    return turn_values(last.wish) | {"prompt": ""}


@require_POST
@runs
def cancel_try(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Cancel a try that waits or is being carried out."""
    experiment = find_experiment(request.user, name)
    order = get_object_or_404(tries_of(experiment).select_related("experiment"), pk=number)
    person = person_of(request)
    if order.by_id != person.pk and not may_steer(person, experiment):
        raise PermissionDenied("somebody else asked for this: ask them, or an admin")
    if not tries.cancel(order, by=person):
        messages.info(request, "It had ended already.")
    return redirect("try_result", name=name, number=number)


@require_http_methods(["GET", "HEAD", "POST"])
@sees
def publish(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Publish a model: a folder, an archive and, where a token is configured, a repository."""
    if request.method == "POST":
        experiment = find_to_steer(request.user, name)
    else:
        experiment = find_experiment(request.user, name)
    iteration = get_object_or_404(experiment.iterations, number=number)
    is_made = number in tries.made_models(experiment)
    has_hub = published.has_hub()
    sent = request.POST if request.method == "POST" else None
    form = PublishForm(sent, has_hub=has_hub)
    if request.method == "POST" and is_made and form.is_valid():
        place_order(
            OrderKind.PUBLISH,
            by=person_of(request),
            experiment=experiment,
            wish=form.wish(number=number),
        )
        return redirect("publish", name=name, number=number)
    publications = published.read_publications(experiment, number)
    context = {
        "experiment": experiment,
        "iteration": iteration,
        "form": form,
        "is_made": is_made,
        "has_hub": has_hub,
        "may_publish": may_steer(request.user, experiment),
        "publications": publications,
        "archive": published.find_archive(experiment, number),
        "is_active": any(one.is_active for one in publications),
    }
    return render_page(
        request,
        "trying/publish.html",
        region="trying/partials/publications.html",
        context=context,
    )


@require_safe
@sees
def published_archive(request: HttpRequest, name: str, number: int) -> FileResponse:
    """Hand out the archive of a published model."""
    experiment = find_experiment(request.user, name)
    archive = published.find_archive(experiment, number)
    if archive is None:
        raise Http404("this model is not published")
    note(EventKind.EXPORTED, name, detail=f"archive of M{number}")
    return FileResponse(
        archive.path.open("rb"), as_attachment=True, filename=f"{name}-M{number}.tar"
    )
