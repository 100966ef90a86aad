"""What the desk's templates show: an unanswered item without, an answered one with its truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from webapp.audit.models import Answer, Batch, Confidence, Item, Kind
from webapp.audit.texts import render_markdown, shown_judgments
from webapp.text_diff import Span, compare_texts, spans_of

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgments:
    """Judgments A and B as they are shown; spans instead of markdown to mark differences."""

    a: SafeString
    b: SafeString
    spans_a: list[Span]
    spans_b: list[Span]


@dataclass(frozen=True, slots=True)
class Sheet:
    """An item as an auditor sees it before the answer."""

    number: int
    instruction: SafeString
    response: SafeString
    judgments: Judgments | None
    guidelines: SafeString
    rubric: SafeString


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the reveal."""

    name: str
    value: str


def make_sheet(item: Item, batch: Batch, *, differences: bool = False) -> Sheet:
    """Show an item; what is hidden of it is not read."""
    return Sheet(
        number=item.number,
        instruction=render_markdown(item.instruction),
        response=render_markdown(item.response),
        judgments=_judgments(item, batch, differences) if batch.kind == Kind.JUDGMENTS else None,
        guidelines=render_markdown(batch.guidelines),
        rubric=render_markdown(batch.rubric),
    )


def _judgments(item: Item, batch: Batch, differences: bool) -> Judgments:  # noqa: FBT001
    a, b = shown_judgments(
        item.first,
        item.second,
        is_swapped=item.is_swapped,
        hides_score_lines=batch.hides_score_lines,
    )
    spans = compare_texts(a, b) if differences else []
    return Judgments(
        a=render_markdown(a),
        b=render_markdown(b),
        spans_a=spans_of("first", spans),
        spans_b=spans_of("second", spans),
    )


def say_answer(found: Answer, item: Item) -> str:
    """An answer in the words of the desk."""
    sure = Confidence(found.confidence).label
    if found.points is not None:
        return f"{found.points:g} of 5 points ({sure})"
    return f"{say_choice(found.choice, item)} ({sure})"


def say_choice(choice: str | None, item: Item) -> str:
    """Name an outcome by the letters that the auditor saw."""
    letters = {"first": "B" if item.is_swapped else "A", "second": "A" if item.is_swapped else "B"}
    words = {"tie": "both alike", "neither": "neither is acceptable"}
    if choice in letters:
        return f"judgment {letters[choice]} is better"
    return words.get(choice or "", "not readable, or not compared")


def reveal_facts(item: Item, facts: Facts) -> list[Fact]:
    """What judge and meta-judge said of an item, by the letters that the auditor saw."""
    if "mean" in facts:
        return [
            Fact("The judge's mean", _points(facts["mean"])),
            Fact("Variance of its judgments", _points(facts["variance"])),
            Fact("Readable judgments", str(facts["valid"])),
        ]
    a, b = ("second", "first") if item.is_swapped else ("first", "second")
    orders = {"first": "forward", "second": "backward"}
    return [
        Fact("Meta-judge, A shown first", say_choice(facts[orders[a]], item)),
        Fact("Meta-judge, B shown first", say_choice(facts[orders[b]], item)),
        Fact("Elo of A and B", f"{_points(facts[f'elo_{a}'])} and {_points(facts[f'elo_{b}'])}"),
        Fact(
            "Scores of A and B",
            f"{_points(facts[f'score_{a}'])} and {_points(facts[f'score_{b}'])}",
        ),
        Fact("Became a preference pair", "yes" if facts["decided_pair"] else "no"),
    ]


def _points(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
