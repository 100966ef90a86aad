"""Admin pages of audits: answers, adjudication, history, assignment, closing."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.models import User
from django.db import models
from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    TextField,
    Value,
    When,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
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
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator

from meta_reward_core.errors import InputError
from webapp.accounts.permissions import get_user
from webapp.accounts.roles import ADJUDICATE, ANSWER
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.audit.adjudication import (
    Decision,
    adjudicate_item,
    check_reason,
    explain_refusal,
)
from webapp.audit.annotation_queue import TAGS, get_possible_auditors
from webapp.audit.exports import export_answers
from webapp.audit.forms import JUDGMENT_CHOICES, to_item_choice
from webapp.audit.models import (
    AdjudicationDraft,
    Answer,
    Batch,
    BatchStatus,
    Confidence,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    ItemKind,
    KnownItem,
)
from webapp.audit.review_items import (
    DISAGREEMENTS,
    annotate_disagreements,
    filter_by_disagreement,
    filter_by_state,
    get_reviewable_items,
)
from webapp.audit.review_presenter import (
    format_decision,
    format_meta_judge,
    format_value,
    get_other_claimant,
    list_disagreements,
    list_facts,
    make_answer_views,
    make_history,
    make_links,
    make_review_rows,
)
from webapp.audit.selectors import get_visible_batches
from webapp.audit.services import assign_auditors, set_status

_ROWS_ON_A_PAGE: Final = 50
_EXCERPT_CHARS: Final = 80


class ReviewerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Base class for rows that reviewers see and no user adds or deletes."""

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

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Shown to reviewers, and to auditors for their own answers."""
        return request.user.has_perm(ADJUDICATE) or request.user.has_perm(ANSWER)


class AssignForm(ActionForm):
    """The auditor that the selected action applies to."""

    auditor = ModelChoiceField(
        queryset=User.objects.none(), required=False, label="Auditor:", empty_label="none"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = cast("ModelChoiceField[User]", self.fields["auditor"])
        field.queryset = get_possible_auditors()


@admin.register(Batch)
class BatchAdmin(ReviewerAdmin):
    """Batches: close them and assign auditors, several at once."""

    list_display = ("format_number", "format_origin", "format_kind", "status", "format_progress",
                    "list_auditors", "list_links", "created")  # fmt: skip
    list_filter = ("status", "kind", ("auditors", admin.RelatedOnlyFieldListFilter),
                   "experiment_name")  # fmt: skip
    search_fields = ("experiment_name", "auditors__username", "guidelines")
    search_help_text = "Search experiments, auditors and guidelines."
    fields = ("experiment_name", "iteration", "kind", "strategy", "seed", "list_links",
              "guidelines", "status", "auditors")  # fmt: skip
    readonly_fields = ("experiment_name", "iteration", "kind", "strategy", "seed", "list_links",
                       "guidelines")  # fmt: skip
    formfield_overrides: ClassVar = {
        models.ManyToManyField: {"widget": CheckboxSelectMultiple},
    }
    actions = ("close_batches", "open_batches", "assign", "unassign", "export")
    action_form = AssignForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Batch]:
        """Load batches with their counts and auditors."""
        counted = (
            super()
            .get_queryset(request)
            .filter(pk__in=get_visible_batches(get_user(request)))
            .annotate(
                item_count=Count("items", distinct=True),
                answer_count=Count("items__answer", distinct=True),
            )
        )
        rows: QuerySet[Batch] = counted.prefetch_related("auditors").order_by("-created", "-pk")
        return rows

    @admin.display(ordering="pk", description="batch")
    def format_number(self, row: Batch) -> str:
        """Format the number of the batch."""
        return f"Batch {row.pk}"

    @admin.display(ordering="experiment_name", description="experiment")
    def format_origin(self, row: Batch) -> str:
        """Format the source of the items and the sampling strategy."""
        return f"{row.experiment_name}, iteration {row.iteration}, by {row.strategy}"

    @admin.display(ordering="kind", description="items")
    def format_kind(self, row: Batch) -> str:
        """Format the kind of the items."""
        return "judgments" if row.kind == ItemKind.JUDGMENTS else "responses"

    @admin.display(description="links")
    def list_links(self, row: Batch) -> str:
        """Link to the items here and to the pages on the site."""
        items = f"{reverse('admin:audit_item_changelist')}?batch__id__exact={row.pk}"
        queue = f"{reverse('audit_items')}?batch={row.pk}"
        links = [
            (items, f"items of batch {row.pk}", "items"),
            (queue, f"adjudicate batch {row.pk}", "adjudicate"),
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
        return HttpResponse(
            export_answers(rows),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="audit-answers.csv"'},
        )

    @admin.display(description="answers")
    def format_progress(self, row: Any) -> str:
        """Format the progress of the batch."""
        return f"{row.answer_count} of {row.item_count}"

    @admin.display(description="auditors")
    def list_auditors(self, row: Batch) -> str:
        """List the assigned auditors."""
        return ", ".join(sorted(person.username for person in row.auditors.all())) or "nobody"

    @admin.action(description="Assign to auditor")
    def assign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Assign an auditor to the selected batches."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            for batch in rows:
                self._assign(request, batch, {*batch.auditors.all(), auditor})
            self.message_user(request, f"{rows.count()} batches were assigned to {auditor}.")

    @admin.action(description="Remove from auditor")
    def unassign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Remove an auditor from the selected batches; answers stay."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            for batch in rows:
                self._assign(request, batch, {*batch.auditors.all()} - {auditor})
            self.message_user(request, f"{rows.count()} batches were removed from {auditor}.")

    def _get_chosen_auditor(self, request: HttpRequest) -> User | None:
        chosen = get_possible_auditors().filter(pk=request.POST.get("auditor") or 0).first()
        if chosen is None:
            self.message_user(request, "Choose an auditor next to the action.", messages.ERROR)
        return chosen

    def _assign(self, request: HttpRequest, batch: Batch, wanted: Iterable[User]) -> None:
        for said in assign_auditors(batch, wanted, by=get_user(request)):
            self.message_user(request, said, messages.WARNING)

    @admin.action(description="Close")
    def close_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Close batches, which then accept no answers."""
        for batch in rows:
            set_status(batch, BatchStatus.CLOSED, by=get_user(request))

    @admin.action(description="Reopen")
    def open_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Reopen batches."""
        for batch in rows:
            set_status(batch, BatchStatus.OPEN, by=get_user(request))

    def save_model(self, request: HttpRequest, obj: Batch, form: Any, change: Any) -> None:  # noqa: ARG002
        """Close or reopen a batch and record it in the activity log."""
        set_status(obj, obj.status, by=get_user(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:  # noqa: ARG002
        """Assign auditors and record it in the activity log."""
        self._assign(request, form.instance, form.cleaned_data["auditors"])


def annotate_agreement(rows: QuerySet[Answer]) -> QuerySet[Answer]:
    """Annotate answers with their agreement with the meta-judge, disagreements first."""
    forward, backward = (
        KeyTextTransform(name, "item__hidden_verdict__facts") for name in ("forward", "backward")
    )
    said = rows.annotate(forward=Cast(forward, CharField()), backward=Cast(backward, CharField()))
    return said.annotate(
        agreement=Case(
            When(choice="", then=Value(3)),
            When(forward=F("choice"), backward=F("choice"), then=Value(2)),
            When(forward=F("choice"), then=Value(1)),
            When(backward=F("choice"), then=Value(1)),
            default=Value(0),
            output_field=IntegerField(),
        )
    )


class ChoiceFilter(admin.SimpleListFilter):
    """A filter with fixed choices; subclasses select the rows of each choice."""

    options: ClassVar[Mapping[str, str]] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """The choices besides "All"."""
        return list(self.options.items())

    def queryset(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002
        """Filter by the chosen value; an unknown value is ignored."""
        value = self.value()
        return rows if value is None or value not in self.options else self.select(rows, value)

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Select the rows of a choice."""
        raise NotImplementedError


class AgreementFilter(ChoiceFilter):
    """Answers by the number of meta-judge verdicts that agree."""

    title = "meta-judge"
    parameter_name = "agreement"
    options: ClassVar = {"0": "disagrees", "1": "agrees in one order", "2": "agrees"}

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Answers of the chosen agreement."""
        return rows.filter(agreement=int(value))


class TagFilter(ChoiceFilter):
    """Answers, or items with an answer, that have a tag."""

    title = "tag"
    parameter_name = "tag"
    options: ClassVar = {tag: tag for tag in TAGS}

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Rows with the tag."""
        tagged = Answer.objects.annotate(tag_text=Cast("tags", TextField()))
        return _select_by_answers(rows, tagged.filter(tag_text__contains=f'"{value}"'))


class ConfidenceFilter(ChoiceFilter):
    """Items by the lowest confidence among their answers."""

    title = "confidence"
    parameter_name = "confidence"
    options: ClassVar = {
        str(value): f"an answer is: {label}" for value, label in Confidence.choices
    }

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Items with such an answer."""
        return _select_by_answers(rows, Answer.objects.filter(confidence=int(value)))


def _select_by_answers(rows: QuerySet[Any], answers: QuerySet[Answer]) -> QuerySet[Any]:
    if rows.model is Answer:
        return rows.filter(pk__in=answers.values("pk"))
    of_item = Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk"))
    return rows.filter(Exists(answers.filter(of_item)))


@admin.register(Answer)
class AnswerAdmin(ReviewerAdmin):
    """Answers: reviewers see all, disagreements first; auditors see only their own."""

    list_display = ("format_item", "auditor_name", "get_answer", "confidence", "get_agreement",
                    "format_tags", "format_comment", "submitted")  # fmt: skip
    list_filter = (AgreementFilter, "confidence", "choice", TagFilter, "item__batch")
    search_fields = ("comment", "auditor_name", "item__instruction")
    search_help_text = "Search comments, auditors and prompts."
    list_select_related = ("item__batch", "item__original")
    list_per_page = _ROWS_ON_A_PAGE
    fields = readonly_fields = ("format_item", "auditor_name", "get_answer", "confidence",
                                "format_tags", "comment", "seconds", "submitted", "revealed",
                                "source")  # fmt: skip

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

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Show filters that reveal verdicts of the meta-judge to reviewers only."""
        filters = super().get_list_filter(request)
        return filters if request.user.has_perm(ADJUDICATE) else ("confidence", "choice")

    def get_list_display(self, request: HttpRequest) -> Any:
        """Show columns that reveal verdicts of the meta-judge to reviewers only."""
        if request.user.has_perm(ADJUDICATE):
            return self.list_display
        return tuple(name for name in self.list_display if name != "get_agreement")

    @admin.display(ordering="item__number", description="item")
    def format_item(self, row: Answer) -> str:
        """Format the item as batch and number."""
        original = row.item.original
        again = f" repeats {original.number}" if original is not None else ""
        return f"{row.item.batch_id}/{row.item.number}{again}"

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


class DisagreementFilter(ChoiceFilter):
    """Items by kind of disagreement."""

    title = "disagreement"
    parameter_name = "disagreement"
    options: ClassVar = {"any": "any disagreement", **DISAGREEMENTS}

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Items with the chosen disagreement."""
        return filter_by_disagreement(rows, "" if value == "any" else value)


class StateFilter(ChoiceFilter):
    """Items with or without a decision."""

    title = "decision"
    parameter_name = "state"
    options: ClassVar = {"open": "not adjudicated", "adjudicated": "adjudicated"}

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Items of the chosen state."""
        return filter_by_state(rows, "" if value == "open" else value)


class ItemDecisionForm(ModelForm):  # type: ignore[type-arg]
    """A decision on an item, with the same rules as on the site."""

    adjudicated = ChoiceField(label="Decision", widget=RadioSelect)
    adjudication = CharFormField(label="Reason", widget=Textarea(attrs={"rows": 3, "cols": 80}))
    version = IntegerFormField(widget=HiddenInput)

    class Meta:
        """Only that."""

        model = Item
        fields = ("adjudicated", "adjudication")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        item = self.instance
        choices = cast("ChoiceField", self.fields["adjudicated"])
        choices.choices = _list_decisions(item)
        self.fields["version"].initial = item.adjudication_version

    def clean_adjudication(self) -> str:
        """A reason, as on the site."""
        try:
            return check_reason(self.cleaned_data["adjudication"])
        except InputError as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        """Refuse a decision that is based on an outdated state of the item."""
        values = super().clean() or {}
        now = Item.objects.get(pk=self.instance.pk)
        if values.get("version") != now.adjudication_version:
            who = now.adjudicated_by_name or "Another review lead"
            raise ValidationError(
                f"{who} changed this item while you were reading it: the decision is now "
                f"{format_decision(now) or 'undone'}. Reload the page to decide from there."
            )
        return values


def _list_decisions(item: Item) -> list[tuple[str, str]]:
    if item.batch.kind == ItemKind.JUDGMENTS:
        return [(to_item_choice(value, item), label) for value, label in JUDGMENT_CHOICES]
    scores = [str(score) for score in range(6)]
    known = scores if item.adjudicated in ("", *scores) else [*scores, item.adjudicated]
    return [(score, score) for score in known]


@admin.register(Item)
class ItemAdmin(ReviewerAdmin):
    """Items: read the answers and adjudicate."""

    form = ItemDecisionForm
    list_display = ("format_place", "format_prompt", "format_disagreements", "format_answers",
                    "format_meta_judge", "format_decided", "format_decider")  # fmt: skip
    list_display_links = ("format_place", "format_prompt")
    list_filter = (DisagreementFilter, StateFilter, ConfidenceFilter, TagFilter, "batch",
                   "stratum")  # fmt: skip
    search_fields = ("instruction", "response", "answer__comment", "repeats__answer__comment",
                     "adjudication")  # fmt: skip
    search_help_text = "Search prompts, responses, comments and reasons."
    list_per_page = _ROWS_ON_A_PAGE
    readonly_fields = ("format_place", "list_links", "format_disagreements", "show_instruction",
                       "show_response", "show_judgment_a", "show_judgment_b", "list_answers",
                       "list_hidden_verdicts", "show_state", "list_history")  # fmt: skip
    fieldsets = (
        ("Item", {"fields": ("format_place", "list_links", "format_disagreements",
                             "show_instruction", "show_response", "show_judgment_a",
                             "show_judgment_b")}),
        ("Answers and verdicts", {"fields": ("list_answers", "list_hidden_verdicts")}),
        ("Decision", {"fields": ("show_state", "adjudicated", "adjudication", "version")}),
        ("History", {"fields": ("list_history",)}),
    )  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: Item | None = None) -> Any:
        """Show the decision as text where an item cannot be adjudicated."""
        sets: Any = super().get_fieldsets(request, obj)
        if self.has_change_permission(request, obj):
            return sets
        return [
            (name, {"fields": ("show_state",)} if name == "Decision" else given)
            for name, given in sets
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Item]:
        """Load items with their disagreements."""
        found = annotate_disagreements(get_reviewable_items(get_user(request)))
        return found.select_related("batch__experiment", "answer", "hidden_verdict", "claimed_by")

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

    @admin.display(ordering="number", description="item")
    def format_place(self, row: Item) -> str:
        """Format the item as batch and number."""
        return f"{row.batch_id}/{row.number}"

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
        lines = [(answer,) for answer in make_review_rows([row], User())[0].answers]
        return format_html_join("", "<div>{}</div>", lines) or "none yet"

    @admin.display(description="meta-judge or judge")
    def format_meta_judge(self, row: Item) -> str:
        """Format both verdicts, or the judge's mean score."""
        return format_meta_judge(row)

    @admin.display(ordering="adjudicated", description="decision")
    def format_decided(self, row: Item) -> str:
        """Format the decision with the letters of the item's page."""
        return format_decision(row) or "–"

    @admin.display(ordering="adjudicated_by_name", description="decided by")
    def format_decider(self, row: Item) -> str:
        """Format who decided."""
        return row.adjudicated_by_name or "–"

    @admin.display(description="links")
    def list_links(self, row: Item) -> str:
        """Link to the pages of the site about the item."""
        found = make_links(row)
        links = [
            (reverse("audit_review", args=[row.batch_id, row.number]), "review page"),
            (reverse("audit_report", args=[row.batch_id]), f"batch {row.batch_id}"),
            (found.prompt, "prompt, responses and judgments"),
            (found.battle, "battle"),
        ]
        return format_html_join(" · ", '<a href="{}">{}</a>', [one for one in links if one[0]])

    @admin.display(description="instruction")
    def show_instruction(self, row: Item) -> str:
        """Show the whole prompt."""
        return _format_text(row.instruction)

    @admin.display(description="response")
    def show_response(self, row: Item) -> str:
        """Show the whole response."""
        return _format_text(row.response)

    @admin.display(description="judgment A")
    def show_judgment_a(self, row: Item) -> str:
        """Show the judgment that the item's page shows as A."""
        return _format_text(row.second if row.is_swapped else row.first)

    @admin.display(description="judgment B")
    def show_judgment_b(self, row: Item) -> str:
        """Show the judgment that the item's page shows as B."""
        return _format_text(row.first if row.is_swapped else row.second)

    @admin.display(description="answers")
    def list_answers(self, row: Item) -> str:
        """List all answers to the item and its repeats."""
        lines = [
            (one.auditor, one.occasion, one.answer, one.confidence, ", ".join(one.tags) or "–",
             one.comment or "–")
            for one in make_answer_views(row, User())
        ]  # fmt: skip
        return _format_table(
            ("Auditor", "Occasion", "Answer", "Confidence", "Tags", "Comment"), lines
        )

    @admin.display(description="judge and meta-judge")
    def list_hidden_verdicts(self, row: Item) -> str:
        """List what was hidden from the auditors."""
        return _format_table(("", ""), [(fact.name, fact.value) for fact in list_facts(row)])

    @admin.display(description="current decision")
    def show_state(self, row: Item) -> str:
        """Show the current decision, and why it cannot be changed."""
        refusal = explain_refusal(row)
        claimed = get_other_claimant(row, User())
        parts = [
            f"{format_decision(row)}, by {row.adjudicated_by_name}: {row.adjudication}"
            if row.adjudicated
            else "none",
            f"{claimed} opened this item on the site and may be deciding it." if claimed else "",
            refusal,
        ]
        return format_html_join("", "<div>{}</div>", [(part,) for part in parts if part])

    @admin.display(description="history")
    def list_history(self, row: Item) -> str:
        """List all activity on the item."""
        lines = [
            (f"{one.created:%Y-%m-%d %H:%M:%S}", one.who, one.what, one.details)
            for one in make_history(row)
        ]
        return _format_table(("When", "By", "Action", "Details"), lines)

    def save_model(self, request: HttpRequest, obj: Item, form: Any, change: Any) -> None:  # noqa: ARG002
        """Store the decision by the same rules as the site, and record it in the activity log."""
        decision = Decision(obj.adjudicated, obj.adjudication, form.cleaned_data["version"])
        if not adjudicate_item(obj, decision, by=get_user(request)):
            self.message_user(
                request,
                "The decision was not saved, because another review lead changed the item at the "
                "same time. What you wrote is kept as a draft on the review page.",
                messages.ERROR,
            )


def _format_text(text: str) -> str:
    return format_html('<div class="review-text">{}</div>', text) if text else "–"


def _format_table(headings: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    rows = [(format_html_join("", "<td>{}</td>", [(cell,) for cell in line]),) for line in lines]
    if not rows:
        return "none yet"
    named = [(heading,) for heading in headings if heading]
    head = format_html_join("", '<th scope="col">{}</th>', named)
    return format_html(
        '<div class="review-table"><table>{}<tbody>{}</tbody></table></div>',
        format_html("<thead><tr>{}</tr></thead>", head) if head else "",
        format_html_join("", "<tr>{}</tr>", rows),
    )


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

    list_display = ("format_item", "format_verdicts")
    list_filter = ("item__batch",)
    list_select_related = ("item__batch", "item__hidden_verdict")
    fields = readonly_fields = ("format_item", "format_verdicts")

    def get_queryset(self, request: HttpRequest) -> QuerySet[HiddenVerdict]:
        """Load those of items that the reviewer can no longer be asked to answer."""
        seen = get_reviewable_items(get_user(request))
        return HiddenVerdict.objects.filter(Q(item__in=seen) | Q(item__original__in=seen))

    @admin.display(ordering="item__number", description="item")
    def format_item(self, row: HiddenVerdict) -> str:
        """Format the item as batch and number."""
        return f"{row.item.batch_id}/{row.item.number}"

    @admin.display(description="judge and meta-judge")
    def format_verdicts(self, row: HiddenVerdict) -> str:
        """Format the verdicts with the letters of the item's page."""
        return _format_table(("", ""), [(fact.name, fact.value) for fact in list_facts(row.item)])


@admin.register(KnownItem)
class KnownItemAdmin(ReadOnlyAdmin):
    """Items with known answers that the auditors of a batch answer first."""

    list_display = ("__str__", "batch", "answer", "source")
    list_filter = ("batch",)
    search_fields = ("instruction", "response")
    list_select_related = ("batch", "source__batch")

    def get_queryset(self, request: HttpRequest) -> QuerySet[KnownItem]:
        """Load those of visible batches that the reviewer is not asked to answer now."""
        user = get_user(request)
        is_asked = Q(batch__status=BatchStatus.OPEN, batch__in=user.audit_batches.all())
        return KnownItem.objects.filter(batch__in=get_visible_batches(user)).exclude(is_asked)


@admin.register(AdjudicationDraft)
class AdjudicationDraftAdmin(ReadOnlyAdmin):
    """Decisions that review leads have not saved yet."""

    list_display = ("item", "lead", "choice", "updated")
    list_filter = ("lead", "item__batch")
    search_fields = ("lead__username", "reason")
    list_select_related = ("item__batch", "lead")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AdjudicationDraft]:
        """Load those of items that the reviewer can see."""
        seen = get_reviewable_items(get_user(request))
        return AdjudicationDraft.objects.filter(item__in=seen)


@admin.register(Gate)
class GateAdmin(ReadOnlyAdmin):
    """Experiments that require a passed audit, and its terms."""

    list_display = ("experiment", "min_agreement", "confidence", "min_answers", "on_failure")
    list_filter = ("on_failure",)
    search_fields = ("experiment__name",)
    list_select_related = ("experiment",)


@admin.register(GateOverride)
class GateOverrideAdmin(ReadOnlyAdmin):
    """Overrides of the audit gate, those of deleted experiments included."""

    list_display = (
        "created",
        "created_by_name",
        "experiment_name",
        "iteration",
        "outcome",
        "reason",
    )
    list_filter = ("outcome", "experiment_name")
    search_fields = ("created_by_name", "reason", "experiment_name")
