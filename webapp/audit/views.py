"""Pages for creating audits and reading their results."""

from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from meta_reward_core.errors import InputError, MetaRewardError
from webapp.accounts.permissions import (
    can_control,
    get_controllable_experiment,
    get_user,
    get_viewable_experiment,
    get_visible_experiments,
    require_run,
    require_view,
)
from webapp.accounts.roles import ADJUDICATE, ANSWER, RUN, SEE
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.audit import services
from webapp.audit.auditor_report import AuditorReport, make_auditor_report
from webapp.audit.batch_report import make_report
from webapp.audit.batch_sampling import require_finished
from webapp.audit.exports import FILE_CONTENTS, FORMATS, export_batch
from webapp.audit.forms import (
    AuditorsForm,
    BatchForm,
    GateForm,
    ImportForm,
    IntervalForm,
    OverrideForm,
    RemovalForm,
)
from webapp.audit.gate import NO_AUDIT, describe_batch, describe_missing
from webapp.audit.imports import ImportResult, group_reasons, import_file
from webapp.audit.models import Batch, BatchStatus
from webapp.audit.pooled_report import compute_trend, pool_iteration
from webapp.audit.report_presenter import (
    REOPENING,
    TREND,
    describe_closing,
    describe_log_entry,
    describe_undecided,
    list_gate_efforts,
    make_accuracy_charts,
    make_auditor_lines,
    make_batch_view,
    make_planning_view,
    make_pooled_view,
    make_report_view,
    make_trend,
)
from webapp.audit.review_items import annotate_undecided, count_to_adjudicate, count_undecided
from webapp.audit.selectors import (
    annotate_counts,
    can_manage,
    find_gate,
    find_hold_start,
    find_own_batch,
    get_changeable_batch,
    get_gate_or_default,
    get_manageable_batch,
    get_visible_batches,
    is_any_pending,
    is_held,
    list_audit_activity,
    list_own_batches,
    list_pending_batches,
    load_with_counts,
)
from webapp.audit.services import (
    assign_auditors,
    explain_fixed_auditors,
    format_unblinded_warning,
    list_auditor_names,
    request_batch,
    set_status,
    write_gate,
)
from webapp.experiments.models import Experiment, RunStatus
from webapp.htmx import is_partial_request, render_page_or_partial

_SHOWN: Final = 100
_GATE_IDS: Final = "gate_%s"
_REMOVAL_IDS: Final = "removal_%s"
_MAY_WAIT: Final = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.NEEDS_ATTENTION)


@dataclass(frozen=True, slots=True)
class GateForms:
    """Submitted gate forms that are shown again with their errors."""

    change: GateForm | None = None
    removal: RemovalForm | None = None
    override: OverrideForm | None = None


@require_safe
def list_audits(request: HttpRequest) -> HttpResponse:
    """List the batches assigned to the user, and the batches that the user can view."""
    person = get_user(request)
    if not (person.has_perm(ANSWER) or person.has_perm(SEE)):
        raise PermissionDenied
    batches = annotate_undecided(annotate_counts(get_visible_batches(person)), person)
    batches = batches.prefetch_related("auditors")
    context = {
        "mine": list_own_batches(person) if person.has_perm(ANSWER) else [],
        "batches": [make_batch_view(batch) for batch in batches[:_SHOWN]],
        "to_adjudicate": count_to_adjudicate(person),
        "experiments": get_visible_experiments(person)[:_SHOWN],
    }
    return render(request, "audit/audits.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@require_run
def create_batch(request: HttpRequest, name: str) -> HttpResponse:
    """Request a batch of an iteration."""
    experiment = get_controllable_experiment(request.user, name)
    numbers = list(experiment.iterations.order_by("-number").values_list("number", flat=True))
    interval = IntervalForm(request.GET or None)
    planning = make_planning_view(get_user(request), experiment, half_width=interval.half_width)
    initial = {"size": planning.wanted.items} if planning.wanted else {}
    form = BatchForm(request.POST or None, request.FILES or None, numbers=numbers, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            require_finished(experiment, form.cleaned_data["iteration"], form.cleaned_data["kind"])
            _request_batch(request, experiment, form)
        except InputError as error:
            form.add_error("iteration", str(error))
        except MetaRewardError as error:
            form.add_error(None, str(error))
        else:
            return redirect("experiment_audits", name=name)
    status = 422 if form.errors or interval.errors else 200
    context = {
        "experiment": experiment,
        "form": form,
        "interval": interval,
        "has_iterations": bool(numbers),
        "planning": planning,
    }
    return render(request, "audit/new_batch.html", context, status=status)


def _request_batch(request: HttpRequest, experiment: Experiment, form: BatchForm) -> None:
    """Request the batch described by a form."""
    number, plan = form.cleaned_data["iteration"], form.plan()
    auditors = form.cleaned_data["auditors"]
    request_batch(experiment, number, plan, by=get_user(request), auditors=auditors)
    if len(auditors) == 1 and plan.other_share:
        messages.info(
            request,
            "Only one auditor is assigned, so repeats for another auditor are omitted.",
        )
    warning = format_unblinded_warning(auditors)
    if warning:
        messages.warning(request, warning)


@require_safe
def show_report(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the results of a batch; its auditors are led to their items instead."""
    person = get_user(request)
    try:
        batch = get_object_or_404(get_visible_batches(person).select_related("experiment"), pk=pk)
    except Http404:
        own = find_own_batch(person, pk)
        if own is not None:
            return render(request, "audit/report_denied.html", {"own": own}, status=403)
        if person.has_perm(SEE):
            raise
        raise PermissionDenied from None
    return _render_report(request, batch, ImportForm())


def _render_report(
    request: HttpRequest,
    batch: Batch,
    import_form: ImportForm,
    *,
    auditors_form: AuditorsForm | None = None,
    done: ImportResult | None = None,
    status: int = 200,
) -> HttpResponse:
    person = get_user(request)
    made = make_report(batch)
    found = _measure_auditors(person, batch)
    undecided = count_undecided(person, batch)
    is_open = batch.status == BatchStatus.OPEN
    context = {
        "batch": batch,
        "report": made,
        "metrics": make_report_view(made, found),
        "headline_title": "For these items" if batch.is_hand_picked else "For the whole iteration",
        "formats": FILE_CONTENTS.items(),
        **_make_auditor_context(batch, found),
        "undecided": undecided,
        "undecided_text": describe_undecided(batch, undecided),
        "gate_result": describe_batch(batch),
        "may_import": person.has_perm(RUN)
        and (batch.experiment is None or can_control(person, batch.experiment)),
        "may_manage": can_manage(person, batch),
        "auditors_form": auditors_form or AuditorsForm(initial={"auditors": batch.auditors.all()}),
        "fixed_auditors": explain_fixed_auditors(batch),
        "auditor_names": [] if is_open else list_auditor_names(batch),
        "import_form": import_form,
        "imported": done,
        "reasons": group_reasons(done.left_out) if done else [],
    }
    return render(request, "audit/batch_report.html", context, status=status)


def _measure_auditors(person: User, batch: Batch) -> AuditorReport | None:
    """Measure auditors, for review leads and users who can change the batch."""
    is_owner = batch.experiment is not None and can_control(person, batch.experiment)
    return make_auditor_report(batch) if person.has_perm(ADJUDICATE) or is_owner else None


def _make_auditor_context(batch: Batch, found: AuditorReport | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "quality": found,
        "quality_lines": make_auditor_lines(found),
        "quality_charts": make_accuracy_charts(found, min_accuracy=batch.min_accuracy),
        "min_accuracy": f"{batch.min_accuracy:.0%}",
    }


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
def set_batch_status(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask whether to close or reopen a batch, and do it.

    The form names the new status, so that two leads who close a batch at the same time do not
    reopen it.
    """
    person = get_user(request)
    batch = get_manageable_batch(person, pk)
    wanted = request.POST.get("status", "")
    if wanted not in BatchStatus.values:
        status = 422 if request.method == "POST" else 200
        return render(
            request, "audit/close_batch.html", _describe_change(batch, person), status=status
        )
    if set_status(batch, wanted, by=person):
        done = "closed" if wanted == BatchStatus.CLOSED else "reopened"
        messages.success(request, f"Batch {pk} was {done}.")
    else:
        messages.info(request, f"Batch {pk} is already {BatchStatus(wanted).label}.")
    return redirect("audit_report", pk=pk)


def _describe_change(batch: Batch, person: User) -> dict[str, Any]:
    """Describe what closing an open batch, or reopening a closed one, does."""
    if batch.status != BatchStatus.OPEN:
        return {
            "batch": batch,
            "verb": "Reopen",
            "wanted": BatchStatus.OPEN.value,
            "consequences": REOPENING,
        }
    counted = load_with_counts(batch)
    consequences = describe_closing(
        answers=counted.item_count,
        given=counted.answer_count,
        undecided=count_undecided(person, batch),
    )
    return {
        "batch": batch,
        "verb": "Close",
        "wanted": BatchStatus.CLOSED.value,
        "consequences": consequences,
    }


@require_POST
@require_view
def update_auditors(request: HttpRequest, pk: int) -> HttpResponse:
    """Assign the auditors of a batch."""
    person = get_user(request)
    batch = get_manageable_batch(person, pk)
    form = AuditorsForm(request.POST)
    if not form.is_valid():
        return _render_report(request, batch, ImportForm(), auditors_form=form, status=422)
    try:
        for said in assign_auditors(batch, form.cleaned_data["auditors"], by=person):
            messages.warning(request, said)
    except InputError as error:
        messages.error(request, str(error))
    return redirect("audit_report", pk=pk)


@require_safe
@require_view
def download_export(request: HttpRequest, pk: int, form: str) -> HttpResponse:
    """Download a batch in a format."""
    batch = get_object_or_404(
        get_visible_batches(get_user(request)).select_related("experiment"), pk=pk
    )
    if form not in FORMATS:
        raise Http404("unknown format")
    try:
        file = export_batch(batch, form)
    except InputError as error:
        messages.error(request, str(error))
        return redirect("audit_report", pk=pk)
    log_event(Action.EXPORTED, str(batch.experiment), detail=file.name)
    disposition = f'attachment; filename="{file.name}"'
    return HttpResponse(
        file.content,
        content_type=file.media_type,
        headers={"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"},
    )


@require_POST
@require_run
def import_answers(request: HttpRequest, pk: int) -> HttpResponse:
    """Import answers from a file; invalid entries are listed with their reasons."""
    person = get_user(request)
    batch = get_changeable_batch(person, pk)
    form = ImportForm(request.POST, request.FILES)
    if form.is_valid():
        file = form.cleaned_data["file"]
        try:
            done = import_file(batch, file.name, file.read(), by=person)
        except InputError as error:
            form.add_error("file", str(error))
        else:
            return _show_imported(request, batch, done)
    return _render_report(request, batch, form, status=422)


def _show_imported(request: HttpRequest, batch: Batch, done: ImportResult) -> HttpResponse:
    """Show the result of an import once."""
    if not done.left_out:
        messages.success(request, str(done))
        return redirect("audit_report", pk=batch.pk)
    is_refused = done.added + done.known == 0
    return _render_report(
        request, batch, ImportForm(), done=done, status=422 if is_refused else 200
    )


@require_safe
@require_view
def show_experiment_audits(request: HttpRequest, name: str) -> HttpResponse:
    """Show an experiment's audits, their trend, and its gate."""
    experiment = get_viewable_experiment(request.user, name)
    if is_partial_request(request):
        return _render_pending(request, experiment)
    return _render_experiment(request, experiment, GateForms())


def _render_pending(request: HttpRequest, experiment: Experiment) -> HttpResponse:
    """Show the batches being sampled; reload the page when all are done."""
    found = list_pending_batches(experiment)
    context = {"experiment": experiment, "drawings": found, "is_drawing": is_any_pending(found)}
    response = render_page_or_partial(
        request, "", region="audit/_pending_batches.html", context=context
    )
    if not context["is_drawing"]:
        response.headers["HX-Refresh"] = "true"
    return response


def _render_experiment(
    request: HttpRequest,
    experiment: Experiment,
    forms: GateForms,
    *,
    status: int = 200,
) -> HttpResponse:
    unfinished = experiment.iterations.filter(status__in=_MAY_WAIT).first()
    held = unfinished if unfinished and is_held(unfinished) else None
    batches = annotate_undecided(annotate_counts(experiment.audits.all()), get_user(request))
    batches = batches.prefetch_related("auditors")
    asked = list_pending_batches(experiment)
    gate = find_gate(experiment)
    missing = describe_missing(held.message) if held else ""
    context: dict[str, Any] = {
        "experiment": experiment,
        "drawings": asked,
        "is_drawing": is_any_pending(asked),
        "trend": make_trend(compute_trend(experiment)),
        "trend_headings": TREND,
        "batches": [make_batch_view(batch) for batch in batches],
        "gate": gate,
        "gate_form": forms.change
        or GateForm(instance=get_gate_or_default(experiment), auto_id=_GATE_IDS),
        "removal_form": forms.removal or RemovalForm(auto_id=_REMOVAL_IDS),
        "override_form": forms.override or OverrideForm(experiment=experiment),
        "overrides": experiment.gate_overrides.all(),
        "acts": [describe_log_entry(act) for act in list_audit_activity(experiment)[:_SHOWN]],
        "held": held,
        "held_since": find_hold_start(held) if held else None,
        "efforts": list_gate_efforts(get_user(request), experiment, gate) if gate else [],
        "missing": missing,
        "has_no_audit": missing == NO_AUDIT,
        "may_change": can_control(get_user(request), experiment),
    }
    response = render_page_or_partial(
        request, "audit/experiment_audits.html", region="", context=context
    )
    response.status_code = status
    return response


@require_safe
@require_view
def show_iteration_audits(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """Show the pooled results of all batches of an iteration."""
    experiment = get_viewable_experiment(request.user, name)
    get_object_or_404(experiment.iterations, number=number)
    found = pool_iteration(experiment, number)
    context = {
        "experiment": experiment,
        "number": number,
        "findings": [make_pooled_view(pooled) for pooled in found],
    }
    return render(request, "audit/iteration_audits.html", context)


@require_POST
@require_run
def set_gate(request: HttpRequest, name: str) -> HttpResponse:
    """Set the audit gate; loosening it requires a reason."""
    experiment = get_controllable_experiment(request.user, name)
    form = GateForm(request.POST, instance=get_gate_or_default(experiment), auto_id=_GATE_IDS)
    if form.is_valid():
        reason = form.cleaned_data.get("reason", "")
        try:
            write_gate(form.instance, before=form.before, by=get_user(request), reason=reason)
        except InputError as error:
            form.add_error("reason", str(error))
        else:
            return redirect("experiment_audits", name=name)
    return _render_experiment(request, experiment, GateForms(change=form), status=422)


@require_POST
@require_run
def remove_gate(request: HttpRequest, name: str) -> HttpResponse:
    """Remove the audit gate, with a reason."""
    experiment = get_controllable_experiment(request.user, name)
    form = RemovalForm(request.POST, auto_id=_REMOVAL_IDS)
    if form.is_valid():
        services.remove_gate(experiment, by=get_user(request), reason=form.cleaned_data["reason"])
        return redirect("experiment_audits", name=name)
    return _render_experiment(request, experiment, GateForms(removal=form), status=422)


@require_POST
@require_run
def override_gate(request: HttpRequest, name: str) -> HttpResponse:
    """Override the gate of an iteration, with a reason."""
    experiment = get_controllable_experiment(request.user, name)
    form = OverrideForm(request.POST, experiment=experiment)
    if not form.is_valid():
        return _render_experiment(request, experiment, GateForms(override=form), status=422)
    is_new = services.override_gate(
        experiment,
        form.cleaned_data["iteration"],
        source_sha256=form.battles,
        outcome=form.cleaned_data["outcome"],
        reason=form.cleaned_data["reason"],
        by=get_user(request),
    )
    if not is_new:
        messages.info(request, "This iteration already has an override.")
    return redirect("experiment_audits", name=name)
