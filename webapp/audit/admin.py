"""Review: answers with disagreements first, adjudication, history, assignment, closing."""

from collections.abc import Iterable
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.auth.models import User
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
    Value,
    When,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.forms import ModelChoiceField, ModelForm, ValidationError
from django.http import HttpRequest
from django.utils.html import format_html_join

from webapp.accounts.current_user import get_user
from webapp.accounts.roles import ADJUDICATE, ANSWER
from webapp.activity.models import Activity
from webapp.audit.annotation_queue import get_possible_auditors
from webapp.audit.models import (
    Answer,
    Batch,
    BatchStatus,
    Confidence,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    PreferenceLabel,
)
from webapp.audit.selectors import list_item_activity
from webapp.audit.services import adjudicate_item, assign_auditors, set_status


class ReviewerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that reviewers see and nobody adds or deletes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Rows are created by annotation pages and imports."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Nothing of an audit is deleted."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Only reviewers change anything."""
        return request.user.has_perm(ADJUDICATE)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Reviewers see everything."""
        return request.user.has_perm(ADJUDICATE)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Reviewers, and auditors for their own answers."""
        return request.user.has_perm(ADJUDICATE) or request.user.has_perm(ANSWER)


class AssignForm(ActionForm):
    """For whom the chosen action is."""

    auditor = ModelChoiceField(
        queryset=User.objects.none(), required=False, label="", empty_label="Auditor"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = cast("ModelChoiceField[User]", self.fields["auditor"])
        field.queryset = get_possible_auditors()


@admin.register(Batch)
class BatchAdmin(ReviewerAdmin):
    """Batches: close them, and say who answers them, several at once."""

    list_display = ("pk", "experiment_name", "iteration", "kind", "strategy", "status",
                    "format_progress", "list_auditors", "created")  # fmt: skip
    list_filter = ("status", "kind", "experiment_name")
    fields = ("experiment_name", "iteration", "kind", "strategy", "seed", "status", "auditors")
    readonly_fields = ("experiment_name", "iteration", "kind", "strategy", "seed")
    filter_horizontal = ("auditors",)
    actions = ("close_batches", "open_batches", "assign", "unassign")
    action_form = AssignForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Batch]:
        """Batches with their counts and auditors."""
        counted = (
            super()
            .get_queryset(request)
            .annotate(
                item_count=Count("items", distinct=True),
                answer_count=Count("items__answer", distinct=True),
            )
        )
        rows: QuerySet[Batch] = counted.prefetch_related("auditors").order_by("-created", "-pk")
        return rows

    @admin.display(description="answers")
    def format_progress(self, row: Any) -> str:
        """How far the batch is."""
        return f"{row.answer_count} of {row.item_count}"

    @admin.display(description="auditors")
    def list_auditors(self, row: Batch) -> str:
        """Who answers it."""
        return ", ".join(sorted(person.username for person in row.auditors.all())) or "nobody"

    @admin.action(description="Assign to")
    def assign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Let an auditor answer the chosen batches, too."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            for batch in rows:
                self._assign(request, batch, {*batch.auditors.all(), auditor})
            self.message_user(request, f"{rows.count()} batches were assigned to {auditor}.")

    @admin.action(description="Take away from")
    def unassign(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Let an auditor answer the chosen batches no longer; answers stay."""
        auditor = self._get_chosen_auditor(request)
        if auditor is not None:
            for batch in rows:
                self._assign(request, batch, {*batch.auditors.all()} - {auditor})
            self.message_user(request, f"{rows.count()} batches were taken away from {auditor}.")

    def _get_chosen_auditor(self, request: HttpRequest) -> User | None:
        chosen = get_possible_auditors().filter(pk=request.POST.get("auditor") or 0).first()
        if chosen is None:
            self.message_user(request, "Choose an auditor beside the action.", messages.ERROR)
        return chosen

    def _assign(self, request: HttpRequest, batch: Batch, wanted: Iterable[User]) -> None:
        for said in assign_auditors(batch, wanted, by=get_user(request)):
            self.message_user(request, said, messages.WARNING)

    @admin.action(description="Close")
    def close_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Take no more answers."""
        for batch in rows:
            set_status(batch, BatchStatus.CLOSED, by=get_user(request))

    @admin.action(description="Open again")
    def open_batches(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        """Take answers again."""
        for batch in rows:
            set_status(batch, BatchStatus.OPEN, by=get_user(request))

    def save_model(self, request: HttpRequest, obj: Batch, form: Any, change: Any) -> None:  # noqa: ARG002
        """Close or open a batch, and write down who did."""
        set_status(obj, obj.status, by=get_user(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:  # noqa: ARG002
        """Say who answers a batch, and write down who said so."""
        self._assign(request, form.instance, form.cleaned_data["auditors"])


def annotate_agreement(rows: QuerySet[Answer]) -> QuerySet[Answer]:
    """Say of each answer how it stands to the meta-judge's verdicts, disagreements first."""
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


class AgreementFilter(admin.SimpleListFilter):
    """Answers by how many of the meta-judge's verdicts say the same."""

    title = "meta-judge"
    parameter_name = "agreement"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """From the most to the least conflict."""
        return [("0", "disagrees"), ("1", "agrees in one order"), ("2", "agrees")]

    def queryset(self, request: HttpRequest, rows: QuerySet[Answer]) -> QuerySet[Answer]:  # noqa: ARG002
        """Rows of the chosen agreement."""
        return rows.filter(Q(agreement=self.value())) if self.value() else rows


@admin.register(Answer)
class AnswerAdmin(ReviewerAdmin):
    """Answers: reviewers see all, disagreements first; auditors see their own alone."""

    list_display = ("get_item_number", "get_batch", "auditor_name", "get_answer", "confidence",
                    "get_agreement", "tags", "submitted")  # fmt: skip
    list_filter = (AgreementFilter, "confidence", "choice", "item__batch")
    search_fields = ("comment", "auditor_name")
    list_select_related = ("item__batch",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Answer]:
        """Everybody's for reviewers, one's own for auditors."""
        if request.user.has_perm(ADJUDICATE):
            return annotate_agreement(Answer.objects.all())
        return Answer.objects.filter(auditor=get_user(request))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Disagreements of the surest first."""
        if request.user.has_perm(ADJUDICATE):
            return ("agreement", "-confidence", "pk")
        return ("-submitted",)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Auditors see their own work."""
        if super().has_view_permission(request, obj):
            return True
        own = obj is None or obj.auditor_id == request.user.pk
        return own and request.user.has_perm(ANSWER)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Answers are changed on the annotation page only; reviewers adjudicate the item."""
        return False

    def get_list_filter(self, request: HttpRequest) -> Any:
        """What would tell an auditor the meta-judge's verdict is for reviewers."""
        filters = super().get_list_filter(request)
        return filters if request.user.has_perm(ADJUDICATE) else ("confidence", "choice")

    def get_list_display(self, request: HttpRequest) -> Any:
        """The same holds of columns."""
        if request.user.has_perm(ADJUDICATE):
            return self.list_display
        return ("get_item_number", "auditor_name", "get_answer", "confidence", "tags", "submitted")

    @admin.display(ordering="item__number", description="item")
    def get_item_number(self, row: Answer) -> str:
        """The item's place in its batch."""
        return f"{row.item.batch_id}/{row.item.number}"

    @admin.display(ordering="item__batch", description="batch")
    def get_batch(self, row: Answer) -> str:
        """The batch, for reviewers."""
        return str(row.item.batch)

    @admin.display(description="answer")
    def get_answer(self, row: Answer) -> str:
        """The answer, whatever its kind."""
        return row.choice or f"{row.points:g}"

    @admin.display(ordering="agreement", description="meta-judge")
    def get_agreement(self, row: Any) -> str:
        """How many verdicts say the same."""
        names = {0: "disagrees", 1: "agrees in one order", 2: "agrees"}
        return names.get(row.agreement, "")


def _format_answer(answer: Answer) -> str:
    sure = Confidence(answer.confidence).label
    return f"{answer.choice or f'{answer.points:g}'}, {sure}"


def annotate_conflicts(rows: QuerySet[Item]) -> QuerySet[Item]:
    """Say of each item whether auditors differ on it, and whether nobody has settled that."""
    repeats = Answer.objects.filter(item__original=OuterRef("pk"))
    same = Q(choice=OuterRef("answer__choice")) & (
        Q(points=OuterRef("answer__points")) | Q(points__isnull=True)
    )
    differs = Q(is_answered=True) & Exists(repeats.exclude(same))
    return rows.annotate(
        differs=Case(When(differs, then=Value(1)), default=Value(0)),
        unsettled=Case(When(differs, adjudicated="", then=Value(1)), default=Value(0)),
    )


class ConflictFilter(admin.SimpleListFilter):
    """Items on which auditors differ: a repeat has another answer than the item."""

    title = "auditors"
    parameter_name = "auditors"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """Only those that differ can be asked for."""
        return [("differ", "differ")]

    def queryset(self, request: HttpRequest, rows: QuerySet[Item]) -> QuerySet[Item]:  # noqa: ARG002
        """Items of which one answer differs from another."""
        return rows.filter(Q(differs=1)) if self.value() == "differ" else rows


class AdjudicationForm(ModelForm):  # type: ignore[type-arg]
    """The last word on an item."""

    class Meta:
        """Only that."""

        model = Item
        fields = ("adjudicated", "adjudication")
        labels = {"adjudicated": "Last word", "adjudication": "Reason"}  # noqa: RUF012
        help_texts = {  # noqa: RUF012
            "adjudicated": "first, second, tie or neither; for a response a score from 0 to 5. "
            "Empty: the answer counts.",
        }

    def clean_adjudicated(self) -> str:
        """One of the answers that an auditor could give."""
        value: str = self.cleaned_data["adjudicated"].strip()
        if not value or _is_answer(value, self.instance.batch.kind):
            return value
        raise ValidationError("first, second, tie or neither; for a response a score from 0 to 5")


def _is_answer(value: str, kind: str) -> bool:
    if kind == "judgments":
        return value in PreferenceLabel.values
    try:
        return 0 <= float(value) <= 5
    except ValueError:
        return False


@admin.register(Item)
class ItemAdmin(ReviewerAdmin):
    """Items: read the answers and have the last word."""

    form = AdjudicationForm
    list_display = ("number", "batch", "format_conflict", "stratum", "repeat_kind", "is_answered",
                    "adjudicated")  # fmt: skip
    list_filter = (ConflictFilter, "is_answered", "repeat_kind", "batch", "stratum")
    list_select_related = ("batch",)
    readonly_fields = ("batch", "number", "instruction", "response", "first", "second",
                       "list_answers", "list_hidden_verdicts", "list_history")  # fmt: skip
    fields = (*readonly_fields, "adjudicated", "adjudication")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Item]:  # noqa: ARG002
        """Items, with whether auditors differ on them."""
        return annotate_conflicts(Item.objects.all())

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:  # noqa: ARG002
        """Those on which auditors differ first, and of these the unsettled ones."""
        return ("-unsettled", "-differs", "batch", "number")

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For reviewers alone."""
        return request.user.has_perm(ADJUDICATE)

    @admin.display(ordering="differs", description="auditors")
    def format_conflict(self, row: Any) -> str:
        """Whether they differ."""
        return "differ" if row.differs else ""

    @admin.display(description="answers")
    def list_answers(self, row: Item) -> str:
        """What everybody said of the item, on its repeats, too."""
        found = Answer.objects.filter(Q(item=row) | Q(item__original=row)).select_related("item")
        lines = [
            (one.auditor_name, one.item.get_repeat_kind_display(), _format_answer(one), one.comment)
            for one in found.order_by("submitted", "pk")
        ]
        return format_html_join("", "<p>{} ({}): {} {}</p>", lines) or "none yet"

    @admin.display(description="judge and meta-judge")
    def list_hidden_verdicts(self, row: Item) -> str:
        """What was hidden from who answered."""
        facts = row.hidden_verdict.facts
        names = ("forward", "backward", "score_first", "score_second", "elo_first", "elo_second",
                 "mean", "variance")  # fmt: skip
        known = [(name.replace("_", " "), facts[name]) for name in names if name in facts]
        lines = [(name, f"{value:.2f}" if isinstance(value, float) else value)
                 for name, value in known]  # fmt: skip
        return format_html_join("", "<p>{}: {}</p>", lines)

    @admin.display(description="history")
    def list_history(self, row: Item) -> str:
        """Everything that happened to the item, from the activity log."""
        lines = [
            (f"{one.created:%Y-%m-%d %H:%M:%S}", one.actor_name, one.get_action_display(),
             _format_values(one))
            for one in list_item_activity(row)
        ]  # fmt: skip
        return format_html_join("", "<p>{} {}: {} {}</p>", lines) or "none yet"

    def save_model(self, request: HttpRequest, obj: Item, form: Any, change: Any) -> None:  # noqa: ARG002
        """Write the last word, and that it was spoken."""
        adjudicate_item(obj, choice=obj.adjudicated, reason=obj.adjudication, by=get_user(request))


def _format_values(entry: Activity) -> str:
    values = {**entry.after, **({"reason": entry.reason} if entry.reason else {})}
    return ", ".join(f"{name}: {value}" for name, value in values.items() if value not in ("", []))


class ReadOnlyAdmin(ReviewerAdmin):
    """Rows that reviewers read and nobody changes."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """These are written by pages and workers alone."""
        return False

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For reviewers alone."""
        return request.user.has_perm(ADJUDICATE)


@admin.register(HiddenVerdict)
class HiddenVerdictAdmin(ReadOnlyAdmin):
    """What judge and meta-judge said of the items, hidden from who answers."""

    list_display = ("item", "facts")
    list_filter = ("item__batch",)
    list_select_related = ("item__batch",)


@admin.register(Gate)
class GateAdmin(ReadOnlyAdmin):
    """Experiments that wait for a passed audit, and what it must show."""

    list_display = ("experiment", "min_agreement", "confidence", "min_answers", "on_failure")
    list_filter = ("on_failure",)
    search_fields = ("experiment__name",)
    list_select_related = ("experiment",)


@admin.register(GateOverride)
class GateOverrideAdmin(ReadOnlyAdmin):
    """What was decided without a passed audit, of deleted experiments too."""

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
