"""Data for the pages of review leads: items, answers and decisions."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from meta_reward_core.data.csv_safety import format_csv
from webapp.audit.adjudication import list_item_activity
from webapp.audit.item_presenter import (
    RevealedFact,
    format_answer_value,
    format_choice,
    list_revealed_facts,
)
from webapp.audit.models import Answer, Confidence, Item, ItemKind, RepeatKind
from webapp.audit.review_items import AGAINST_META_JUDGE, DISAGREEMENTS, SORTS, ReviewFilterForm

_FLAGS: Final = dict(zip(DISAGREEMENTS, ("differs", "contradicts", "against"), strict=True))
_AGAINST_JUDGE: Final = "auditor against judge"
_EXCERPT_CHARS: Final = 90
_SAMPLE: Final = re.compile(r"\.j(\d{1,5})$")
_RESPONSE: Final = re.compile(r"\.r(\d{1,5})$")
_HISTORY_SHOWN: Final = 100

ITEM_COLUMNS: Final = (
    *("batch", "item", "item_id", "key", "path", "experiment", "iteration", "kind", "stratum"),
    *("disagreement", "disagreement_label", "answers", "comments", "forward", "backward"),
    *("judge_mean", "verdict_label", "adjudicated", "adjudicated_label", "reason"),
    *("adjudicated_by", "adjudicated_by_id", "adjudicated_at", "is_swapped", "instruction"),
)
"""Columns of exported items.

Codes and ids are stable, and those that the export of answers also has have the same names there.
`disagreement` has the names of `DISAGREEMENTS`; `forward`, `backward` and `adjudicated` name the
judgments first and second in stored order. Columns that end in `_label`, and `answers`, have the
letters of the item's page.
"""


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """An item in a list.

    Attributes:
        answers: the answer of each auditor, in the letters that the item's page shows.
        comments: the beginning of each comment, with its auditor.
        claimed_by: the other user who is adjudicating it now; empty if there is none.
    """

    item: Item
    excerpt: str
    disagreements: tuple[str, ...]
    answers: tuple[str, ...]
    comments: tuple[str, ...]
    meta_judge: str
    decision: str
    claimed_by: str


@dataclass(frozen=True, slots=True)
class AnswerRowView:
    """An answer to an item, with the letters of the item's page."""

    auditor: str
    is_own: bool
    occasion: str
    answer: str
    confidence: str
    tags: tuple[str, ...]
    comment: str
    seconds: float
    submitted: datetime


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One entry of the history of an item."""

    created: datetime
    who: str
    what: str
    details: str


@dataclass(frozen=True, slots=True)
class ItemLinks:
    """Addresses of the sources of an item; empty if they are gone."""

    prompt: str = ""
    response: str = ""
    battle: str = ""


def format_value(choice: str, points: float | None, item: Item) -> str:
    """Format an outcome briefly, with the letters of the item's page."""
    if points is not None:
        return f"{points:g}"
    letters = {"first": "B" if item.is_swapped else "A", "second": "A" if item.is_swapped else "B"}
    return letters.get(choice, choice)


def format_decision(item: Item) -> str:
    """Format a decision with the letters of the item's page; empty if there is none."""
    if not item.adjudicated:
        return ""
    if item.batch.kind == ItemKind.JUDGMENTS:
        return format_choice(item.adjudicated, item)
    return f"{item.adjudicated} of 5"


def describe_undone(now: Item, undone: str) -> str:
    """Describe an undone decision, and which decision applies again.

    Args:
        now: the item after the decision was undone.
        undone: the formatted decision that was undone.
    """
    said = f"Undone: {now}, {undone}. It is kept as a draft."
    if not now.adjudicated:
        return f"{said} The item has no decision now."
    who = now.adjudicated_by_name or "another review lead"
    return f"{said} The decision of {who} applies again: {format_decision(now)}."


def list_disagreement_codes(item: Any) -> list[str]:
    """List the names in `DISAGREEMENTS` of an item annotated by `annotate_disagreements`."""
    return [name for name in DISAGREEMENTS if getattr(item, _FLAGS[name])]


def list_disagreements(item: Any) -> tuple[str, ...]:
    """List the disagreements of an item annotated by `annotate_disagreements`."""
    found = list_disagreement_codes(item)
    by_score = item.batch.kind == ItemKind.RESPONSES
    return tuple(
        _AGAINST_JUDGE if name == AGAINST_META_JUDGE and by_score else DISAGREEMENTS[name]
        for name in found
    )


def make_review_rows(items: Iterable[Item], person: User) -> list[ReviewRow]:
    """Build list rows of items with their answers."""
    items = list(items)
    answers = _read_answers(items)
    return [_make_row(item, answers[item.pk], person) for item in items]


def _read_answers(items: Iterable[Item]) -> dict[int, list[Answer]]:
    """Load all answers to items and their repeats by item, the first answer first."""
    answers: dict[int, list[Answer]] = {item.pk: [] for item in items}
    keys = list(answers)
    found = Answer.objects.filter(Q(item__in=keys) | Q(item__original__in=keys))
    for answer in found.select_related("item").order_by("submitted", "pk"):
        answers[answer.item.original_id or answer.item_id].append(answer)
    return answers


def _make_row(item: Item, answers: Sequence[Answer], person: User) -> ReviewRow:
    return ReviewRow(
        item=item,
        excerpt=_cut(item.instruction),
        disagreements=list_disagreements(item),
        answers=tuple(_format_brief_answer(answer, item) for answer in answers),
        comments=tuple(
            f"{answer.auditor_name}: “{_cut(answer.comment)}”"
            for answer in answers
            if answer.comment.strip()
        ),
        meta_judge=format_meta_judge(item),
        decision=format_decision(item),
        claimed_by=get_other_claimant(item, person),
    )


def list_brief_answers(item: Item) -> list[str]:
    """List the answers to an item whose answer and repeats with answers are loaded."""
    asked = [item, *item.repeats.all()]
    answers = [one.answer for one in asked if hasattr(one, "answer")]
    answers.sort(key=lambda answer: (answer.submitted, answer.pk))
    return [_format_brief_answer(answer, item) for answer in answers]


def summarize_answers(item: Item) -> str:
    """Summarize all answers to an item and what the meta-judge or the judge said, in one line."""
    answers = [_format_brief_answer(answer, item) for answer in _read_answers([item])[item.pk]]
    judge = "judge" if item.batch.kind == ItemKind.RESPONSES else "meta-judge"
    return f"{', '.join(answers) or 'no answers yet'}; {judge}: {format_meta_judge(item)}"


def _cut(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT_CHARS else f"{line[: _EXCERPT_CHARS - 1]}…"


def _format_brief_answer(answer: Answer, item: Item) -> str:
    again = " again" if answer.item.repeat_kind == RepeatKind.SAME else ""
    sure = "" if answer.confidence != Confidence.LOW else " (guess)"
    return f"{answer.auditor_name}{again}: {format_value(answer.choice, answer.points, item)}{sure}"


def format_meta_judge(item: Item) -> str:
    """Format both verdicts of the meta-judge, or the judge's mean score."""
    facts = item.hidden_verdict.facts
    if "mean" in facts:
        return "none" if facts["mean"] is None else f"{facts['mean']:.2f}"
    verdicts = [facts["forward"], facts["backward"]]
    if item.is_swapped:
        verdicts.reverse()
    return ", ".join(format_value(one, None, item) if one else "unreadable" for one in verdicts)


def get_other_claimant(item: Item, person: User) -> str:
    """Return the other user who is adjudicating an item; empty if there is none."""
    is_valid = item.claimed_until is not None and item.claimed_until > timezone.now()
    if not is_valid or item.claimed_by is None or item.claimed_by_id == person.pk:
        return ""
    return item.claimed_by.get_username()


def make_answer_views(item: Item, person: User) -> list[AnswerRowView]:
    """Build views of all answers to an item, with the reader's own answers marked."""
    occasions = {"": "", RepeatKind.SAME: "own repeat", RepeatKind.OTHER: "repeat"}
    return [
        AnswerRowView(
            auditor=one.auditor_name,
            is_own=one.auditor_id == person.pk,
            occasion=f"{occasions[one.item.repeat_kind]}, item {one.item.number}"
            if one.item.repeat_kind
            else "first answer",
            answer=format_answer_value(one, item),
            confidence=str(Confidence(one.confidence).label),
            tags=tuple(one.tags),
            comment=one.comment,
            seconds=one.seconds,
            submitted=one.submitted,
        )
        for one in _read_answers([item])[item.pk]
    ]


def list_facts(item: Item) -> list[RevealedFact]:
    """List the scores and verdicts of an item."""
    return list_revealed_facts(item, item.hidden_verdict.facts)


def make_history(item: Item) -> list[HistoryLine]:
    """Build the history of an item and its repeats, newest first."""
    rows = list_item_activity(item)[:_HISTORY_SHOWN]
    return [
        HistoryLine(
            row.created, row.actor_name, row.get_action_display(), _format_change(row, item)
        )
        for row in rows
    ]


def _format_change(row: Any, item: Item) -> str:
    """Format what an action changed, with the letters of the item's page."""
    parts = [
        f"{_NAMES.get(name, name.replace('_', ' '))}: {_format_changed_value(name, value, item)}"
        for name, value in row.after.items()
        if value not in ("", [], None)
    ]
    return "; ".join([*parts, f"reason: {row.reason}"] if row.reason else parts)


_NAMES: Final = {"choice": "answer", "points": "answer", "adjudicated": "decision",
                 "adjudicated_by": "decided by"}  # fmt: skip


def _format_changed_value(name: str, value: Any, item: Item) -> str:
    if name in ("choice", "adjudicated"):
        return format_value(str(value), None, item)
    if name == "seconds" and isinstance(value, float):
        return f"{value:.0f}"
    if name == "confidence" and value in Confidence.values:
        return str(Confidence(value).label)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def get_item_path(item: Item) -> str:
    """Return the permanent path of an item's page."""
    return reverse("audit_review", args=[item.batch_id, item.number])


def make_links(item: Item) -> ItemLinks:
    """Build links to the prompt, the response with its judgments, and the battle of an item."""
    batch, facts = item.batch, item.hidden_verdict.facts
    if batch.experiment is None:
        return ItemLinks()
    place = (batch.experiment.name, batch.iteration, facts["prompt_id"])
    prompt = reverse("prompt", args=place)
    written = _RESPONSE.search(facts["response_id"])
    response = f"{prompt}#response-{written[1]}" if written else ""
    samples = [
        _SAMPLE.search(facts.get(f"{side}_judgment_id") or "") for side in ("first", "second")
    ]
    if not all(samples):
        return ItemLinks(prompt, response)
    first, second = (found[1] for found in samples if found)
    query = urlencode({"first": first, "second": second})
    return ItemLinks(prompt, response, f"{reverse('battle', args=place)}?{query}")


def format_items_csv(items: Iterable[Item], person: User) -> str:
    """Format items as CSV; see `ITEM_COLUMNS`. A and B are the letters of the item's page."""
    return format_csv([ITEM_COLUMNS, *_iter_csv_rows(list(items), person)])


def _iter_csv_rows(items: list[Item], person: User) -> Iterator[list[object]]:
    answers = _read_answers(items)
    for item in items:
        row = _make_row(item, answers[item.pk], person)
        comments = [f"{one.auditor_name}: {one.comment}" for one in answers[item.pk]
                    if one.comment]  # fmt: skip
        yield [
            *(item.batch_id, item.number, item.pk, item.key, get_item_path(item)),
            *(item.batch.experiment_name, item.batch.iteration, item.batch.kind, item.stratum),
            *("; ".join(list_disagreement_codes(item)), "; ".join(row.disagreements)),
            *("; ".join(row.answers), "\n".join(comments)),
            *(item.hidden_verdict.facts.get(name) for name in ("forward", "backward", "mean")),
            *(row.meta_judge, item.adjudicated, row.decision, item.adjudication),
            *(item.adjudicated_by_name, item.adjudicated_by_id),
            item.adjudicated_at.isoformat() if item.adjudicated_at else "",
            *(item.is_swapped, item.instruction),
        ]


@dataclass(frozen=True, slots=True)
class FilterChip:
    """An active filter of the item list.

    Attributes:
        rest: query string of all other active filters.
    """

    label: str
    value: str
    rest: str


def make_filter_chips(form: ReviewFilterForm, values: Mapping[str, Any]) -> list[FilterChip]:
    """Build one chip for each active filter, with its label in the form."""
    return [
        FilterChip(
            str(form.fields[name].label),
            str(dict(getattr(form.fields[name], "choices", ())).get(value, value)),
            encode_filter({other: given for other, given in values.items() if other != name}),
        )
        for name, value in values.items()
        if value not in ("", None)
    ]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of the item list.

    Attributes:
        label: the order that its link selects; empty if it has no link.
        query: query string of the list in that order.
        is_current: whether the list is in that order.
    """

    text: str
    label: str = ""
    query: str = ""
    is_current: bool = False


_HEADINGS: Final[Mapping[str, str | None]] = {
    "Item": "number",
    "Prompt": None,
    "Disagreement": "",
    "Answers and comments": "unsure",
    "Meta-judge or judge": None,
    "Decision": "recent",
}
"""Orders of `SORTS` that the headings of the item list select."""


def make_headings(values: Mapping[str, Any]) -> list[Heading]:
    """Build the headings of the item list, with links that keep the filter."""
    current = values.get("sort", "")
    return [
        Heading(text)
        if sort is None
        else Heading(text, SORTS[sort], encode_filter({**values, "sort": sort}), sort == current)
        for text, sort in _HEADINGS.items()
    ]


def encode_filter(values: Mapping[str, Any]) -> str:
    """Encode the non-empty filter values of a list as a query string."""
    return urlencode({name: value for name, value in values.items() if value not in ("", None)})
