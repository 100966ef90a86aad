"""Item data for the annotation pages; hidden verdicts only after the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from meta_reward_core.errors import TaskError
from meta_reward_core.tasks.registry import get_judgment_format, get_task
from webapp.audit.models import Answer, Batch, Confidence, Item, ItemKind
from webapp.audit.rendering import get_shown_judgments, render_markdown
from webapp.experiments.ground_truth import find_task
from webapp.text_diff import Span, compare_texts, diff_texts

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShownJudgments:
    """Judgments A and B for display; spans instead of Markdown if differences are marked."""

    a: SafeString
    b: SafeString
    spans_a: list[Span]
    spans_b: list[Span]


@dataclass(frozen=True, slots=True)
class ItemView:
    """An item as an auditor sees it before the answer.

    Attributes:
        judgment_format: the format of judgments; empty if the task does not define one.
    """

    number: int
    instruction: SafeString
    response: SafeString
    judgments: ShownJudgments | None
    guidelines: SafeString
    rubric: SafeString
    judgment_format: str = ""


@dataclass(frozen=True, slots=True)
class RevealedFact:
    """One line of the reveal."""

    name: str
    value: str


def make_item_view(
    item: Item, batch: Batch, *, differences: bool = False, whole: bool = False
) -> ItemView:
    """Build the view of an item without reading its hidden verdicts.

    Args:
        whole: whether score lines are shown even if the batch hides them from auditors.
    """
    return ItemView(
        number=item.number,
        instruction=render_markdown(item.instruction),
        response=render_markdown(item.response),
        judgments=_render_judgments(
            item,
            differences=differences,
            hides_score_lines=batch.hides_score_lines and not whole,
        )
        if batch.kind == ItemKind.JUDGMENTS
        else None,
        guidelines=render_markdown(batch.guidelines),
        rubric=render_markdown(batch.rubric),
        judgment_format=_get_judgment_format(batch),
    )


def _get_judgment_format(batch: Batch) -> str:
    name = None if batch.experiment is None else find_task(batch.experiment)
    try:
        task = get_task(name) if name is not None else None
    except TaskError:
        return ""
    return "" if task is None else get_judgment_format(task)


def _render_judgments(item: Item, *, differences: bool, hides_score_lines: bool) -> ShownJudgments:
    a, b = get_shown_judgments(
        item.first,
        item.second,
        is_swapped=item.is_swapped,
        hides_score_lines=hides_score_lines,
    )
    spans = compare_texts(a, b) if differences else []
    return ShownJudgments(
        a=render_markdown(a),
        b=render_markdown(b),
        spans_a=diff_texts("first", spans),
        spans_b=diff_texts("second", spans),
    )


def format_answer(found: Answer, item: Item) -> str:
    """Format an answer for the annotation page."""
    return f"{format_answer_value(found, item)} ({Confidence(found.confidence).label})"


def format_answer_value(found: Answer, item: Item) -> str:
    """Format the choice or the score of an answer, with the letters of an item's page."""
    if found.points is not None:
        return f"{found.points:g} of 5"
    return format_choice(found.choice, item)


def format_choice(choice: str | None, item: Item) -> str:
    """Format an outcome with the letters that the auditor saw."""
    letters = {"first": "B" if item.is_swapped else "A", "second": "A" if item.is_swapped else "B"}
    words = {"tie": "tie", "neither": "neither is acceptable"}
    if choice in letters:
        return f"judgment {letters[choice]} is better"
    return words.get(choice or "", "unreadable, or not compared")


def list_revealed_facts(item: Item, facts: Facts) -> list[RevealedFact]:
    """List scores and verdicts of an item with the letters that the auditor saw."""
    if item.known is not None:
        return [RevealedFact("Known answer", _format_known(item, item.known.answer))]
    if "mean" in facts:
        return [
            RevealedFact("The judge's mean", _format_score(facts["mean"])),
            RevealedFact("Variance of its scores", _format_score(facts["variance"])),
            RevealedFact("Scored judgments", str(facts["valid"])),
        ]
    a, b = ("second", "first") if item.is_swapped else ("first", "second")
    orders = {"first": "forward", "second": "backward"}
    return [
        RevealedFact("Meta-judge, A shown first", format_choice(facts[orders[a]], item)),
        RevealedFact("Meta-judge, B shown first", format_choice(facts[orders[b]], item)),
        RevealedFact(
            "Elo of A and B",
            f"{_format_score(facts[f'elo_{a}'])} and {_format_score(facts[f'elo_{b}'])}",
        ),
        RevealedFact(
            "Scores of A and B",
            f"{_format_given(facts[f'score_{a}'])} and {_format_given(facts[f'score_{b}'])}",
        ),
        RevealedFact("Became a preference pair", "yes" if facts["decided_pair"] else "no"),
    ]


def _format_known(item: Item, answer: str) -> str:
    if item.batch.kind == ItemKind.RESPONSES:
        return f"{answer} of 5"
    return format_choice(answer, item)


def _format_score(value: float | None) -> str:
    """Format a computed number; without a minus sign where it is rounded to zero."""
    return "none" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _format_given(value: float | None) -> str:
    """Format a judgment's score."""
    return "none" if value is None else f"{value:g}"
