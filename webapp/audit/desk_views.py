"""The desk: one item a screen, blind until it is answered."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.audit import desk
from webapp.audit.forms import AnswerForm, answer_form, swap, unswap
from webapp.audit.models import Answer, Batch, Item, Truth
from webapp.audit.sheets import make_sheet, reveal_facts, say_answer
from webapp.people.roles import ANSWER
from webapp.people.signed_in import person_of
from webapp.regions import render_page

answers: Final = permission_required(ANSWER, raise_exception=True)
"""Decorator of a view for auditors."""

_LOST = (
    "Somebody else has this item now, because it lay for too long, or the batch was closed. "
    "What you answered is kept in the item's history and does not count."
)


def _find(person: User, pk: int, number: int) -> Item:
    """Find an item of a batch that a person is assigned to.

    Raises:
        Http404: there is none, or it is not theirs.
    """
    batch = get_object_or_404(desk.assigned_batches(person), pk=pk)
    item = get_object_or_404(batch.items, number=number)
    item.batch = batch
    return item


@require_safe
@never_cache
@answers
def next_item(request: HttpRequest, pk: int) -> HttpResponse:
    """Go to the next item, or say that nothing is left."""
    person = person_of(request)
    batch = get_object_or_404(desk.assigned_batches(person), pk=pk)
    item = desk.take_next(batch, person)
    if item is not None:
        return redirect("audit_item", pk=pk, number=item.number)
    context = {
        "batch": batch,
        "progress": desk.progress_of(batch, person),
        "last": desk.last_answer(batch, person),
    }
    return render(request, "audit/done.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@answers
def item(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Show an item that the person holds, or their answer to it; take their answer."""
    person = person_of(request)
    found = _find(person, pk, number)
    answered = Answer.objects.filter(item=found, auditor=person).first()
    if request.method == "POST":
        return _take_answer(request, person, found)
    if answered is not None:
        return _show_answered(request, person, found, answered)
    if found.holder_id != person.pk or found.is_answered:
        messages.info(request, "That item is not yours now.")
        return redirect("audit_desk", pk=pk)
    return _show_desk(request, person, found, answer_form(found.batch.kind, initial=_draft(found)))


def _take_answer(request: HttpRequest, person: User, found: Item) -> HttpResponse:
    form = answer_form(found.batch.kind, request.POST)
    if not form.is_valid():
        if found.holder_id != person.pk or found.is_answered:
            return redirect("audit_desk", pk=found.batch_id)
        return _show_desk(request, person, found, form, status=422)
    if desk.answer(found, person, form.given(found)):
        return redirect("audit_item", pk=found.batch_id, number=found.number)
    if not Answer.objects.filter(item=found, auditor=person).exists():
        messages.warning(request, _LOST)
    return redirect("audit_desk", pk=found.batch_id)


def _draft(found: Item) -> dict[str, Any]:
    draft = dict(found.draft)
    if "choice" in draft:
        draft["choice"] = swap(draft["choice"], found)
    if isinstance(draft.get("points"), float):
        draft["points"] = f"{draft['points']:g}"
    return {name: value for name, value in draft.items() if value not in (None, "")} | {
        "seconds": round(found.seconds)
    }


def _show_desk(
    request: HttpRequest, person: User, found: Item, form: AnswerForm, *, status: int = 200
) -> HttpResponse:
    differences = request.GET.get("differences") == "1"
    context = {
        "batch": found.batch,
        "item": make_sheet(found, found.batch, differences=differences),
        "form": form,
        "differences": differences,
        "progress": desk.progress_of(found.batch, person),
        "last": desk.last_answer(found.batch, person),
    }
    page = render_page(
        request, "audit/desk.html", region="audit/partials/item.html", context=context
    )
    page.status_code = status
    return page


def _show_answered(
    request: HttpRequest, person: User, found: Item, answered: Answer
) -> HttpResponse:
    facts = []
    if answered.revealed is not None or found.batch.status == "closed":
        facts = reveal_facts(found, Truth.objects.get(item=found).facts)
    context = {
        "batch": found.batch,
        "item": make_sheet(found, found.batch),
        "answer": answered,
        "said": say_answer(answered, found),
        "facts": facts,
        "withheld": "" if facts else desk.withheld_because(found, person),
        "progress": desk.progress_of(found.batch, person),
    }
    return render(request, "audit/answered.html", context)


@require_POST
@answers
def keep_draft(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Keep what is filled in so far; htmx sends it while somebody fills it in."""
    person = person_of(request)
    found = _find(person, pk, number)
    form = answer_form(found.batch.kind, request.POST)
    form.is_valid()
    values = form.cleaned_data
    given = {name: value for name, value in values.items() if name != "seconds"}
    if "choice" in given:
        given["choice"] = unswap(given["choice"], found)
    kept = desk.keep_draft(found, person, given, values.get("seconds") or 0.0)
    # The last draft may come behind the answer itself.
    is_answered = Answer.objects.filter(item=found, auditor=person).exists()
    return HttpResponse(status=204 if kept or is_answered else 409)


@require_POST
@answers
def skip(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Give an item back unanswered."""
    person = person_of(request)
    desk.skip(_find(person, pk, number), person)
    return redirect("audit_desk", pk=pk)


@require_POST
@answers
def take_skipped_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Put what was skipped before its auditor again."""
    person = person_of(request)
    batch = get_object_or_404(desk.assigned_batches(person), pk=pk)
    desk.take_skipped_again(batch, person)
    return redirect("audit_desk", pk=pk)


@require_POST
@answers
def undo(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Take an answer back and fill it in again."""
    person = person_of(request)
    found = _find(person, pk, number)
    if desk.take_back(found, person):
        return redirect("audit_item", pk=pk, number=number)
    messages.info(request, "That answer stands: its reveal was seen, or the batch is closed.")
    return redirect("audit_desk", pk=pk)


@require_POST
@answers
def reveal(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Show what judge and meta-judge said of an answered item."""
    person = person_of(request)
    found = _find(person, pk, number)
    if not Answer.objects.filter(item=found, auditor=person).exists():
        raise Http404("answer it first")
    desk.reveal(found, person)
    return redirect("audit_item", pk=pk, number=number)


def my_batches(person: User) -> list[tuple[Batch, desk.Progress]]:
    """Batches that a person answers, with how far they are."""
    return [(batch, desk.progress_of(batch, person)) for batch in desk.assigned_batches(person)]
