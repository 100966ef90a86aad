"""Admin pages of audits: answers, adjudication, history, assignment, closing."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Final, cast

from django.contrib import admin, messages
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Case, Prefetch, Q, QuerySet, Value, When
from django.forms import (
    CharField as CharFormField,
)
from django.forms import (
    CheckboxSelectMultiple,
    ChoiceField,
    HiddenInput,
    ModelChoiceField,
    ModelForm,
    RadioSelect,
    Textarea,
    ValidationError,
)
from django.forms import (
    IntegerField as IntegerFormField,
)
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator, capfirst

from meta_reward_core.errors import InputError
from webapp.accounts.permissions import get_user, get_visible_experiments
from webapp.accounts.roles import ADJUDICATE, ANSWER, RUN_ALL
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action, Activity, ObjectType
from webapp.audit.adjudication import (
    DECISION_REQUIRED,
    MIN_REASON_CHARS,
    REASON_REQUIRED,
    Decision,
    adjudicate_item,
    check_reason,
    claim_item,
    discard_draft,
    explain_refusal,
    find_draft,
    find_last_decision,
    release_other_items,
    save_draft,
    undo_adjudication,
)
from webapp.audit.admin_filters import (
    AgreementFilter,
    AuditorFilter,
    CommentFilter,
    ConfidenceFilter,
    DisagreementFilter,
    FailureFilter,
    StateFilter,
    StratumFilter,
    TagFilter,
    annotate_agreement,
)
from webapp.audit.admin_formatting import (
    format_activity,
    format_item_history,
    format_links,
    format_outcome,
    format_side_by_side,
    format_table,
    format_text,
    format_time,
    list_item_links,
)
from webapp.audit.annotation_queue import get_possible_auditors
from webapp.audit.batch_sampling import format_strategy
from webapp.audit.exports import export_answers, export_answers_to, export_given
from webapp.audit.forms import JUDGMENT_CHOICES, SCORE_CHOICES, to_item_choice
from webapp.audit.item_presenter import format_choice
from webapp.audit.models import (
    AdjudicationDraft,
    Answer,
    Batch,
    BatchStatus,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    ItemKind,
    KnownItem,
    OnGateFailure,
)
from webapp.audit.rendering import remember_decision, was_just_decided
from webapp.audit.report_presenter import REOPENING, describe_closing, describe_undecided
from webapp.audit.review_items import (
    annotate_disagreements,
    annotate_drafts,
    annotate_undecided,
    count_progress,
    filter_by_disagreement,
    filter_by_state,
    find_neighbours,
    get_reviewable_items,
    select_items,
)
from webapp.audit.review_presenter import (
    describe_undone,
    format_decision,
    format_items_csv,
    format_meta_judge,
    format_value,
    get_other_claimant,
    list_brief_answers,
    list_disagreements,
    list_facts,
    make_answer_views,
)
from webapp.audit.selectors import annotate_counts, get_visible_batches, list_audit_activity
from webapp.audit.services import assign_auditors, explain_fixed_auditors, set_status

_ROWS_ON_A_PAGE: Final = 50
_EXCERPT_CHARS: Final = 80
_HIDDEN_FROM_AUDITORS: Final = ("get_agreement", "list_links", "list_history")
"""Columns about verdicts of the meta-judge or answers of others, or with links to them."""


class ReviewerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Base class for rows that reviewers see and no user adds or deletes.

    Attributes:
        list_title: heading of the list; the plural name of the model if empty.
    """

    list_title: ClassVar[str] = ""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list under a heading that names its rows."""
        title = self.list_title or str(self.opts.verbose_name_plural).capitalize()
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Rows are created by annotation pages and imports only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Audit data is never deleted."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Only reviewers can change rows."""
        return request.user.has_perm(ADJUDICATE)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Reviewers can see all rows."""
        return request.user.has_perm(ADJUDICATE)

    def history_view(
        self,
        request: HttpRequest,  # noqa: ARG002
        object_id: str,
        extra_context: Any = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Redirect to the row: the activity log is shown there instead of Django's own log."""
        return redirect(f"admin:audit_{self.opts.model_name}_change", object_id)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Shown to reviewers, and to auditors for their own answers."""
        return request.user.has_perm(ADJUDICATE) or request.user.has_perm(ANSWER)


class AssignForm(ActionForm):
    """The auditor that the selected action applies to."""

    auditor = ModelChoiceField(
        queryset=User.objects.none(), required=False, label="Auditor:", empty_label="choose"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = cast("ModelChoiceField[User]", self.fields["auditor"])
        field.queryset = get_possible_auditors()


@admin.register(Batch)
class BatchAdmin(ReviewerAdmin):
    """Batches: close them and assign auditors, several at once."""

    list_display = ("format_number", "format_origin", "format_kind", "status", "format_progress",
                    "count_undecided", "list_auditors", "list_links",
                    "format_created")  # fmt: skip
    list_filter = ("status", "kind", ("auditors", admin.RelatedOnlyFieldListFilter),
                   "experiment_name")  # fmt: skip
    search_fields = ("experiment_name", "auditors__username", "guidelines")
    search_help_text = "Search experiments, auditors and guidelines."
    readonly_fields = ("format_origin", "kind", "format_progress", "count_undecided", "list_links",
                       "show_guidelines", "seed", "status", "show_fixed_auditors",
                       "list_history")  # fmt: skip
    fieldsets = (
        ("Batch", {"fields": ("format_origin", "kind", "format_progress", "count_undecided",
                              "list_links", "show_guidelines", "seed")}),
        ("Review", {"fields": ("status", "auditors")}),
        ("History", {"fields": ("list_history",)}),
    )  # fmt: skip
    formfield_overrides: ClassVar = {
        models.ManyToManyField: {"widget": CheckboxSelectMultiple},
    }
    list_title = "Batches"
    empty_value_display = "nobody"
    actions = ("close_batches", "open_batches", "assign", "unassign", "export")
    action_form = AssignForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Batch]:
        """Load batches with their counts and auditors."""
        person = get_user(request)
        rows = annotate_counts(get_visible_batches(person))
        return annotate_undecided(rows, person).prefetch_related("auditors")

    def get_fieldsets(self, request: HttpRequest, obj: Batch | None = None) -> Any:
        """Show the auditors of a closed batch as text, because they cannot be changed."""
        sets: Any = super().get_fieldsets(request, obj)
        if obj is None or not explain_fixed_auditors(obj):
            return sets
        fixed = {"fields": ("status", "show_fixed_auditors")}
        return [(name, fixed if name == "Review" else given) for name, given in sets]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Change the auditors, or ask whether to close or reopen the batch."""
        if request.method == "POST":
            answer = self._answer_post(request, object_id)
            if answer is not None:
                return answer
        return super().change_view(request, object_id, form_url, extra_context)

    def _answer_post(self, request: HttpRequest, object_id: str) -> HttpResponse | None:
        """Respond to a POST that does not change an open batch; None if it does."""
        batch = self.get_object(request, object_id)
        if batch is None or not self.has_change_permission(request, batch):
            return None
        if "_status" in request.POST:
            return self._ask(request, [batch], _get_other_status(batch))
        refusal = explain_fixed_auditors(batch)
        if refusal:  # the page was opened before the batch was closed
            self.message_user(request, refusal, messages.ERROR)
            return redirect(request.get_full_path())
        return None

    @admin.display(ordering="pk", description="batch")
    def format_number(self, row: Batch) -> str:
        """Format the number of the batch."""
        return f"Batch {row.pk}"

    @admin.display(ordering="experiment_name", description="experiment")
    def format_origin(self, row: Batch) -> str:
        """Format the source of the items and the sampling strategy."""
        return f"{row.experiment_name}, iteration {row.iteration}, {format_strategy(row.strategy)}"

    @admin.display(ordering="kind", description="items")
    def format_kind(self, row: Batch) -> str:
        """Format the kind of the items."""
        return "judgments" if row.kind == ItemKind.JUDGMENTS else "responses"

    @admin.display(description="links")
    def list_links(self, row: Batch) -> str:
        """Link to the items here and to the pages on the site."""
        items = f"{reverse('admin:audit_item_changelist')}?batch__id__exact={row.pk}"
        queue = f"{reverse('audit_items')}?batch={row.pk}"
        is_open = row.status == BatchStatus.OPEN
        links = [
            (items, f"items of batch {row.pk}", "items"),
            *([(queue, f"adjudicate batch {row.pk}", "adjudicate")] if is_open else []),
            (reverse("audit_report", args=[row.pk]), f"results of batch {row.pk}", "results"),
        ]
        return format_html_join(" · ", '<a href="{}" aria-label="{}">{}</a>', links)

    @admin.action(description="Export answers as CSV", permissions=["view"])
    def export(self, request: HttpRequest, rows: QuerySet[Batch]) -> HttpResponse:  # noqa: ARG002
        """Download the answers of the selected batches as one file."""
        log_event(
            Action.EXPORTED,
            "audit batches",
            detail=", ".join(str(batch.pk) for batch in rows)[:200],
        )
        return _send_csv("audit-answers", export_answers(rows))

    @admin.display(description="answers")
    def format_progress(self, row: Any) -> str:
        """Format the progress of the batch."""
        return f"{row.answer_count} of {row.item_count}"

    @admin.display(ordering="created", description="created")
    def format_created(self, row: Batch) -> str:
        """Format when it was created."""
        return format_time(row.created)

    @admin.display(description="disagreements", ordering="undecided_count")
    def count_undecided(self, row: Any) -> str:
        """Link to the items with a disagreement and without a decision."""
        said = describe_undecided(row, row.undecided_count)
        if not row.undecided_count:
            return said
        items = reverse("admin:audit_item_changelist")
        address = f"{items}?batch__id__exact={row.pk}&disagreement=any&state=undecided"
        label = f"batch {row.pk}: {said}"
        return format_html('<a href="{}" aria-label="{}">{}</a>', address, label, said)

    @admin.display(description="guidelines")
    def show_guidelines(self, row: Batch) -> str:
        """Show the guidelines for auditors."""
        return format_text(row.guidelines)

    @admin.display(description="activity")
    def list_history(self, row: Batch) -> str:
        """List all activity on the batch, newest first."""
        return format_activity(
            Activity.objects.filter(object_type=ObjectType.BATCH, object_id=row.pk)
        )

    @admin.display(description="auditors")
    def list_auditors(self, row: Batch) -> str:
        """List the assigned auditors."""
        return ", ".join(sorted(person.username for person in row.auditors.all())) or "nobody"

    @admin.display(description="auditors")
    def show_fixed_auditors(self, row: Batch) -> str:
        """List the auditors of a closed batch, and why they cannot be changed."""
        lines = [(self.list_auditors(row),), (explain_fixed_auditors(row),)]
        return format_html_join("", "<div>{}</div>", lines)

    @admin.action(description="Assign to auditor")
    def assign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Assign an auditor to the selected batches."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            wanted = {batch: {*batch.auditors.all(), auditor} for batch in rows}
            self._say_done(request, self._assign(request, wanted), f"assigned to {auditor}")

    @admin.action(description="Remove from auditor")
    def unassign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Remove an auditor from the selected batches; answers stay."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            wanted = {batch: {*batch.auditors.all()} - {auditor} for batch in rows}
            self._say_done(request, self._assign(request, wanted), f"removed from {auditor}")

    def _get_chosen_auditor(self, request: HttpRequest) -> User | None:
        chosen = get_possible_auditors().filter(pk=request.POST.get("auditor") or 0).first()
        if chosen is None:
            self.message_user(request, "Choose an auditor next to the action.", messages.ERROR)
        return chosen

    def _assign(self, request: HttpRequest, wanted: Mapping[Batch, Iterable[User]]) -> list[Batch]:
        """Assign the auditors of batches; return the batches that accepted the change."""
        done = []
        for batch, auditors in wanted.items():
            try:
                notes = assign_auditors(batch, auditors, by=get_user(request))
            except InputError as error:
                self.message_user(request, str(error), messages.ERROR)
                continue
            done.append(batch)
            for said in notes:
                self.message_user(request, said, messages.WARNING)
        return done

    @admin.action(description="Close…")
    def close_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> HttpResponse | None:
        """Close batches, which then accept no answers."""
        return self._set_status(request, rows, BatchStatus.CLOSED)

    @admin.action(description="Reopen…")
    def open_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> HttpResponse | None:
        """Reopen batches."""
        return self._set_status(request, rows, BatchStatus.OPEN)

    def _set_status(
        self, request: HttpRequest, rows: QuerySet[Batch], status: BatchStatus
    ) -> HttpResponse | None:
        """Close or reopen batches after a confirmation that names them."""
        found = list(rows.order_by("pk"))
        changing = [batch for batch in found if batch.status != status]
        if changing and "confirmed" not in request.POST:
            return self._ask(request, changing, status)
        done = [batch for batch in changing if set_status(batch, status, by=get_user(request))]
        self._say_done(request, done, "closed" if status == BatchStatus.CLOSED else "reopened")
        same = [batch for batch in found if batch not in done]
        if same:
            self.message_user(
                request, f"Already {status.label}: {_name_batches(same)}.", messages.WARNING
            )
        return None

    def _ask(
        self, request: HttpRequest, batches: Sequence[Any], status: BatchStatus
    ) -> HttpResponse:
        """Show which batches would be closed or reopened, and the consequences."""
        is_closing = status == BatchStatus.CLOSED
        consequences = [
            describe_closing(
                answers=batch.item_count,
                given=batch.answer_count,
                undecided=batch.undecided_count,
            )
            if is_closing
            else REOPENING
            for batch in batches
        ]
        verb = "Close" if is_closing else "Reopen"
        context = self.admin_site.each_context(request) | {
            "title": f"{verb} {_name_batches(batches)}?",
            "opts": self.opts,
            "named": [
                (f"Batch {batch.pk}: {self.format_origin(batch)}", said)
                for batch, said in zip(batches, consequences, strict=True)
            ],
            "batches": batches,
            "is_closing": is_closing,
            "action": "close_batches" if is_closing else "open_batches",
            "button": f"{verb} {_name_batches(batches)}",
        }
        return TemplateResponse(request, "admin/audit/batch/confirm_status.html", context)

    def _say_done(self, request: HttpRequest, batches: Sequence[Batch], what: str) -> None:
        if batches:
            verb = "was" if len(batches) == 1 else "were"
            name = _name_batches(batches)
            self.message_user(request, f"{name[0].upper()}{name[1:]} {verb} {what}.")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Offer the accounts that can answer, as on the site."""
        if db_field.name == "auditors":
            kwargs["queryset"] = get_possible_auditors()
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Batch, form: Any, change: Any) -> None:
        """Save nothing: only the auditors can be changed here."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:  # noqa: ARG002
        """Assign auditors and record it in the activity log."""
        self._assign(request, {form.instance: form.cleaned_data["auditors"]})


def _send_csv(name: str, content: bytes) -> HttpResponse:
    return HttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def _name_batches(batches: Sequence[Batch]) -> str:
    numbers = [str(batch.pk) for batch in batches]
    if len(numbers) == 1:
        return f"batch {numbers[0]}"
    return f"batches {', '.join(numbers[:-1])} and {numbers[-1]}"


def _get_other_status(batch: Batch) -> BatchStatus:
    return BatchStatus.CLOSED if batch.status == BatchStatus.OPEN else BatchStatus.OPEN


@admin.register(Answer)
class AnswerAdmin(ReviewerAdmin):
    """Answers: reviewers see all, disagreements first; auditors see only their own."""

    list_display = ("format_item", "format_auditor", "get_answer", "confidence", "get_agreement",
                    "format_tags", "format_comment", "list_links", "format_submitted")  # fmt: skip
    list_filter = (AgreementFilter, "confidence", TagFilter, CommentFilter, AuditorFilter,
                   ("item__batch", admin.RelatedOnlyFieldListFilter))  # fmt: skip
    search_fields = ("comment", "auditor_name", "item__instruction")
    search_help_text = "Search comments, auditors and prompts."
    list_select_related = ("item__batch__experiment", "item__hidden_verdict",
                           "item__original__batch__experiment",
                           "item__original__hidden_verdict")  # fmt: skip
    list_per_page = _ROWS_ON_A_PAGE
    actions = ("export",)
    fields = readonly_fields = ("format_item", "list_links", "format_auditor", "get_answer",
                                "confidence", "format_tags", "show_comment", "format_seconds",
                                "format_submitted", "format_revealed", "source",
                                "list_history")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Answer]:
        """Load all answers for reviewers, their own for auditors."""
        person = get_user(request)
        if not person.has_perm(ADJUDICATE):
            return Answer.objects.filter(auditor=person)
        seen = get_reviewable_items(person)
        return annotate_agreement(
            Answer.objects.filter(Q(item__in=seen) | Q(item__original__in=seen))
        )

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Order disagreements by confidence, highest first."""
        if request.user.has_perm(ADJUDICATE):
            return ("agreement", "-confidence", "pk")
        return ("-submitted",)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Auditors can see their own answers."""
        if super().has_view_permission(request, obj):
            return True
        own = obj is None or obj.auditor_id == request.user.pk
        return own and request.user.has_perm(ANSWER)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Answers can be changed on the annotation page only; reviewers adjudicate the item."""
        return False

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Exports contain verdicts of the meta-judge."""
        return request.user.has_perm(ADJUDICATE)

    @admin.action(description="Export answers as CSV", permissions=["export"])
    def export(self, request: HttpRequest, rows: QuerySet[Answer]) -> HttpResponse:  # noqa: ARG002
        """Download the selected answers with the columns of the site's exports."""
        log_event(Action.EXPORTED, "audit answers", detail=f"{rows.count()} answers")
        return _send_csv("audit-answers", export_given(rows))

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Show filters that reveal verdicts of the meta-judge to reviewers only."""
        filters = super().get_list_filter(request)
        if request.user.has_perm(ADJUDICATE):
            return filters
        return ("confidence", ("item__batch", admin.RelatedOnlyFieldListFilter))

    def get_list_display(self, request: HttpRequest) -> Any:
        """Show columns that reveal verdicts of the meta-judge to reviewers only."""
        return self._leave_out_hidden(request, self.list_display)

    def get_fields(self, request: HttpRequest, obj: Answer | None = None) -> Any:  # noqa: ARG002
        """Show links to pages that reveal verdicts of the meta-judge to reviewers only."""
        return self._leave_out_hidden(request, self.fields)

    def _leave_out_hidden(self, request: HttpRequest, names: Iterable[str]) -> tuple[str, ...]:
        is_reviewer = request.user.has_perm(ADJUDICATE)
        return tuple(name for name in names if is_reviewer or name not in _HIDDEN_FROM_AUDITORS)

    @admin.display(ordering="item__number", description="item")
    def format_item(self, row: Answer) -> str:
        """Format the item as batch and number."""
        original = row.item.original
        again = f", repeats item {original.number}" if original is not None else ""
        return f"{capfirst(str(row.item))}{again}"

    @admin.display(description="links")
    def list_links(self, row: Answer) -> str:
        """Link to the item, and to the pages of the site about it."""
        item = row.item.original or row.item
        change = reverse("admin:audit_item_change", args=[item.pk])
        return format_links(item, [(change, "item"), *list_item_links(item)])

    @admin.display(ordering="auditor_name", description="auditor")
    def format_auditor(self, row: Answer) -> str:
        """Format the auditor, whose name stays when the account is deleted."""
        return row.auditor_name

    @admin.display(description="history of the item")
    def list_history(self, row: Answer) -> str:
        """List all activity on the item and its repeats."""
        return format_item_history(row.item.original or row.item)

    @admin.display(description="comment")
    def show_comment(self, row: Answer) -> str:
        """Show the whole comment."""
        return format_text(row.comment)

    @admin.display(ordering="submitted", description="submitted")
    def format_submitted(self, row: Answer) -> str:
        """Format when it was submitted."""
        return format_time(row.submitted)

    @admin.display(ordering="revealed", description="revealed")
    def format_revealed(self, row: Answer) -> str:
        """Format when the auditor saw the reveal."""
        return format_time(row.revealed) if row.revealed else "–"

    @admin.display(ordering="seconds", description="time taken")
    def format_seconds(self, row: Answer) -> str:
        """Format the seconds that the auditor took."""
        return f"{row.seconds:.0f} seconds" if row.seconds else "not known"

    @admin.display(ordering="choice", description="answer")
    def get_answer(self, row: Answer) -> str:
        """Format the answer with the letters of the item's page."""
        return format_value(row.choice, row.points, row.item.original or row.item)

    @admin.display(description="tags")
    def format_tags(self, row: Answer) -> str:
        """Format the tags as text."""
        return ", ".join(map(str, row.tags)) or "–"

    @admin.display(ordering="comment", description="comment")
    def format_comment(self, row: Answer) -> str:
        """Format the beginning of the comment."""
        return Truncator(row.comment).chars(_EXCERPT_CHARS) or "–"

    @admin.display(ordering="agreement", description="meta-judge")
    def get_agreement(self, row: Any) -> str:
        """Format how many verdicts agree."""
        return AgreementFilter.options.get(str(row.agreement), "–")


class ItemDecisionForm(ModelForm):  # type: ignore[type-arg]
    """A decision on an item, with the same rules as on the site."""

    adjudicated = ChoiceField(
        label="Decision (required)",
        widget=RadioSelect,
        error_messages={"required": DECISION_REQUIRED},
    )
    adjudication = CharFormField(
        label=f"Reason (required, at least {MIN_REASON_CHARS} characters)",
        widget=Textarea(attrs={"rows": 4}),
        error_messages={"required": REASON_REQUIRED},
    )
    version = IntegerFormField(widget=HiddenInput)

    class Meta:
        """The decision and its reason."""

        model = Item
        fields = ("adjudicated", "adjudication")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        item = self.instance
        choices = cast("ChoiceField", self.fields["adjudicated"])
        choices.choices = _list_decisions(item)
        self.fields["version"].initial = item.adjudication_version
        draft = find_draft(item, _get_reader(item)) if _get_reader(item).pk else None
        if draft is not None:
            self.initial.update(adjudicated=draft.choice, adjudication=draft.reason)
        elif item.adjudicated:  # a new decision needs its own reason, also by another lead
            self.initial["adjudication"] = ""

    def clean_adjudication(self) -> str:
        """Check the reason by the same rules as on the site."""
        try:
            return check_reason(self.cleaned_data["adjudication"])
        except InputError as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        """Refuse a decision that is based on an outdated state of the item."""
        values = super().clean() or {}
        now = Item.objects.select_related("batch").get(pk=self.instance.pk)
        if "version" in values and values["version"] != now.adjudication_version:
            self._keep_input(now)
            raise ValidationError(_describe_conflict(now))
        return values

    def _keep_input(self, now: Item) -> None:
        """Keep the input as a draft, and let the next save replace the newer decision."""
        data = cast("QueryDict", self.data).copy()
        data["version"] = str(now.adjudication_version)
        self.data = data
        choice = self.cleaned_data.get("adjudicated", "")
        reason = self.cleaned_data.get("adjudication", "")
        save_draft(now, _get_reader(self.instance), choice=choice, reason=reason)


_RESPONSE_FIELDS: Final = ("list_links", "format_disagreements", "show_instruction",
                           "show_response")  # fmt: skip


def _describe_conflict(now: Item) -> str:
    """Describe the decision of another lead that was saved first."""
    who = now.adjudicated_by_name or "another review lead"
    reason = f" Reason: {now.adjudication}" if now.adjudication else ""
    return (
        f"Your decision was not saved, because {who} changed this item while you were reading it. "
        f"The decision is now: {format_decision(now) or 'none'}.{reason} What you filled in is "
        "kept below. Save again to replace that decision."
    )


def _list_decisions(item: Item) -> list[tuple[str, str]]:
    """List the possible decisions and their labels, which include the keys."""
    if item.batch.kind == ItemKind.JUDGMENTS:
        return [
            (to_item_choice(value, item), _label_choice(value, label))
            for value, label in JUDGMENT_CHOICES
        ]
    scores = [score for score, _ in SCORE_CHOICES]
    known = scores if item.adjudicated in ("", *scores) else [*scores, item.adjudicated]
    return [
        (score, format_html("<kbd>{}</kbd>", score) if len(score) == 1 else score)
        for score in known
    ]


def _label_choice(value: str, label: str) -> str:
    if len(value) == 1:
        return format_html("<kbd>{}</kbd> is better", value)
    key = "T" if value == "tie" else "X"
    return format_html('{} <kbd aria-hidden="true">{}</kbd>', label, key)


@admin.register(Item)
class ItemAdmin(ReviewerAdmin):
    """Items: read the answers and adjudicate."""

    class Media:
        """Keys of the item's page."""

        js = ("admin_item.js",)

    form = ItemDecisionForm
    list_title = "Items"
    list_display = ("format_place", "format_prompt", "format_disagreements", "format_answers",
                    "format_meta_judge", "format_decided", "list_brief_links")  # fmt: skip
    list_display_links = ("format_place", "format_prompt")
    list_filter = (DisagreementFilter, StateFilter, AuditorFilter, ConfidenceFilter, TagFilter,
                   CommentFilter, ("batch", admin.RelatedOnlyFieldListFilter),
                   StratumFilter)  # fmt: skip
    search_fields = ("instruction", "response", "answer__comment", "repeats__answer__comment",
                     "adjudication")  # fmt: skip
    search_help_text = "Search prompts, responses, comments and reasons."
    list_per_page = _ROWS_ON_A_PAGE
    actions = ("export", "export_answers")
    readonly_fields = ("list_links", "format_disagreements", "show_instruction",
                       "show_response", "show_judgments", "show_guidelines", "show_rubric",
                       "list_answers",
                       "list_hidden_verdicts", "show_state", "list_history")  # fmt: skip
    fieldsets = (
        ("Item", {"fields": ("list_links", "format_disagreements",
                             "show_instruction", "show_response", "show_judgments")}),
        ("Guidelines and rubric", {"fields": ("show_guidelines", "show_rubric"),
                                   "classes": ("collapse",)}),
        ("Answers and verdicts", {"fields": ("list_answers", "list_hidden_verdicts")}),
        ("Decision", {"fields": ("show_state", "adjudicated", "adjudication", "version")}),
        ("History", {"fields": ("list_history",)}),
    )  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: Item | None = None) -> Any:
        """Hide judgments of a response, and show a decision that cannot be changed as text."""
        sets: Any = super().get_fieldsets(request, obj)
        if obj is not None and obj.batch.kind == ItemKind.RESPONSES:
            texts = {"fields": _RESPONSE_FIELDS}
            sets = [(name, texts if name == "Item" else given) for name, given in sets]
        if self.has_change_permission(request, obj):
            return sets
        return [
            (name, {**given, "fields": ("show_state",)} if name == "Decision" else given)
            for name, given in sets
        ]

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Item | None:
        """Load an item, and remember which user is viewing it."""
        item: Item | None = super().get_object(request, object_id, from_field)
        if item is not None:
            item.reader = get_user(request)  # type: ignore[attr-defined]
        return item

    def get_queryset(self, request: HttpRequest) -> QuerySet[Item]:
        """Load items with their disagreements."""
        user = get_user(request)
        found = annotate_drafts(annotate_disagreements(get_reviewable_items(user)), user)
        repeats = Prefetch("repeats", Item.objects.select_related("answer"))
        related = ("batch__experiment", "answer", "hidden_verdict", "claimed_by", "known")
        return found.select_related(*related).prefetch_related(repeats)

    def get_ordering(self, request: HttpRequest) -> Any:  # noqa: ARG002
        """Order items with a disagreement and without a decision first."""
        return (Case(When(adjudicated="", priority__lt=3, then=Value(0)), default=Value(1)),
                "priority", "-batch", "number")  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Closed batches are final, and repeats are not adjudicated separately."""
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or not explain_refusal(obj))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Shown to reviewers only."""
        return request.user.has_perm(ADJUDICATE)

    @admin.action(description="Export items as CSV", permissions=["view"])
    def export(self, request: HttpRequest, rows: QuerySet[Item]) -> HttpResponse:
        """Download the selected items with their answers and decisions, as on the site."""
        log_event(Action.EXPORTED, "audit items", detail=f"{rows.count()} items")
        return _send_csv("audit-items", format_items_csv(rows, get_user(request)).encode())

    @admin.action(description="Export answers and comments as CSV", permissions=["view"])
    def export_answers(self, request: HttpRequest, rows: QuerySet[Item]) -> HttpResponse:  # noqa: ARG002
        """Download all answers to the selected items, one row per answer, as on the site."""
        log_event(Action.EXPORTED, "audit answers", detail=f"{rows.count()} items")
        return _send_csv("audit-answers", export_answers_to(rows))

    @admin.display(ordering="number", description="item")
    def format_place(self, row: Item) -> str:
        """Format the item as batch and number."""
        return capfirst(str(row))

    @admin.display(ordering="instruction", description="prompt")
    def format_prompt(self, row: Item) -> str:
        """Format the beginning of the prompt."""
        return Truncator(row.instruction).chars(_EXCERPT_CHARS)

    @admin.display(ordering="priority", description="disagreement")
    def format_disagreements(self, row: Item) -> str:
        """Format the disagreements."""
        return ", ".join(list_disagreements(row)) or "none"

    @admin.display(description="answers")
    def format_answers(self, row: Item) -> str:
        """Format all answers."""
        lines = [(answer,) for answer in list_brief_answers(row)]
        return format_html_join("", "<div>{}</div>", lines) or "none yet"

    @admin.display(description="meta-judge or judge")
    def format_meta_judge(self, row: Item) -> str:
        """Format both verdicts, or the judge's mean score."""
        return format_meta_judge(row)

    @admin.display(ordering="adjudicated", description="decision")
    def format_decided(self, row: Any) -> str:
        """Format the decision and who made it, and whether the user has a draft."""
        who = row.adjudicated_by_name or "a review lead"
        parts = [format_decision(row), f"by {who}"] if row.adjudicated else []
        lines = [*parts, *(["draft"] if row.has_draft else [])]
        return format_html_join("", "<div>{}</div>", [(line,) for line in lines]) or "–"

    @admin.display(description="links")
    def list_brief_links(self, row: Item) -> str:
        """Link to the pages of the site about the item."""
        return format_links(row, list_item_links(row))

    @admin.display(description="links")
    def list_links(self, row: Item) -> str:
        """Link to the pages of the site about the item, and to its batch."""
        report = reverse("audit_report", args=[row.batch_id])
        return format_links(row, [*list_item_links(row), (report, f"batch {row.batch_id}")])

    @admin.display(description="instruction")
    def show_instruction(self, row: Item) -> str:
        """Show the whole prompt."""
        return format_text(row.instruction)

    @admin.display(description="response")
    def show_response(self, row: Item) -> str:
        """Show the whole response."""
        return format_text(row.response)

    @admin.display(description="judgments")
    def show_judgments(self, row: Item) -> str:
        """Show both judgments with the letters of the item's page."""
        a, b = (row.second, row.first) if row.is_swapped else (row.first, row.second)
        return format_side_by_side((("Judgment A", a), ("Judgment B", b)))

    @admin.display(description="guidelines")
    def show_guidelines(self, row: Item) -> str:
        """Show the guidelines for auditors."""
        return format_text(row.batch.guidelines)

    @admin.display(description="rubric")
    def show_rubric(self, row: Item) -> str:
        """Show the rubric that the judge used."""
        return format_text(row.batch.rubric)

    @admin.display(description="answers")
    def list_answers(self, row: Item) -> str:
        """List all answers to the item and its repeats."""
        lines = [
            (f"{one.auditor} (you)" if one.is_own else one.auditor, one.occasion, one.answer,
             one.confidence, ", ".join(one.tags) or "–", one.comment or "–")
            for one in make_answer_views(row, _get_reader(row))
        ]  # fmt: skip
        return format_table(
            ("Auditor", "Occasion", "Answer", "Confidence", "Tags", "Comment"), lines
        )

    @admin.display(description="judge and meta-judge")
    def list_hidden_verdicts(self, row: Item) -> str:
        """List what was hidden from the auditors."""
        return format_table(("", ""), [(fact.name, fact.value) for fact in list_facts(row)])

    @admin.display(description="current decision")
    def show_state(self, row: Item) -> str:
        """Show the current decision, and why it cannot be changed."""
        # A form with errors has put its input into the row, so the stored state is read again.
        now = Item.objects.select_related("batch", "claimed_by").get(pk=row.pk)
        claimed = get_other_claimant(now, _get_reader(row))
        when = f", {format_time(now.adjudicated_at)}" if now.adjudicated_at else ""
        parts = [
            f"{format_decision(now)}, by {now.adjudicated_by_name}{when}: {now.adjudication}"
            if now.adjudicated
            else "none",
            f"{claimed} opened this item and may be deciding it." if claimed else "",
            explain_refusal(now),
        ]
        return format_html_join("", "<div>{}</div>", [(part,) for part in parts if part])

    @admin.display(description="activity")
    def list_history(self, row: Item) -> str:
        """List all activity on the item."""
        return format_item_history(row)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show the item; save, undo or discard what is posted."""
        item = self.get_object(request, object_id)
        if item is None:
            return super().change_view(request, object_id, form_url, extra_context)
        for name, handle in {"_undo": self._undo, "_discard": self._discard}.items():
            if name in request.POST:
                if not self.has_change_permission(request, item):
                    raise PermissionDenied
                handle(request, item)
                return self._redirect_to_item(request, item.pk)
        if request.method == "GET" and self.has_change_permission(request, item):
            release_other_items(item, get_user(request))
            if not item.adjudicated:
                claim_item(item, get_user(request))
        page = self._make_page(request, item)
        return super().change_view(request, object_id, form_url, page | (extra_context or {}))

    def _undo(self, request: HttpRequest, item: Item) -> None:
        undone = format_decision(item)
        try:
            is_undone = undo_adjudication(item, by=get_user(request))
        except InputError as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        if is_undone:
            remember_decision(request, None)
            now = Item.objects.select_related("batch").get(pk=item.pk)
            self.message_user(request, describe_undone(now, undone), messages.SUCCESS)
        else:
            said = f"Not undone: the last decision on {item} is not yours."
            self.message_user(request, said, messages.WARNING)

    def _discard(self, request: HttpRequest, item: Item) -> None:
        discard_draft(item, get_user(request))
        self.message_user(request, "The draft was discarded.", messages.SUCCESS)

    def _make_page(self, request: HttpRequest, item: Item) -> dict[str, Any]:
        """Describe an item's place in the list, the last decision and the draft."""
        user = get_user(request)
        is_open = self.has_change_permission(request, item)
        listed = self._select_undecided(request)
        keys = list(listed.values_list("pk", flat=True))
        previous, following = find_neighbours(listed, item, user)
        last = find_last_decision(user)
        return {
            "title": f"Item {item.number} of batch {item.batch_id}",
            "subtitle": None,
            "position": keys.index(item.pk) + 1 if item.pk in keys else None,
            "listed": len(keys),
            "previous": previous and self._build_address(request, previous),
            "following": following and self._build_address(request, following),
            "progress": count_progress(self._select_listed(request)),
            "last": last,
            "is_recent": last is not None and was_just_decided(request, last.pk),
            "undo_last": last and self._build_address(request, last.pk),
            "address": self._build_address(request, item.pk),
            "is_open": is_open,
            "is_decided": bool(item.adjudicated),
            "is_own": bool(item.adjudicated) and item.adjudicated_by_id == user.pk,
            "is_score": item.batch.kind == ItemKind.RESPONSES,
            "draft": find_draft(item, user) if request.method == "GET" and is_open else None,
            "draft_address": reverse("audit_review_draft", args=[item.batch_id, item.number]),
        }

    def response_change(self, request: HttpRequest, obj: Item) -> HttpResponse:
        """Go to the next item, or stay if the decision was not saved or the user chose to stay."""
        if getattr(obj, "is_conflict", False):
            return self._redirect_to_item(request, obj.pk)
        self.message_user(request, _describe_saved(obj), messages.SUCCESS)
        if "_continue" in request.POST:
            return self._redirect_to_item(request, obj.pk)
        following = getattr(obj, "following", None)
        if following is None:
            return self.response_post_save_change(request, obj)
        return self._redirect_to_item(request, following)

    def _redirect_to_item(self, request: HttpRequest, key: int) -> HttpResponse:
        return redirect(self._build_address(request, key))

    def _build_address(self, request: HttpRequest, key: int) -> str:
        """Build the address of an item's page, which keeps the filter of the list."""
        kept: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": self.opts,
        }
        address: str = add_preserved_filters(kept, reverse("admin:audit_item_change", args=[key]))
        return address

    def save_model(self, request: HttpRequest, obj: Item, form: Any, change: Any) -> None:  # noqa: ARG002
        """Store the decision by the same rules as the site, and record it in the activity log."""
        user = get_user(request)
        if "_next" in request.POST:  # a decided item may drop out of the list
            listed = self._select_undecided(request)
            obj.following = find_neighbours(listed, obj, user)[1]  # type: ignore[attr-defined]
        decision = Decision(obj.adjudicated, obj.adjudication, form.cleaned_data["version"])
        if adjudicate_item(obj, decision, by=user):
            remember_decision(request, obj.pk)
        else:
            obj.is_conflict = True  # type: ignore[attr-defined]
            now = Item.objects.select_related("batch").get(pk=obj.pk)
            self.message_user(request, _describe_conflict(now), messages.ERROR)

    def _select_undecided(self, request: HttpRequest) -> QuerySet[Any]:
        """Select the items of the list that the user came from, in its order.

        Without a filter by decision, those without a decision; without any filter, those to
        adjudicate.
        """
        state = _read_list_filter(request).get("state")
        listed = self._select_listed(request, state=state)
        return listed if state else filter_by_state(listed, "")

    def _select_listed(self, request: HttpRequest, *, state: str | None = None) -> QuerySet[Any]:
        """Select the items of the list that the user came from, decided or not.

        Args:
            state: the filter by decision; None for all.
        """
        user = get_user(request)
        filters = _read_list_filter(request)
        if not filters:
            return select_items(user, {"state": "all"})
        is_queue = filters.get("state") == "open"
        filters.pop("state", None)
        if state:
            filters["state"] = state
        listing = copy(request)
        listing.GET = filters  # type: ignore[assignment]
        try:
            listed: QuerySet[Any] = self.get_changelist_instance(listing).get_queryset(listing)
        except (IncorrectLookupParameters, DisallowedModelAdminLookup):
            return select_items(user, {})
        return filter_by_disagreement(listed, "") if is_queue else listed


def _read_list_filter(request: HttpRequest) -> QueryDict:
    """Read the filter of the list that the user came from, without its page."""
    filters = QueryDict(request.GET.get("_changelist_filters", ""), mutable=True)
    for name in ("p", "all"):
        filters.pop(name, None)
    return filters


def _describe_saved(item: Item) -> str:
    """Describe a saved decision, with a link to the item, where it can be undone."""
    return format_html(
        'Saved: <a href="{}">{}</a>: {}. Reason: {}',
        reverse("admin:audit_item_change", args=[item.pk]),
        item,
        format_decision(item),
        Truncator(item.adjudication).chars(_EXCERPT_CHARS),
    )


def _get_reader(item: Item) -> User:
    """Return the user who is viewing an item that `ItemAdmin.get_object` loaded."""
    reader: User = getattr(item, "reader", None) or User()
    return reader


class ReadOnlyAdmin(ReviewerAdmin):
    """Base class for rows that reviewers can read but no user can change."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """These rows are written by pages and workers only."""
        return False

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Shown to reviewers only."""
        return request.user.has_perm(ADJUDICATE)


@admin.register(HiddenVerdict)
class HiddenVerdictAdmin(ReadOnlyAdmin):
    """Scores and verdicts of judge and meta-judge, hidden from auditors."""

    list_display = ("format_item", "format_outcome", "format_details")
    list_filter = (("item__batch", admin.RelatedOnlyFieldListFilter),)
    list_select_related = ("item__batch", "item__hidden_verdict", "item__known")
    list_per_page = _ROWS_ON_A_PAGE
    fields = readonly_fields = ("format_item", "format_verdicts")

    def get_queryset(self, request: HttpRequest) -> QuerySet[HiddenVerdict]:
        """Load the rows of items that the reviewer can no longer be asked to answer."""
        seen = get_reviewable_items(get_user(request))
        return HiddenVerdict.objects.filter(Q(item__in=seen) | Q(item__original__in=seen))

    @admin.display(ordering="item__number", description="item")
    def format_item(self, row: HiddenVerdict) -> str:
        """Format the item as batch and number."""
        return capfirst(str(row.item))

    @admin.display(description="meta-judge or judge")
    def format_outcome(self, row: HiddenVerdict) -> str:
        """Format both verdicts, or the judge's mean score."""
        return format_meta_judge(row.item)

    @admin.display(description="details")
    def format_details(self, row: HiddenVerdict) -> str:
        """Format ratings and scores, or the judgments behind the mean, in one line."""
        skipped = 1 if row.item.batch.kind == ItemKind.RESPONSES else 2
        facts = list_facts(row.item)[skipped:]
        return "; ".join(f"{fact.name}: {fact.value}" for fact in facts)

    @admin.display(description="judge and meta-judge")
    def format_verdicts(self, row: HiddenVerdict) -> str:
        """Format the verdicts with the letters of the item's page."""
        return format_table(("", ""), [(fact.name, fact.value) for fact in list_facts(row.item)])


@admin.register(KnownItem)
class KnownItemAdmin(ReadOnlyAdmin):
    """Items with known answers that the auditors of a batch answer first."""

    list_display = ("format_place", "format_prompt", "format_answer", "format_source",
                    "list_answers")  # fmt: skip
    list_display_links = ("format_place", "format_prompt")
    list_filter = (("batch", admin.RelatedOnlyFieldListFilter),)
    search_fields = ("instruction", "response")
    search_help_text = "Search prompts and responses."
    list_select_related = ("batch", "source__batch")
    fields = readonly_fields = ("format_place", "format_answer", "format_source",
                                "show_instruction", "show_response", "show_first",
                                "show_second", "list_answers")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[KnownItem]:
        """Load the items of visible batches that the reviewer is not being asked to answer."""
        user = get_user(request)
        is_asked = Q(batch__status=BatchStatus.OPEN, batch__in=user.audit_batches.all())
        found = KnownItem.objects.filter(batch__in=get_visible_batches(user)).exclude(is_asked)
        return found.prefetch_related("copies__answer")

    @admin.display(ordering="number", description="known item")
    def format_place(self, row: KnownItem) -> str:
        """Format the item as batch and number."""
        return capfirst(str(row))

    @admin.display(ordering="instruction", description="prompt")
    def format_prompt(self, row: KnownItem) -> str:
        """Format the beginning of the prompt."""
        return Truncator(row.instruction).chars(_EXCERPT_CHARS)

    @admin.display(ordering="answer", description="known answer")
    def format_answer(self, row: KnownItem) -> str:
        """Format the known answer in the stored order of the judgments."""
        return format_outcome(row.answer)

    @admin.display(description="source")
    def format_source(self, row: KnownItem) -> str:
        """Link to the adjudicated item that it is a copy of."""
        if row.source is None:
            return "file"
        address = reverse("admin:audit_item_change", args=[row.source_id])
        return format_html('<a href="{}">adjudicated {}</a>', address, row.source)

    @admin.display(description="answers")
    def list_answers(self, row: KnownItem) -> str:
        """List the answers of all auditors."""
        answers = [copy.answer for copy in row.copies.all() if hasattr(copy, "answer")]
        lines = [
            (one.auditor_name, format_outcome(value), "" if value == row.answer else " (differs)")
            for one in answers
            for value in [one.choice or f"{one.points:g}"]
        ]
        return format_html_join("", "<div>{}: {}{}</div>", lines) or "none yet"

    @admin.display(description="instruction")
    def show_instruction(self, row: KnownItem) -> str:
        """Show the whole prompt."""
        return format_text(row.instruction)

    @admin.display(description="response")
    def show_response(self, row: KnownItem) -> str:
        """Show the whole response."""
        return format_text(row.response)

    @admin.display(description="first judgment")
    def show_first(self, row: KnownItem) -> str:
        """Show the first judgment in stored order."""
        return format_text(row.first)

    @admin.display(description="second judgment")
    def show_second(self, row: KnownItem) -> str:
        """Show the second judgment in stored order."""
        return format_text(row.second)


@admin.register(AdjudicationDraft)
class AdjudicationDraftAdmin(ReadOnlyAdmin):
    """Decisions that review leads have not saved yet."""

    list_display = ("format_item", "lead", "format_choice", "format_reason", "format_updated")
    list_filter = (("lead", admin.RelatedOnlyFieldListFilter),
                   ("item__batch", admin.RelatedOnlyFieldListFilter))  # fmt: skip
    search_fields = ("lead__username", "reason")
    search_help_text = "Search review leads and reasons."
    list_select_related = ("item__batch__experiment", "item__hidden_verdict", "lead")
    fields = readonly_fields = ("format_item", "list_links", "lead", "format_choice",
                                "show_reason", "format_updated")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[AdjudicationDraft]:
        """Load the drafts of items that the reviewer can see."""
        seen = get_reviewable_items(get_user(request))
        return AdjudicationDraft.objects.filter(item__in=seen)

    @admin.display(ordering="item__number", description="item")
    def format_item(self, row: AdjudicationDraft) -> str:
        """Format the item as batch and number."""
        return capfirst(str(row.item))

    @admin.display(description="links")
    def list_links(self, row: AdjudicationDraft) -> str:
        """Link to the item, and to the pages of the site about it."""
        change = reverse("admin:audit_item_change", args=[row.item_id])
        return format_links(row.item, [(change, "item"), *list_item_links(row.item)])

    @admin.display(ordering="choice", description="decision")
    def format_choice(self, row: AdjudicationDraft) -> str:
        """Format the decision with the letters of the item's page."""
        is_score = row.item.batch.kind == ItemKind.RESPONSES
        shown = row.choice if is_score else format_choice(row.choice, row.item)
        return shown if row.choice else "–"

    @admin.display(ordering="reason", description="reason")
    def format_reason(self, row: AdjudicationDraft) -> str:
        """Format the beginning of the reason."""
        return Truncator(row.reason).chars(_EXCERPT_CHARS) or "–"

    @admin.display(description="reason")
    def show_reason(self, row: AdjudicationDraft) -> str:
        """Show the whole reason."""
        return format_text(row.reason)

    @admin.display(ordering="updated", description="changed")
    def format_updated(self, row: AdjudicationDraft) -> str:
        """Format when it was changed."""
        return format_time(row.updated)


@admin.register(Gate)
class GateAdmin(ReadOnlyAdmin):
    """Experiments that require a passed audit, and its terms."""

    list_display = ("format_experiment", "format_bound", "count_required", "format_failure",
                    "list_links")  # fmt: skip
    list_filter = (FailureFilter,)
    search_fields = ("experiment__name",)
    search_help_text = "Search experiments."
    list_select_related = ("experiment",)
    fields = readonly_fields = ("format_experiment", "format_bound", "count_required",
                                "format_failure", "list_links", "list_history")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Gate]:
        """Load the gates of visible experiments."""
        return Gate.objects.filter(experiment__in=get_visible_experiments(get_user(request)))

    @admin.display(ordering="experiment__name", description="experiment")
    def format_experiment(self, row: Gate) -> str:
        """Format the experiment."""
        return row.experiment.name

    @admin.display(ordering="min_agreement", description="agreement above")
    def format_bound(self, row: Gate) -> str:
        """Format the bound of the agreement's interval."""
        return f"{row.min_agreement:.0%}, with {row.confidence:.0%} confidence"

    @admin.display(ordering="min_answers", description="minimum answers")
    def count_required(self, row: Gate) -> int:
        """Count the answers that an audit needs."""
        return row.min_answers

    @admin.display(ordering="on_failure", description="if not passed")
    def format_failure(self, row: Gate) -> str:
        """Format what happens after an audit that did not pass."""
        return str(OnGateFailure(row.on_failure).label)

    @admin.display(description="links")
    def list_links(self, row: Gate) -> str:
        """Link to the page where the gate is set."""
        name = row.experiment.name
        address = reverse("experiment_audits", args=[name])
        return format_html('<a href="{}" aria-label="audits of {}">audits</a>', address, name)

    @admin.display(description="history")
    def list_history(self, row: Gate) -> str:
        """List all activity on the gate, newest first."""
        changes = list_audit_activity(row.experiment).filter(object_type=ObjectType.GATE)
        return format_activity(changes)


@admin.register(GateOverride)
class GateOverrideAdmin(ReadOnlyAdmin):
    """Overrides of the audit gate, those of deleted experiments included."""

    list_display = ("format_created", "format_creator", "experiment_name", "iteration",
                    "outcome", "reason")  # fmt: skip
    list_filter = ("outcome", "experiment_name")
    search_fields = ("created_by_name", "reason", "experiment_name")
    search_help_text = "Search users, reasons and experiments."
    fields = readonly_fields = ("experiment_name", "iteration", "outcome", "show_reason",
                                "format_creator", "format_created")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[GateOverride]:
        """Load the overrides of visible and of deleted experiments."""
        user = get_user(request)
        orphans = Q(experiment__isnull=True)
        if not user.has_perm(RUN_ALL):
            orphans &= Q(created_by=user)
        visible = Q(experiment__in=get_visible_experiments(user))
        return GateOverride.objects.filter(visible | orphans)

    @admin.display(ordering="created_by_name", description="created by")
    def format_creator(self, row: GateOverride) -> str:
        """Format who decided, whose name stays when the account is deleted."""
        return row.created_by_name

    @admin.display(ordering="created", description="created")
    def format_created(self, row: GateOverride) -> str:
        """Format when it was created."""
        return format_time(row.created)

    @admin.display(description="reason")
    def show_reason(self, row: GateOverride) -> str:
        """Show the whole reason."""
        return format_text(row.reason)
