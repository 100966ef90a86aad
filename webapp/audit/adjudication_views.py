"""Pages for review leads: item lists, and decisions between answers."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.text import Truncator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from meta_reward_core.errors import InputError
from webapp.accounts.permissions import get_user, require_view
from webapp.accounts.roles import ADJUDICATE
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.audit import adjudication
from webapp.audit.adjudication import MAX_REASON_CHARS, explain_refusal
from webapp.audit.exports import export_answers_to
from webapp.audit.forms import (
    AdjudicationForm,
    make_adjudication_form,
    to_item_choice,
    to_shown_letter,
)
from webapp.audit.item_presenter import make_item_view
from webapp.audit.models import Item, ItemKind
from webapp.audit.rendering import remember_decision, remember_differences, was_just_decided
from webapp.audit.review_items import (
    ReviewFilterForm,
    annotate_disagreements,
    count_progress,
    count_to_adjudicate,
    find_item,
    find_neighbours,
    get_item_address,
    get_reviewable_items,
    select_items,
)
from webapp.audit.review_presenter import (
    describe_undone,
    encode_filter,
    format_decision,
    format_items_csv,
    get_other_claimant,
    list_disagreements,
    list_facts,
    make_answer_views,
    make_filter_chips,
    make_headings,
    make_history,
    make_links,
    make_review_rows,
    summarize_answers,
)
from webapp.htmx import render_page_or_partial

require_adjudicate: Final = permission_required(ADJUDICATE, raise_exception=True)
"""Decorator of a view for review leads."""

_ROWS_ON_A_PAGE: Final = 50
_MAX_CSV_ROWS: Final = 20_000
_REASON_CHARS: Final = 80


@require_safe
@require_view
def list_items(request: HttpRequest) -> HttpResponse:
    """List audit items; without a filter, those that need a decision."""
    person = get_user(request)
    form = ReviewFilterForm(person, request.GET or None)
    values = _read_filter(form)
    items = select_items(person, values)
    page = Paginator(items, _ROWS_ON_A_PAGE).get_page(request.GET.get("page"))
    last = _find_last(person)
    context = {
        "form": form,
        "rows": make_review_rows(page.object_list, person),
        "page": page,
        "query": encode_filter(values),
        "to_adjudicate": count_to_adjudicate(person),
        "is_filtered": bool(encode_filter(values)),
        "is_queue": not values.get("state") and values.get("disagreement") != "all",
        "chips": make_filter_chips(form, values),
        "headings": make_headings(values),
        "last": last,
        "is_recent": last is not None and was_just_decided(request, last.pk),
        "max_csv_rows": _MAX_CSV_ROWS,
    }
    status = 422 if form.errors else 200
    return render(request, "audit/items.html", context, status=status)


@require_safe
@require_view
def download_items(request: HttpRequest) -> HttpResponse:
    """Send the listed items as CSV."""
    person = get_user(request)
    values = _read_filter(ReviewFilterForm(person, request.GET or None))
    text = format_items_csv(select_items(person, values)[:_MAX_CSV_ROWS], person)
    return _send_csv("audit-items", text.encode(), values)


@require_safe
@require_view
def download_answers(request: HttpRequest) -> HttpResponse:
    """Send all answers and comments to the listed items as CSV, one row per answer."""
    person = get_user(request)
    values = _read_filter(ReviewFilterForm(person, request.GET or None))
    content = export_answers_to(select_items(person, values)[:_MAX_CSV_ROWS])
    return _send_csv("audit-answers", content, values)


def _send_csv(name: str, content: bytes, values: dict[str, Any]) -> HttpResponse:
    log_event(Action.EXPORTED, name.replace("-", " "), detail=encode_filter(values)[:200])
    return HttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.csv"',
            "X-Content-Type-Options": "nosniff",
        },
    )


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@require_view
def review_item(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Show an item with all details, and accept the decision of a review lead."""
    person = get_user(request)
    item = _get_item(person, pk, number)
    if request.method == "POST":
        return _save_decision(request, person, item)
    if person.has_perm(ADJUDICATE):
        adjudication.release_other_items(item, person)
        if not item.adjudicated and not explain_refusal(item):
            adjudication.claim_item(item, person)
    return _render_item(request, person, item, _make_form(item, person))


def _get_item(person: User, pk: int, number: int) -> Item:
    """Find an item of a visible batch; a repeat resolves to its original item.

    Raises:
        Http404: it does not exist, or the user may still be asked to answer it.
    """
    found = find_item(pk, number)
    if found is None:
        raise Http404("Item not found.")
    items = annotate_disagreements(get_reviewable_items(person)).select_related(
        "batch__experiment", "answer", "hidden_verdict", "claimed_by"
    )
    item: Item = get_object_or_404(items, pk=found.original_id or found.pk)
    return item


def _make_form(item: Item, person: User) -> AdjudicationForm:
    draft = adjudication.find_draft(item, person)
    choice, reason = (draft.choice, draft.reason) if draft else (item.adjudicated, "")
    shown = to_shown_letter(choice, item) if item.batch.kind == ItemKind.JUDGMENTS else choice
    name = "choice" if item.batch.kind == ItemKind.JUDGMENTS else "points"
    initial = {name: shown, "reason": reason, "version": item.adjudication_version}
    return make_adjudication_form(item.batch.kind, initial=initial)


def _save_decision(request: HttpRequest, person: User, item: Item) -> HttpResponse:
    if not person.has_perm(ADJUDICATE):
        raise PermissionDenied
    form = make_adjudication_form(item.batch.kind, request.POST)
    if not form.is_valid():
        return _render_item(request, person, item, form, status=422)
    values = _read_filter(ReviewFilterForm(person, request.GET or None))
    following = find_neighbours(select_items(person, values), item, person)[1]
    try:
        won = adjudication.adjudicate_item(item, form.make_decision(item), by=person)
    except InputError as error:
        form.add_error(None, str(error))
        return _render_item(request, person, item, form, status=422)
    if not won:
        return _render_conflict(request, person, item)
    now = _get_item(person, pk=item.batch_id, number=item.number)
    remember_decision(request, item.pk)
    said = f"Saved: {item}: {format_decision(now)}."
    reason = Truncator(now.adjudication).chars(_REASON_CHARS)
    messages.success(request, f"{said} Reason: {reason}")
    if "stay" in request.POST:
        return redirect(_build_address(item, encode_filter(values)))
    return _redirect_to(following, encode_filter(values))


def _render_conflict(request: HttpRequest, person: User, item: Item) -> HttpResponse:
    """Show another lead's decision, and keep this lead's input as a draft."""
    now = _get_item(person, item.batch_id, item.number)
    return _render_item(request, person, now, _make_form(now, person), status=409)


def _render_item(
    request: HttpRequest, person: User, item: Item, form: AdjudicationForm, *, status: int = 200
) -> HttpResponse:
    values = _read_filter(ReviewFilterForm(person, request.GET or None))
    listed = select_items(person, values)
    previous, following = find_neighbours(listed, item, person)
    keys = list(listed.values_list("pk", flat=True))
    differences = remember_differences(request)
    may_adjudicate = person.has_perm(ADJUDICATE)
    last = _find_last(person)
    is_own = bool(item.adjudicated) and item.adjudicated_by_id == person.pk
    context = {
        "batch": item.batch,
        "row": item,
        "item": make_item_view(item, item.batch, differences=differences, whole=True),
        "differences": differences,
        "form": form if may_adjudicate else None,
        "refusal": explain_refusal(item),
        "is_conflict": status == 409,
        "reasons": adjudication.list_recent_reasons(person) if may_adjudicate else [],
        "draft": None if form.is_bound or status == 409 else adjudication.find_draft(item, person),
        "decision": format_decision(item),
        "disagreements": list_disagreements(item),
        "answers": make_answer_views(item, person),
        "summary": summarize_answers(item),
        "facts": list_facts(item),
        "links": make_links(item),
        "history": make_history(item),
        "claimed_by": get_other_claimant(item, person),
        "query": encode_filter(values),
        "previous": previous and _build_next_address(previous, encode_filter(values)),
        "listed": len(keys),
        "progress": count_progress(select_items(person, {**values, "state": "all"})),
        "position": keys.index(item.pk) + 1 if item.pk in keys else None,
        "following": following and _build_next_address(following, encode_filter(values)),
        "last": last,
        "is_recent": last is not None and was_just_decided(request, last.pk),
        "may_undo": may_adjudicate and is_own and item != last and not explain_refusal(item),
    }
    page = render_page_or_partial(
        request, "audit/review_item.html", region="audit/_item.html", context=context
    )
    page.status_code = status
    return page


def _find_last(person: User) -> Item | None:
    return adjudication.find_last_decision(person) if person.has_perm(ADJUDICATE) else None


@require_POST
@require_adjudicate
@require_view
def save_adjudication_draft(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Save a lead's unsaved input, which pages send while the lead types, or discard it."""
    person = get_user(request)
    item = _get_item(person, pk, number)
    if "discard" in request.POST:
        adjudication.discard_draft(item, person)
        values = _read_filter(ReviewFilterForm(person, request.GET or None))
        return redirect(_build_address(item, encode_filter(values)))
    form = make_adjudication_form(item.batch.kind, request.POST)
    form.is_valid()
    choice = str(form.cleaned_data.get("choice") or form.cleaned_data.get("points") or "")
    if item.batch.kind == ItemKind.JUDGMENTS:
        choice = to_item_choice(choice, item)
    # A reason that is still too short for a decision is kept as a draft.
    reason = request.POST.get("reason", "")[:MAX_REASON_CHARS]
    version = form.cleaned_data.get("version")
    is_kept = adjudication.receive_draft(
        item, person, choice=choice, reason=reason, version=version
    )
    said = f"Draft saved {timezone.localtime():%H:%M:%S}." if is_kept else ""
    return HttpResponse(said, content_type="text/plain; charset=utf-8")


@require_POST
@require_adjudicate
@require_view
def undo_adjudication(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    """Undo a lead's own decision and keep it as a draft."""
    person = get_user(request)
    item = _get_item(person, pk, number)
    values = _read_filter(ReviewFilterForm(person, request.GET or None))
    undone = format_decision(item)
    try:
        if adjudication.undo_adjudication(item, by=person):
            remember_decision(request, None)
            now = _get_item(person, item.batch_id, item.number)
            messages.success(request, describe_undone(now, undone))
        else:
            messages.warning(
                request,
                f"The decision on {item} was not undone, because another review lead made it.",
            )
    except InputError as error:
        messages.error(request, str(error))
    return redirect(_build_address(item, encode_filter(values)))


def _read_filter(form: ReviewFilterForm) -> dict[str, Any]:
    """Return the valid values of a filter; invalid ones are shown as errors."""
    if not form.is_bound:
        return {}
    form.is_valid()
    return form.cleaned_data


def _build_address(item: Item, query: str) -> str:
    address = reverse("audit_review", args=[item.batch_id, item.number])
    return f"{address}?{query}" if query else address


def _build_next_address(key: int, query: str) -> str:
    return _build_address(get_item_address(key), query)


def _redirect_to(key: int | None, query: str) -> HttpResponse:
    if key is not None:
        return redirect(_build_next_address(key, query))
    address = reverse("audit_items")
    return redirect(f"{address}?{query}" if query else address)
