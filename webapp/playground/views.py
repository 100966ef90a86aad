"""Pages for trying and publishing models."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from meta_reward_core.recipes.loader import parse_stored_recipe
from webapp.accounts.permissions import (
    can_control,
    get_controllable_experiment,
    get_user,
    get_viewable_experiment,
    require_run,
    require_view,
)
from webapp.accounts.reauthentication import ask_to_confirm, is_recent
from webapp.accounts.roles import RUN
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.experiments.jobs import cancel_job, enqueue_job
from webapp.experiments.models import Experiment, Job, JobKind, VoteChoice
from webapp.experiments.progress import count_live_workers
from webapp.htmx import render_page_or_partial
from webapp.playground import presenter
from webapp.playground import publications as published
from webapp.playground.conversations import (
    explain_not_followable,
    get_conversations,
    get_playground_turns,
    list_turns,
    prefetch_earlier_turns,
    store_vote,
)
from webapp.playground.forms import (
    ChatForm,
    FollowForm,
    PublishForm,
    get_form_values,
    get_initial_values,
    get_turn_values,
)

_TRIES_ON_A_PAGE = 20


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def show_playground(request: HttpRequest, name: str) -> HttpResponse:
    """Send a prompt to two models, and list earlier conversations."""
    experiment = get_viewable_experiment(request.user, name)
    may_run = request.user.has_perm(RUN)
    made = presenter.list_made_models(experiment)
    if request.method == "POST":
        if not may_run:
            raise PermissionDenied
        form = ChatForm(request.POST, made=made)
        if form.is_valid():
            job = _enqueue(request, experiment, form)
            return redirect("conversation", name=name, number=job.pk)
    else:
        form = ChatForm(initial=_get_first_values(request, experiment, made), made=made)
    context = {
        "experiment": experiment,
        "form": form,
        "may_run": may_run,
        "has_two_models": len(made) > 1,
        **_list_past_conversations(request, experiment),
    }
    return render_page_or_partial(
        request,
        "playground/new.html",
        region="playground/_conversation_list.html",
        context=context,
    )


def _enqueue(request: HttpRequest, experiment: Experiment, form: ChatForm) -> Job:
    by = get_user(request)
    return enqueue_job(JobKind.CHAT, by=by, experiment=experiment, payload=form.build_payload())


def _list_past_conversations(request: HttpRequest, experiment: Experiment) -> dict[str, Any]:
    rows = get_conversations(experiment)
    page = Paginator(rows, _TRIES_ON_A_PAGE).get_page(request.GET.get("page"))
    found = [presenter.read_conversation(job) for job in page.object_list]
    return {"page": page, "lines": found, "is_active": any(one.is_active for one in found)}


def _find_repeated(request: HttpRequest, among: QuerySet[Job]) -> Job | None:
    """Find the turn whose id is given in `again`."""
    again = request.GET.get("again", "")
    return among.filter(pk=again).first() if again.isdecimal() and len(again) < 16 else None


def _get_first_values(
    request: HttpRequest, experiment: Experiment, made: list[int]
) -> dict[str, Any]:
    """Return the values of the turn in `again`, else the recipe's values."""
    earlier = _find_repeated(request, get_playground_turns(experiment))
    if earlier is not None:
        return get_form_values(earlier.payload)
    return get_initial_values(parse_stored_recipe(experiment.recipe, origin=experiment.name), made)


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def show_conversation(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show a conversation up to a turn: responses side by side, judgments, and a form."""
    experiment = get_viewable_experiment(request.user, name)
    job = get_object_or_404(prefetch_earlier_turns(get_playground_turns(experiment)), pk=number)
    turns = list_turns(job)
    hindrance = explain_not_followable(turns)
    if request.method == "POST":
        if not request.user.has_perm(RUN):
            raise PermissionDenied
        if "vote" in request.POST:
            return _vote(request, job, turns)
        if hindrance is not None:
            messages.error(request, hindrance)
            return redirect("conversation", name=name, number=number)
        form = FollowForm(request.POST, models=job.payload["models"])
        if form.is_valid():
            return _follow(request, job, form, turn=len(turns) + 1)
    else:
        initial = _get_next_values(request, job)
        form = FollowForm(initial=initial, models=job.payload["models"])
    *earlier, shown = presenter.read_turns(turns, get_user(request))
    context = {
        "experiment": experiment,
        "earlier": earlier,
        "try": shown,
        "followers": presenter.read_followers(job),
        "form": form,
        "hindrance": hindrance,
        "may_cancel": presenter.can_cancel(get_user(request), job),
        "may_run": request.user.has_perm(RUN),
        "lacks_workers": shown.is_active and not count_live_workers(),
    }
    return render_page_or_partial(
        request,
        "playground/conversation.html",
        region="playground/_conversation.html",
        context=context,
    )


def _vote(request: HttpRequest, last: Job, turns: list[Job]) -> HttpResponse:
    """Store which response of a turn the user prefers."""
    choice, chosen = request.POST["vote"], request.POST.get("turn", "")
    number, turn = next(
        ((at, turn) for at, turn in enumerate(turns, start=1) if str(turn.pk) == chosen), (0, None)
    )
    if turn is None or choice not in VoteChoice.values or not presenter.can_vote(turn):
        raise Http404
    store_vote(turn, get_user(request), choice)
    messages.success(request, f"Vote on turn {number} stored.")
    address = reverse("conversation", args=[last.experiment_name, last.pk])
    return redirect(f"{address}#turn-{number}")


def _follow(request: HttpRequest, last: Job, form: FollowForm, *, turn: int) -> HttpResponse:
    job = enqueue_job(
        JobKind.CHAT,
        by=get_user(request),
        experiment=last.experiment,
        payload=form.build_payload(),
        follows=last,
    )
    address = reverse("conversation", args=[job.experiment_name, job.pk])
    return redirect(f"{address}#turn-{turn}")


def _get_next_values(request: HttpRequest, last: Job) -> dict[str, Any]:
    """Return the values of the previous turn without its text, or of the turn in `again`."""
    follower = _find_repeated(request, last.followed_by.all())
    if follower is not None:
        return get_turn_values(follower.payload)
    return get_turn_values(last.payload) | {"prompt": ""}


@require_POST
@require_run
def cancel_playground_turn(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Cancel a turn that is pending or running."""
    experiment = get_viewable_experiment(request.user, name)
    job = get_object_or_404(
        get_playground_turns(experiment).select_related("experiment"), pk=number
    )
    person = get_user(request)
    if job.created_by_id != person.pk and not can_control(person, experiment):
        raise PermissionDenied("Another user requested this job. Ask that user or an admin.")
    if not cancel_job(job, by=person):
        messages.info(request, "It had already finished.")
    return redirect("conversation", name=name, number=number)


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def publish(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Publish a model: a folder, an archive and, if a token is configured, a repository."""
    if request.method == "POST":
        experiment = get_controllable_experiment(request.user, name)
    else:
        experiment = get_viewable_experiment(request.user, name)
    iteration = get_object_or_404(experiment.iterations, number=number)
    is_made = number in presenter.list_made_models(experiment)
    has_hub = published.has_hub()
    sent = request.POST if request.method == "POST" else None
    form = PublishForm(sent, has_hub=has_hub)
    if request.method == "POST" and is_made and form.is_valid():
        if form.cleaned_data.get("repository") and not is_recent(request):
            return ask_to_confirm(request, then=request.path)
        enqueue_job(
            JobKind.PUBLISH,
            by=get_user(request),
            experiment=experiment,
            payload=form.build_payload(number=number),
        )
        return redirect("publish", name=name, number=number)
    publications = published.read_publications(experiment, number)
    context = {
        "experiment": experiment,
        "iteration": iteration,
        "form": form,
        "is_made": is_made,
        "has_hub": has_hub,
        "may_publish": can_control(request.user, experiment),
        "publications": publications,
        "archive": published.find_archive(experiment, number),
        "is_active": any(one.is_active for one in publications),
    }
    return render_page_or_partial(
        request,
        "playground/publish.html",
        region="playground/_publications.html",
        context=context,
    )


@require_safe
@require_view
def send_archive(request: HttpRequest, name: str, number: int) -> FileResponse:
    """Download the archive of a published model."""
    experiment = get_viewable_experiment(request.user, name)
    archive = published.find_archive(experiment, number)
    if archive is None:
        raise Http404("This model has not been published.")
    log_event(Action.EXPORTED, name, detail=f"archive of M{number}")
    return FileResponse(
        archive.path.open("rb"), as_attachment=True, filename=f"{name}-M{number}.tar"
    )
