"""Filters of the admin lists of audits."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from django.contrib import admin
from django.db.models import (
    Case,
    CharField,
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
from django.http import HttpRequest

from webapp.accounts.permissions import get_user
from webapp.audit.annotation_queue import TAGS
from webapp.audit.models import Answer, Confidence, Item, OnGateFailure
from webapp.audit.review_items import (
    COMMENTS,
    DISAGREEMENTS,
    filter_by_comments,
    filter_by_disagreement,
    filter_by_draft,
    filter_by_state,
)
from webapp.audit.selectors import get_visible_batches

_UNSTRATIFIED: Final = "all"
"""The stratum of all items of a batch that is sampled uniformly."""


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


class CommentFilter(ChoiceFilter):
    """Answers with a comment, or items with such an answer."""

    title = "comment"
    parameter_name = "comments"
    options: ClassVar = COMMENTS

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Select rows with or without a comment."""
        if rows.model is Answer:
            return rows.exclude(comment="") if value == "yes" else rows.filter(comment="")
        return filter_by_comments(rows, value)


class AuditorFilter(admin.SimpleListFilter):
    """Answers of an auditor, or items with such an answer."""

    title = "auditor"
    parameter_name = "auditor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """The auditors of visible batches."""
        batches = get_visible_batches(get_user(request))
        names = Answer.objects.filter(item__batch__in=batches).order_by()
        return [(name, name) for name in sorted(set(names.values_list("auditor_name", flat=True)))]

    def queryset(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002
        """Filter by the chosen auditor."""
        name = self.value()
        if name is None:
            return rows
        return _select_by_answers(rows, Answer.objects.filter(auditor_name=name))


class StratumFilter(admin.SimpleListFilter):
    """Items of a stratum, shown if a visible batch is stratified."""

    title = "stratum"
    parameter_name = "stratum"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """The strata of visible batches; none if no batch is stratified."""
        items = Item.objects.filter(batch__in=get_visible_batches(get_user(request))).order_by()
        found = sorted(set(items.values_list("stratum", flat=True)) - {"", _UNSTRATIFIED})
        return (
            [*((name, name) for name in found), (_UNSTRATIFIED, "not stratified")] if found else []
        )

    def queryset(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002
        """Filter by the chosen stratum."""
        name = self.value()
        return rows if name is None else rows.filter(stratum=name)


class FailureFilter(ChoiceFilter):
    """Gates by what happens after an audit that did not pass."""

    title = "if not passed"
    parameter_name = "on_failure"
    options: ClassVar = {str(value): str(label) for value, label in OnGateFailure.choices}

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Gates with the chosen consequence."""
        return rows.filter(on_failure=value)


def _select_by_answers(rows: QuerySet[Any], answers: QuerySet[Answer]) -> QuerySet[Any]:
    if rows.model is Answer:
        return rows.filter(pk__in=answers.values("pk"))
    of_item = Q(item=OuterRef("pk")) | Q(item__original=OuterRef("pk"))
    return rows.filter(Exists(answers.filter(of_item)))


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
    options: ClassVar = {
        "open": "to adjudicate",
        "undecided": "without a decision",
        "adjudicated": "adjudicated",
        "drafts": "my drafts",
    }

    def select(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Items of the chosen state; only those with a disagreement are to adjudicate."""
        if value == "drafts":
            return filter_by_draft(rows)
        if value in ("adjudicated", "undecided"):
            return filter_by_state(rows, value)
        return filter_by_disagreement(filter_by_state(rows, ""), "")
