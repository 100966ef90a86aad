"""Select the audit items that a user can see, with their disagreements."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from django import forms
from django.contrib.auth.models import User
from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    FloatField,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
    When,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce, Now

from webapp.audit.annotation_queue import TAGS
from webapp.audit.models import (
    AdjudicationDraft,
    Answer,
    Batch,
    BatchStatus,
    Confidence,
    Item,
    PreferenceLabel,
    RepeatKind,
)
from webapp.audit.selectors import get_visible_batches

AUDITORS_DIFFER: Final = "auditors"
SELF_CONTRADICTION: Final = "repeat"
AGAINST_META_JUDGE: Final = "meta"
MIN_SCORE_GAP: Final = 1.0
"""Minimum distance of scores that counts as disagreement with the judge's mean."""

DISAGREEMENTS: Final[Mapping[str, str]] = {
    AUDITORS_DIFFER: "auditors differ",
    SELF_CONTRADICTION: "auditor contradicts own answer",
    AGAINST_META_JUDGE: "auditor against meta-judge",
}
"""Kinds of disagreement, the most important first."""

STATES: Final[Mapping[str, str]] = {
    "": "to adjudicate",
    "undecided": "without a decision",
    "adjudicated": "adjudicated",
    "drafts": "my drafts",
    "all": "all",
}
COMMENTS: Final[Mapping[str, str]] = {"yes": "with a comment", "no": "without a comment"}
"""Filters by whether an answer to the item, or to a repeat of it, has a comment."""
SORTS: Final[Mapping[str, str]] = {
    "": "disagreements first",
    "number": "batch and item number",
    "recent": "latest decision first",
    "unsure": "lowest confidence first",
}
_ORDERS: Final[Mapping[str, tuple[Any, ...]]] = {
    "": ("priority", "-batch", "number"),
    "number": ("-batch", "number"),
    "recent": (F("adjudicated_at").desc(nulls_last=True), "-batch", "number"),
    "unsure": (F("answer__confidence").asc(nulls_last=True), "-batch", "number"),
}
_MAX_NUMBER: Final = 2**31 - 1


def _number(label: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label, required=False, min_value=1, max_value=_MAX_NUMBER,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "size": 6}),
    )  # fmt: skip


class ReviewFilterForm(forms.Form):
    """Filter of the item list. By default: items with a disagreement and without a decision.

    Experiments, batches, strata and auditors are those that the user can see.
    """

    q = forms.CharField(label="Text or comment", required=False, max_length=200)
    state = forms.ChoiceField(label="State", required=False, choices=list(STATES.items()))
    disagreement = forms.ChoiceField(
        label="Disagreement",
        required=False,
        choices=[("", "any"), *DISAGREEMENTS.items(), ("all", "with or without")],
    )
    experiment = forms.ChoiceField(label="Experiment", required=False)
    iteration = _number("Iteration")
    batch = forms.TypedChoiceField(label="Batch", required=False, coerce=int, empty_value=None)
    stratum = forms.ChoiceField(label="Stratum", required=False)
    auditor = forms.ChoiceField(label="Auditor", required=False)
    tag = forms.ChoiceField(
        label="Tag", required=False, choices=[("", "any"), *((tag, tag) for tag in TAGS)]
    )
    confidence = forms.ChoiceField(
        label="Confidence",
        required=False,
        choices=[("", "any"), *((str(value), label) for value, label in Confidence.choices)],
    )
    comments = forms.ChoiceField(
        label="Comments", required=False, choices=[("", "any"), *COMMENTS.items()]
    )
    decided = forms.ChoiceField(
        label="Became a preference pair",
        required=False,
        choices=[("", "any"), ("yes", "yes"), ("no", "no")],
    )
    sort = forms.ChoiceField(label="Order", required=False, choices=list(SORTS.items()))

    def __init__(self, person: User, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        batches = get_visible_batches(person).order_by("-pk")
        rows = list(batches.values_list("pk", "experiment_name", "iteration"))
        items = get_reviewable_items(person)
        auditors = Answer.objects.filter(item__batch__in=batches)
        self._set_choices("experiment", sorted({name for _, name, _ in rows}))
        self._set_choices("stratum", _list_distinct(items, "stratum"))
        self._set_choices("auditor", _list_distinct(auditors, "auditor_name"))
        labels = {pk: f"{pk}: {name}, iteration {number}" for pk, name, number in rows}
        self._set_choices("batch", labels, labels)

    def _set_choices(
        self, field: str, values: Iterable[Any], labels: Mapping[Any, str] | None = None
    ) -> None:
        choices = cast("forms.ChoiceField", self.fields[field])
        choices.choices = [("", "any"), *((one, (labels or {}).get(one, one)) for one in values)]


def _list_distinct(rows: QuerySet[Any], field: str) -> list[str]:
    return sorted(set(rows.order_by().values_list(field, flat=True).distinct()))


def get_reviewable_items(person: User) -> QuerySet[Item]:
    """Return the items of batches that a user can see, without repeats.

    Items that the user may still be asked to answer are left out as well: the answers of others and
    the meta-judge's verdicts would influence theirs.
    """
    items = Item.objects.filter(batch__in=get_visible_batches(person), repeat_kind=RepeatKind.NO)
    is_asked = Q(batch__status=BatchStatus.OPEN, batch__in=person.audit_batches.all())
    waiting = Item.objects.filter(original=OuterRef("pk"), is_answered=False)
    return items.exclude(is_asked & (Q(is_answered=False) | Exists(waiting)))


def annotate_disagreements(items: QuerySet[Item]) -> QuerySet[Any]:
    """Annotate items with their disagreements: `differs`, `contradicts`, `against`.

    `priority` is the position of the most important one in `DISAGREEMENTS`. All answers to an item
    and its repeats count.
    """
    repeats = Answer.objects.filter(item__original=OuterRef("pk"))
    same = Q(choice=OuterRef("answer__choice")) & (
        Q(points=OuterRef("answer__points")) | Q(points__isnull=True)
    )
    unlike = repeats.exclude(same)
    verdicts = {
        name: Coalesce(
            Cast(KeyTextTransform(name, "hidden_verdict__facts"), CharField()), Value("")
        )
        for name in ("forward", "backward")
    }
    mean = Cast(KeyTextTransform("mean", "hidden_verdict__facts"), FloatField())
    human = Case(
        When(choice=PreferenceLabel.NEITHER, then=Value(PreferenceLabel.TIE.value)),
        default=F("choice"),
        output_field=CharField(),
    )
    answers = Answer.objects.filter(Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk")))
    contrary = (
        answers.exclude(choice="")
        .annotate(human=human)
        .exclude(human=OuterRef("forward"))
        .exclude(human=OuterRef("backward"))
    )
    far = answers.filter(
        Q(points__gt=OuterRef("judge_mean") + MIN_SCORE_GAP)
        | Q(points__lt=OuterRef("judge_mean") - MIN_SCORE_GAP)
    )
    against = (~Q(forward="", backward="") & Exists(contrary)) | Exists(far)
    items = items.annotate(**verdicts, judge_mean=mean)
    answered = Q(is_answered=True)
    return items.annotate(
        differs=_flag(answered & Exists(unlike.filter(item__repeat_kind=RepeatKind.OTHER))),
        contradicts=_flag(answered & Exists(unlike.filter(item__repeat_kind=RepeatKind.SAME))),
        against=_flag(answered & against),
    ).annotate(
        priority=Case(
            When(differs=1, then=Value(0)),
            When(contradicts=1, then=Value(1)),
            When(against=1, then=Value(2)),
            default=Value(3),
            output_field=IntegerField(),
        )
    )


def _flag(condition: Any) -> Case:
    return Case(When(condition, then=Value(1)), default=Value(0), output_field=IntegerField())


def filter_by_disagreement(items: QuerySet[Any], name: str) -> QuerySet[Any]:
    """Filter by kind of disagreement; "" is any kind, "all" does not filter."""
    flags = {AUDITORS_DIFFER: "differs", SELF_CONTRADICTION: "contradicts",
             AGAINST_META_JUDGE: "against"}  # fmt: skip
    if name == "all":
        return items
    return items.filter(**{flags[name]: 1}) if name in flags else items.filter(priority__lt=3)


def annotate_drafts(items: QuerySet[Any], person: User) -> QuerySet[Any]:
    """Annotate items with `has_draft`: whether a lead has unsaved input for them."""
    drafts = AdjudicationDraft.objects.filter(item=OuterRef("pk"), lead=person)
    annotated: QuerySet[Any] = items.annotate(has_draft=Exists(drafts))
    return annotated


def filter_by_draft(items: QuerySet[Any]) -> QuerySet[Any]:
    """Keep the items for which `annotate_drafts` found a draft."""
    return items.filter(has_draft=True)


def filter_by_state(items: QuerySet[Any], state: str) -> QuerySet[Any]:
    """Filter by a state of `STATES` except drafts; "" is undecided items of open batches."""
    if state == "all":
        return items
    if state == "adjudicated":
        return items.exclude(adjudicated="")
    undecided = items.filter(adjudicated="")
    return undecided if state else undecided.filter(batch__status=BatchStatus.OPEN)


def select_items(person: User, values: Mapping[str, Any]) -> QuerySet[Any]:
    """Select the visible items by the values of a `ReviewFilterForm`."""
    items = annotate_disagreements(get_reviewable_items(person))
    items = annotate_drafts(items, person)
    state = values.get("state", "")
    items = filter_by_draft(items) if state == "drafts" else filter_by_state(items, state)
    items = filter_by_disagreement(items, values.get("disagreement", ""))
    equal = {
        "batch__experiment_name": values.get("experiment"),
        "batch__iteration": values.get("iteration"),
        "batch_id": values.get("batch"),
        "stratum": values.get("stratum"),
    }
    items = items.filter(**{name: value for name, value in equal.items() if value})
    if values.get("decided"):
        items = items.filter(hidden_verdict__facts__decided_pair=values["decided"] == "yes")
    items = filter_by_comments(items, values.get("comments", ""))
    items = _filter_by_answers(items, values)
    items = _filter_by_text(items, values.get("q", ""))
    related = items.select_related("batch", "answer", "hidden_verdict", "claimed_by")
    found: QuerySet[Any] = related.order_by(*_ORDERS[values.get("sort", "")])
    return found


def _filter_by_answers(items: QuerySet[Any], values: Mapping[str, Any]) -> QuerySet[Any]:
    """Keep items for which one answer, to the item or a repeat, has all of these values."""
    of_item = Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk"))
    answers = Answer.objects.filter(of_item).annotate(tag_text=Cast("tags", TextField()))
    wanted = {}
    if values.get("auditor"):
        wanted["auditor_name"] = values["auditor"]
    if values.get("confidence"):
        wanted["confidence"] = int(values["confidence"])
    if values.get("tag"):
        wanted["tag_text__contains"] = f'"{values["tag"]}"'
    return items.filter(Exists(answers.filter(**wanted))) if wanted else items


def filter_by_comments(items: QuerySet[Any], name: str) -> QuerySet[Any]:
    """Filter by a choice of `COMMENTS`; "" does not filter."""
    of_item = Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk"))
    commented = Exists(Answer.objects.filter(of_item).exclude(comment=""))
    return items.filter(commented if name == "yes" else ~commented) if name else items


def _filter_by_text(items: QuerySet[Any], text: str) -> QuerySet[Any]:
    if not text:
        return items
    comments = Answer.objects.filter(
        Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk")), comment__icontains=text
    )
    texts = ("instruction", "response", "first", "second", "adjudication")
    found = Q(Exists(comments))
    for name in texts:
        found |= Q(**{f"{name}__icontains": text})
    return items.filter(found)


def find_item(batch: int, number: int) -> Item | None:
    """Find an item by its number in a batch, without a permission check."""
    return Item.objects.filter(batch=batch, number=number).first()


def get_item_address(key: int) -> Item:
    """Load the batch and the number of an item, which form its address."""
    return Item.objects.only("batch_id", "number").get(pk=key)


def count_to_adjudicate(person: User) -> int:
    """Count the visible items of open batches that need a decision."""
    return select_items(person, {}).count()


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of decided and undecided items of a list."""

    decided: int
    left: int


def count_progress(items: QuerySet[Any]) -> Progress:
    """Count the decided and the undecided items of a list that belong to open batches."""
    of_open = items.order_by().filter(batch__status=BatchStatus.OPEN)
    left = of_open.filter(adjudicated="").count()
    return Progress(of_open.count() - left, left)


def count_undecided(person: User, batch: Batch) -> int:
    """Count the visible items of a batch with a disagreement and without a decision."""
    return select_items(person, {"batch": batch.pk, "state": "undecided"}).count()


def annotate_undecided(batches: QuerySet[Batch], person: User) -> QuerySet[Any]:
    """Annotate batches with `undecided_count`, as `count_undecided` counts."""
    undecided = select_items(person, {"state": "undecided"})
    of_batch = undecided.filter(batch=OuterRef("pk")).order_by()
    counts = of_batch.values("batch").annotate(count=Count("pk")).values("count")
    return batches.annotate(
        undecided_count=Coalesce(Subquery(counts, output_field=IntegerField()), 0)
    )


def find_neighbours(items: QuerySet[Any], current: Item, person: User) -> tuple[Any, Any]:
    """Find the items before and after one in a list, skipping those claimed by others.

    The list wraps around: after the last item comes the first.

    Returns:
        Two primary keys, each None if there is no other item.
    """
    free = Q(claimed_by__isnull=True) | Q(claimed_by=person) | Q(claimed_until__lt=Now())
    keys = list(items.filter(free | Q(pk=current.pk)).values_list("pk", flat=True))
    others = [key for key in keys if key != current.pk]
    if not others:
        return None, None
    place = keys.index(current.pk) if current.pk in keys else 0
    return others[place - 1], others[place % len(others)]
