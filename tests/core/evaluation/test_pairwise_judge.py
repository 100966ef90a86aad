"""Annotations by a scripted engine: orders, readings, and what cannot be read."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.engines.base import Completion, Conversation, SamplingParams, TokenChoice
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine
from meta_reward_core.evaluation.alpaca_eval_io import (
    Annotation,
    ModelOutput,
    read_annotations,
    write_annotations,
)
from meta_reward_core.evaluation.pairwise_judge import (
    PresentationOrders,
    annotate_outputs,
    build_conversation,
    compute_weighted_preference,
    parse_preference,
    plan_presentations,
)
from meta_reward_core.evaluation.win_rate import score_annotations

PAIRS = [
    (
        ModelOutput(f"question {n}?", f"old {n}", "base", dataset="set"),
        ModelOutput(f"question {n}?", f"new {n}", "mine"),
    )
    for n in range(40)
]
SAMPLING = SamplingParams(temperature=0, top_p=1, max_new_tokens=100)


def annotate(
    script: Script, orders: PresentationOrders = "both", samples: int = 1
) -> list[Annotation]:
    engine = ScriptedEngine(script)
    return annotate_outputs(
        engine, PAIRS, annotator="judge", sampling=SAMPLING, orders=orders, samples=samples, seed=3
    )


def prefers_new(conversation: Conversation, sample: int, seed: int) -> Reply:
    shown = conversation[0]["content"]
    return "Better: A" if shown.index("new ") < shown.index("old ") else "Because.\nBetter: B"


def prefers_first(conversation: Conversation, sample: int, seed: int) -> Reply:
    return "I like what comes first.\n**Better:** A"


@pytest.mark.parametrize("orders", ["one", "both"])
def test_a_judge_that_sees_quality_prefers_it_in_every_order(orders: PresentationOrders) -> None:
    assert {annotation.preference for annotation in annotate(prefers_new, orders)} == {2.0}


def test_a_judge_that_sees_positions_draws_in_both_orders() -> None:
    assert {annotation.preference for annotation in annotate(prefers_first)} == {1.5}


def test_one_order_is_drawn_about_evenly_and_by_instruction_alone() -> None:
    """40 fair coins: between 10 and 30 heads but for 1 in 1,000 seeds."""
    showings = plan_presentations(PAIRS, orders="one", seed=3)
    assert 10 < sum(showing.baseline_first for showing in showings) < 30
    alone = plan_presentations(PAIRS[7:8], orders="one", seed=3)
    assert alone[0].baseline_first == showings[7].baseline_first
    other = plan_presentations(PAIRS, orders="one", seed=4)
    assert [s.baseline_first for s in other] != [s.baseline_first for s in showings]


@pytest.mark.parametrize(
    "reply, preference",
    [
        ("Better: A", 1.0),
        ("better: [B]", 2.0),
        ("Better: A\nNo, rather:\nBetter: tie", 1.5),
        ("Answer A is better", 1.0),
        ("Better: a tie", 1.5),
        ("Better: A and B are equally good", 1.5),
        ("Better: A/B", None),
        ("Better: A or B", None),
        ("A, or Better: B", None),
        ("Better: A, or Better: B, or Better: tie.", None),
        ("Better: B because A errs", 2.0),
        ("<think>Better: A", None),
        ("Better: Apples", None),
        ("", None),
    ],
)
def test_the_last_line_counts(reply: str, preference: float | None) -> None:
    assert parse_preference(reply, baseline_first=True) == preference


@given(st.sampled_from(["A", "B", "tie"]))
def test_changing_the_order_turns_the_preference_round(which: str) -> None:
    one = parse_preference(f"Better: {which}", baseline_first=True)
    other = parse_preference(f"Better: {which}", baseline_first=False)
    assert one is not None
    assert other == 3 - one


def test_an_order_without_a_reading_leaves_no_preference() -> None:
    def reads_one_order(conversation: Conversation, sample: int, seed: int) -> Reply:
        shown = conversation[0]["content"]
        return "Better: A" if shown.index("new ") < shown.index("old ") else "Hm."

    assert {annotation.preference for annotation in annotate(reads_one_order)} == {None}


def test_samples_are_averaged() -> None:
    """Replies A, B, tie, and one that cannot be read: (1 + 2 + 1.5) / 3 in either order."""
    replies = ["Better: A", "Better: B", "Better: tie", "?"]
    found = annotate(lambda conversation, sample, seed: replies[sample], samples=4)
    assert {annotation.preference for annotation in found} == {1.5}


def test_a_prompt_that_is_refused_has_no_preference() -> None:
    found = annotate(lambda conversation, sample, seed: ("too long", "refused"))
    assert {annotation.preference for annotation in found} == {None}


def test_braces_in_answers_are_only_text() -> None:
    pair = (ModelOutput("{instruction}", "{first}", "a"), ModelOutput("{x}", "{", "b"))
    shown = build_conversation(pair, baseline_first=False)[0]["content"]
    assert shown.index("{\n</answer_A>") < shown.index("{first}\n</answer_B>")


def test_annotations_can_be_written_read_and_scored(tmp_path: Path) -> None:
    write_annotations(tmp_path / "annotations.json", annotate(prefers_new))
    found = read_annotations(tmp_path / "annotations.json")
    assert score_annotations(found, rounds=2).columns["win_rate"] == 100
    assert found[0].dataset == "set"


def weighed(*tokens: tuple[str, dict[str, float]]) -> Completion:
    """A reply of these tokens, each with the probabilities of what could have stood there."""
    choices = tuple(
        TokenChoice(text, tuple((other, math.log(p)) for other, p in others.items()))
        for text, others in tokens
    )
    return Completion("".join(text for text, _ in tokens), len(tokens), "stop", choices=choices)


REASONS = ("A is fine.\n", {"A is fine.\n": 1.0})
MARK = ("Better:", {"Better:": 1.0})


def test_a_preference_is_weighed_by_the_probabilities_of_the_verdicts() -> None:
    """A 0.6, B 0.3, tie 0.05, the baseline first: (0.6 * 1 + 0.3 * 2 + 0.05 * 1.5) / 0.95."""
    reply = weighed(REASONS, MARK, (" A", {" A": 0.6, " B": 0.3, "tie": 0.05, " C": 0.05}))
    expected = (0.6 + 0.6 + 0.075) / 0.95
    assert compute_weighted_preference(reply, baseline_first=True) == pytest.approx(expected)
    assert compute_weighted_preference(reply, baseline_first=False) == pytest.approx(3 - expected)


def test_a_small_a_that_may_begin_a_tie_is_no_verdict() -> None:
    """A 0.6, B 0.2: (0.6 * 1 + 0.2 * 2) / 0.8; " a" could have gone on with "tie"."""
    reply = weighed(MARK, (" A", {" A": 0.6, " B": 0.2, " a": 0.2}))
    assert compute_weighted_preference(reply, baseline_first=True) == pytest.approx(1.25)


def test_a_reply_that_is_cut_off_in_its_verdict_has_no_preference() -> None:
    found = annotate(lambda conversation, sample, seed: ("Better: A", "length"))
    assert {annotation.preference for annotation in found} == {None}


def test_a_tie_may_be_cut_into_tokens() -> None:
    reply = weighed(MARK, (" t", {" t": 0.5, " A": 0.5}), ("ie", {"ie": 1.0}))
    assert compute_weighted_preference(reply, baseline_first=True) == pytest.approx(1.25)


@pytest.mark.parametrize(
    "reply",
    [
        Completion("Better: A", 2, "stop"),
        weighed(MARK, (" A", {" C": 1.0})),
        weighed(MARK, (" A", {" A": 1.0}), ("\nI am sure of A.", {"": 1.0})),
        weighed(("no verdict", {"A": 1.0})),
        Completion("", 0, "stop", choices=()),
    ],
)
def test_what_cannot_be_weighed_is_not(reply: Completion) -> None:
    assert compute_weighted_preference(reply, baseline_first=True) is None


class Weighing(ScriptedEngine):
    """An engine that tells alternatives when it is asked for them."""

    def __init__(self) -> None:
        super().__init__(prefers_first)

    def sample(self, conversations: Any, n: int, *, sampling: SamplingParams, **more: Any) -> Any:
        told = weighed(MARK, (" A", {" A": 0.75, " B": 0.25}))
        plain = Completion(told.text, told.tokens, "stop")
        return [[told if sampling.alternatives else plain] * n for _ in conversations]


def test_annotations_are_weighed_only_where_it_is_asked_for() -> None:
    """One order, the model first in some: 1.25 or 1.75 by weight, 1 or 2 by verdict."""
    found = [
        {
            a.preference
            for a in annotate_outputs(
                Weighing(), PAIRS, annotator="j", orders="one", seed=3,
                sampling=SamplingParams(0, 1, 9, alternatives=alternatives),
            )
        }
        for alternatives in (0, 20)
    ]  # fmt: skip
    assert found[0] == {1.0, 2.0}
    assert sorted(p for p in found[1] if p is not None) == pytest.approx([1.25, 1.75])
