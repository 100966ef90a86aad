"""Annotation pages: one item per page, blind until it is answered."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.accounts.permissions import get_user
from webapp.accounts.roles import ANSWER
from webapp.audit import annotation_queue
from webapp.audit.auditor_report import find_own_quality
from webapp.audit.forms import AnswerForm, make_answer_form, to_item_choice, to_shown_letter
from webapp.audit.item_presenter import format_answer, list_revealed_facts, make_item_view
from webapp.audit.models import Answer, Item
from webapp.audit.rendering import remember_differences
from webapp.audit.report_presenter import make_own_line
from webapp.audit.selectors import find_own_answer, get_assigned_item, read_hidden_facts
from webapp.htmx import render_page_or_partial

require_annotate: Final = permission_required(ANSWER, raise_exception=True)
"""Decorator of a view for auditors."""

_LOST = (
    "This item has been reassigned, or its batch was closed. Your answer is kept in the item's "
    "history and does not count."
)


@require_safe
@never_cache
@require_annotate
def show_next_item(request: HttpRequest, pk: int) -> HttpResponse:
    """Go to the next item, or say that nothing is left."""
    person = get_user(request)
    batch = get_object_or_404(annotation_queue.get_assigned_batches(person), pk=pk)
    item = annotation_queue.lease_next_item(batch, person)
    if item is not None:
        return redirect("audit_item", pk=pk, number=item.number)
    context = {
        "batch": batch,
        "progress": annotation_queue.compute_progress(batch, person),
        "last": annotation_queue.get_last_answer(batch, person),
        "quality": make_own_line(find_own_quality(batch, person)),
    }
    return render(request, "audit/batch_complete.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@require_annotate
def annotate_item(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Show an item that the user holds, or their answer to it, and accept their answer."""
    person = get_user(request)
    found = get_assigned_item(person, pk, number)
    answered = find_own_answer(found, person)
    if request.method == "POST":
        return _save_answer(request, person, found)
    if answered is not None:
        return _render_answered(request, person, found, answered)
    if found.holder_id != person.pk or found.is_answered:
        messages.info(request, "This item has been reassigned.")
        return redirect("annotate", pk=pk)
    return _render_item(
        request, person, found, make_answer_form(found.batch.kind, initial=_build_form_draft(found))
    )


def _save_answer(request: HttpRequest, person: User, found: Item) -> HttpResponse:
    form = make_answer_form(found.batch.kind, request.POST)
    if not form.is_valid():
        if found.holder_id != person.pk or found.is_answered:
            return redirect("annotate", pk=found.batch_id)
        return _render_item(request, person, found, form, status=422)
    is_saved = annotation_queue.submit_answer(found, person, form.make_answer(found))
    if is_saved and found.batch.reveals_at_once and "stay" in request.POST:
        return redirect("audit_item", pk=found.batch_id, number=found.number)
    if find_own_answer(found, person) is None:
        messages.warning(request, _LOST)
    return redirect("annotate", pk=found.batch_id)


def _build_form_draft(found: Item) -> dict[str, Any]:
    draft = dict(found.draft)
    if "choice" in draft:
        draft["choice"] = to_shown_letter(draft["choice"], found)
    if isinstance(draft.get("points"), float):
        draft["points"] = f"{draft['points']:g}"
    return {name: value for name, value in draft.items() if value not in (None, "")} | {
        "seconds": round(found.seconds)
    }


def _render_item(
    request: HttpRequest, person: User, found: Item, form: AnswerForm, *, status: int = 200
) -> HttpResponse:
    differences = remember_differences(request)
    context = {
        "batch": found.batch,
        "item": make_item_view(found, found.batch, differences=differences),
        "form": form,
        "differences": differences,
        "is_restored": not form.is_bound and annotation_queue.has_draft(found),
        "progress": annotation_queue.compute_progress(found.batch, person),
        "last": annotation_queue.get_last_answer(found.batch, person),
    }
    page = render_page_or_partial(
        request, "audit/annotate.html", region="audit/_item.html", context=context
    )
    page.status_code = status
    return page


def _render_answered(
    request: HttpRequest, person: User, found: Item, answered: Answer
) -> HttpResponse:
    facts = []
    if answered.revealed is not None or found.batch.status == "closed":
        facts = list_revealed_facts(found, read_hidden_facts(found))
    context = {
        "batch": found.batch,
        "item": make_item_view(found, found.batch),
        "answer": answered,
        "said": format_answer(answered, found),
        "facts": facts,
        "withheld": "" if facts else annotation_queue.explain_withheld(found, person),
        "progress": annotation_queue.compute_progress(found.batch, person),
    }
    return render(request, "audit/annotation_detail.html", context)


@require_POST
@require_annotate
def save_draft(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Save what is filled in so far, which htmx sends while the user types, or discard it."""
    person = get_user(request)
    found = get_assigned_item(person, pk, number)
    if "discard" in request.POST:
        annotation_queue.save_draft(found, person, {}, found.seconds)
        return redirect("audit_item", pk=pk, number=number)
    form = make_answer_form(found.batch.kind, request.POST)
    form.is_valid()
    values = form.cleaned_data
    given = {name: value for name, value in values.items() if name != "seconds"}
    if "choice" in given:
        given["choice"] = to_item_choice(given["choice"], found)
    kept = annotation_queue.save_draft(found, person, given, values.get("seconds") or 0.0)
    if kept:
        said = f"Draft saved {timezone.localtime():%H:%M:%S}."
        return HttpResponse(said, content_type="text/plain; charset=utf-8")
    # The last draft may arrive after the answer.
    is_answered = find_own_answer(found, person) is not None
    return HttpResponse(status=204 if is_answered else 409)


@require_POST
@require_annotate
def skip_item(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Return an item unanswered."""
    person = get_user(request)
    annotation_queue.skip_item(get_assigned_item(person, pk, number), person)
    return redirect("annotate", pk=pk)


@require_POST
@require_annotate
def requeue_skipped(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the skipped items to their auditor again."""
    person = get_user(request)
    batch = get_object_or_404(annotation_queue.get_assigned_batches(person), pk=pk)
    annotation_queue.requeue_skipped(batch, person)
    return redirect("annotate", pk=pk)


@require_POST
@require_annotate
def undo_answer(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Undo an answer and restore it as a draft."""
    person = get_user(request)
    found = get_assigned_item(person, pk, number)
    if annotation_queue.undo_answer(found, person):
        return redirect("audit_item", pk=pk, number=number)
    messages.info(request, "This answer is final: its reveal was viewed, or the batch is closed.")
    return redirect("annotate", pk=pk)


@require_POST
@require_annotate
def reveal_item(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Show the scores and verdicts of an answered item."""
    person = get_user(request)
    found = get_assigned_item(person, pk, number)
    if find_own_answer(found, person) is None:
        raise Http404("Answer the item first.")
    annotation_queue.reveal_item(found, person)
    return redirect("audit_item", pk=pk, number=number)
