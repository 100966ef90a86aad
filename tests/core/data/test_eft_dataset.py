"""Judgments are kept where their order is the people's."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.data.eft_dataset import (
    EftData,
    EftRow,
    RankedPrompt,
    build_eft,
    cap_score_share,
    find_drop_reason,
    read_ranked,
)
from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.prompt_filters import HeldOutPrompts
from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.recipes.prompt_templates import load_template
from tests.core.evaluation.rows import write_lines


def ranked(name: str, *answers: tuple[str, float]) -> RankedPrompt:
    texts, ranks = zip(*answers, strict=True)
    return RankedPrompt(compute_prompt_id(name), name, texts, ranks)


PROMPTS = [
    ranked("first?", ("good", 1), ("fair", 2), ("poor", 3)),
    ranked("second?", ("good", 1), ("poor", 2)),
    ranked("kept for evaluation?", ("good", 1), ("poor", 2)),
    ranked("alike?", ("good", 1), ("poor", 1)),
    ranked("alone?", ("good", 1)),
]
POINTS = {"good": 5, "fair": 3, "poor": 1}


def build(script: Script, *, samples: int = 2) -> EftData:
    return build_eft(
        ScriptedEngine(script),
        PROMPTS,
        template=load_template("judge"),
        rubric="RUBRIC",
        samples=samples,
        sampling=SamplingParams(0.8, 0.95, 50),
        seed=1,
        held_out=HeldOutPrompts.from_texts(["Kept for  evaluation?"]),
    )


def answer_of(conversation: Conversation) -> str:
    shown = conversation[0]["content"].split("<response>")[1]
    return next(word for word in POINTS if word in shown)


def test_judgments_that_order_as_people_do_are_kept_with_their_prompt() -> None:
    """Two prompts with 3 + 2 answers are judged twice: 10 judgments; the second time is wrong."""

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        points = POINTS[answer_of(conversation)]
        return f"Because.\nScore: {points if sample == 0 else 5 - points}"

    data = build(script)
    assert data.judgments == 10
    assert len(data.rows) == 5
    assert data.not_kept == {"order_differs": 5}
    assert data.left_out == {"held_out": 1, "ranked_alike": 1, "one_answer": 1}
    first = data.rows[0]
    assert "RUBRIC" in first.prompt
    assert "first?" in first.prompt
    assert (first.response, first.score, first.rank) == ("Because.\nScore: 5", 5, 1)
    assert first.prompt_id == compute_prompt_id("first?")


def test_a_time_without_a_score_is_not_kept() -> None:
    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        return "no idea" if answer_of(conversation) == "fair" else "Score: 3"

    data = build(script, samples=1)
    assert data.rows == ()
    assert data.not_kept == {"unscored": 3, "tie": 2}


@pytest.mark.parametrize(
    "judged, reason",
    [
        ([(5, 1), (3, 2), (1, 3)], None),
        ([(5, 1), (1, 2), (3, 3)], "order_differs"),
        ([(5, 1), (5, 2)], "tie"),
        ([(5, 1), (3, 2), (4, 2)], None),  # alike for people: anyhow for the judge
        ([(None, 1), (3, 2)], "unscored"),
        ([(1, 1), (1, 2), (3, 3)], "order_differs"),
    ],
)
def test_when_an_order_is_the_peoples(judged: list[Any], reason: str | None) -> None:
    assert find_drop_reason(judged) == reason


def test_a_judgment_that_was_cut_off_counts_for_the_order_and_is_not_learned() -> None:
    """Both prompts are judged once, 3 + 2 answers; the judgment of each poor answer is cut off."""

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        answer = answer_of(conversation)
        text = f"Score: {POINTS[answer]}\nFor it says"
        return (text, "length") if answer == "poor" else text

    data = build(script, samples=1)
    assert data.judgments == 5
    assert [row.score for row in data.rows] == [5, 3, 5]
    assert data.not_kept == {"cut_off": 2}


def test_a_cut_off_judgment_in_the_wrong_order_is_counted_under_the_order() -> None:
    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        return f"Score: {5 - POINTS[answer_of(conversation)]}\nFor it says", "length"

    assert build(script, samples=1).not_kept == {"order_differs": 5}


@given(st.lists(st.integers(0, 5), max_size=60), st.sampled_from([0.25, 0.4, 0.6, 1.0]))
def test_no_points_have_more_than_their_share(points: list[int], share: float) -> None:
    rows = [EftRow("p", "r", "i", str(n), p, 1) for n, p in enumerate(points)]
    kept = Counter(row.score for row in cap_score_share(rows, max_share=share, seed=2))
    most, total = max(kept.values(), default=0), sum(kept.values())
    equal = len(set(kept.values())) <= 1
    assert most <= share * total + 1e-9 or equal
    if share == 1.0:
        assert total == len(rows)


def test_ranked_answers_are_read_in_every_form(tmp_path: Path) -> None:
    rows = [("why?", "a", 1), ("why?", "b", 2)]
    forms: list[list[dict[str, Any]]] = [
        [{"instruction": p, "response": r, "rank": n} for p, r, n in rows],
        [{"prompt_text": p, "response_text": r, "score": -n} for p, r, n in rows],
        [{"prompt": "why?", "responses": ["a", "b"], "ranks": [1, 2]}],
    ]
    for form in forms:
        assert read_ranked(write_lines(tmp_path / "r.jsonl", form)) == [
            ranked("why?", ("a", 1), ("b", 2))
        ]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"instruction": "p", "response": "r"}, "neither rank"),
        ({"instruction": "p", "rank": 1}, "has no response"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1]}, "one rank for each"),
        ({"prompt": "p", "responses": ["a", 2], "ranks": [1, 2]}, "a list of strings"),
        ({"prompt": "p", "responses": ["a", "a"], "ranks": [1, 2]}, "twice"),
    ],
)
def test_bad_rankings_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_ranked(write_lines(tmp_path / "r.jsonl", [row]))
    same = {"instruction": "p", "response": "r", "rank": 1}
    with pytest.raises(EvaluationFileError, match="this answer occurs twice"):
        read_ranked(write_lines(tmp_path / "r.jsonl", [same, same]))
