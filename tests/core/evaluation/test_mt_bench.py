"""MT-Bench: means by hand, FastChat's files, and judgments without points."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.mt_bench import (
    Question,
    TurnJudgment,
    parse_rating,
    read_answers,
    read_questions,
    read_turn_judgments,
    score_mt_bench,
    write_turn_judgments,
)
from tests.core.evaluation import tool_data
from tests.core.evaluation.rows import write_lines


def judged(question: int, turn: int, score: float | None, model: str = "m") -> TurnJudgment:
    return TurnJudgment(str(question), model, "gpt-4", turn, score)


def row(**changes: Any) -> dict[str, Any]:
    judge = ["gpt-4", "single-v1"]
    return {"question_id": 81, "model": "m", "judge": judge, "score": 8, "turn": 1} | changes


def test_two_questions_by_hand() -> None:
    """Turns 9, 7 and 8, 4: all 28 / 4 = 7, turn 1 17 / 2 = 8.5, turn 2 11 / 2 = 5.5.

    The interval takes a question as one: means 8 and 6, with 1 and 10 added mean 6.25, squares
    1.75^2 + 0.25^2 + 5.25^2 + 3.75^2 = 44.75, error sqrt(44.75 / 3 / 4) = 1.931, t(3) = 3.182.
    """
    rows = [judged(1, 1, 9), judged(1, 2, 7), judged(2, 1, 8), judged(2, 2, 4)]
    (card,) = score_mt_bench(rows)
    assert [card.get_metric(n).value for n in ("all", "turn_1", "turn_2")] == [7, 8.5, 5.5]
    half = t.ppf(0.975, 3) * (44.75 / 12) ** 0.5
    assert card.get_metric("all").low == pytest.approx(max(1, 6.25 - half))
    assert card.get_metric("all").high == pytest.approx(min(10, 6.25 + half))
    assert card.columns == {"model": "m", "all": 7, "turn_1": 8.5, "turn_2": 5.5}


def test_a_judgment_without_points_is_in_no_mean_and_is_told() -> None:
    """FastChat leaves -1 out of the mean: (9 + 8) / 2."""
    rows = [judged(1, 1, 9), judged(1, 2, None), judged(2, 1, 8)]
    (card,) = score_mt_bench(rows)
    assert card.get_metric("all").value == 8.5
    assert card.get_metric("turn_2").absent == "no judgment has a score"
    found = {issue.name: issue.rows for issue in card.issues}
    assert found["judgments_without_points"] == 1
    assert found["turns_not_judged"] == 1
    assert found["few_questions"] == 2


def test_categories_are_told_apart_and_missing_questions_noticed() -> None:
    questions = {
        "1": Question("1", "math", ("a", "b")),
        "2": Question("2", "writing", ("c", "d")),
        "3": Question("3", "writing", ("e",)),
    }
    rows = [judged(1, 1, 2), judged(1, 2, 4), judged(2, 1, 10), judged(2, 2, 10)]
    (card,) = score_mt_bench(rows, questions=questions)
    assert card.get_metric("category_math").value == 3
    assert card.get_metric("category_writing").value == 10
    assert [f.rows for f in card.issues if f.name == "turns_not_judged"] == [1]


def test_models_are_ranked() -> None:
    rows = [judged(1, 1, 3), judged(1, 1, 9, model="n")]
    assert [card.model for card in score_mt_bench(rows)] == ["n", "m"]


def test_gaming_is_looked_for_in_the_answers() -> None:
    rows = [judged(n, 1, 10) for n in range(4)]
    answers = {("m", str(n)): ("Rating: [[10]]",) for n in range(4)}
    names = {issue.name for issue in score_mt_bench(rows, answers=answers)[0].issues}
    assert {"verdict_marks", "constant_answers"} <= names


@pytest.mark.parametrize(
    "text, points",
    [
        ("Rating: [[8]]", 8),
        ("It says [[10]], but: [[2.5]]", 2.5),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[7.]]", 7),
        ("Rating: [7]", 7),
        ("As [2] says ... Rating: [[7]]", 7),
        ("As [2] says ... Rating: [7]", None),
        ("[6], yes [6.0]", 6),
        ("Rating: [0]", None),
        ("[8/10]", None),
        ("8", None),
    ],
)
def test_the_last_mark_within_the_scale_counts(text: str, points: float | None) -> None:
    assert parse_rating(text) == points


def test_judgments_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [judged(81, 1, 7.5), judged(81, 2, None)]
    path = tmp_path / "judgments.jsonl"
    write_turn_judgments(path, written)
    assert '"score": -1.0' in path.read_text()
    assert read_turn_judgments([path]) == [
        written[0],
        replace(written[1], unread="the score is -1"),
    ]
    judges = [json.loads(line)["judge"] for line in path.read_text().splitlines()]
    assert judges == [["gpt-4", "single-v1"], ["gpt-4", "single-v1-multi-turn"]]


def test_points_are_read_from_the_text_where_there_is_no_score(tmp_path: Path) -> None:
    given = row(judgment="Good. Rating: [[6]]")
    del given["score"]
    (found,) = read_turn_judgments([write_lines(tmp_path / "j.jsonl", [given])])
    assert (found.judge, found.score) == ("gpt-4", 6)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([row(), row()], "turn 1 of question 81 by m occurs twice"),
        ([row(turn=3)], "the turn must be 1 or 2"),
        ([row(), row(turn=2, judge="other")], r"2 judges \(gpt-4, other\)"),
    ],
)
def test_bad_judgments_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_turn_judgments([write_lines(tmp_path / "j.jsonl", rows)])


def test_questions_and_answers_are_read(tmp_path: Path) -> None:
    question = {"question_id": 81, "category": "writing", "turns": ["one", "two"]}
    answer = {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["x", "y"]}]}
    questions = write_lines(tmp_path / "q.jsonl", [question])
    answers = write_lines(tmp_path / "a.jsonl", [answer])
    assert read_questions(questions) == {"81": Question("81", "writing", ("one", "two"))}
    assert read_answers([answers]) == {("m", "81"): ("x", "y")}
    with pytest.raises(EvaluationFileError, match="question 81 occurs twice"):
        read_questions(write_lines(tmp_path / "q.jsonl", [question, question]))
    with pytest.raises(EvaluationFileError, match="m answers question 81 twice"):
        read_answers([answers, answers])
    with pytest.raises(EvaluationFileError, match="no choices with a list of turns"):
        read_answers([write_lines(tmp_path / "a.jsonl", [answer | {"choices": []}])])
    with pytest.raises(EvaluationFileError, match="turns must be a list of strings"):
        read_questions(write_lines(tmp_path / "q.jsonl", [question | {"turns": "one"}]))


@pytest.mark.parametrize(
    "score, reason",
    [
        (0, "the score 0 is outside 1 to 10"),
        (12, "the score 12 is outside 1 to 10"),
        (-1, "the score is -1"),
        (None, "the score is null"),
        ("8", "the score '8' is not a number"),
        (True, "the score True is not a number"),
    ],
)
def test_one_score_that_cannot_be_used_does_not_refuse_its_file(
    tmp_path: Path, score: Any, reason: str
) -> None:
    """(6 + 8) / 2; the third judgment is told with its reason."""
    rows = [row(score=6), row(score=8, turn=2), row(question_id=82, score=score)]
    found = read_turn_judgments([write_lines(tmp_path / "j.jsonl", rows)])
    (card,) = score_mt_bench(found)
    assert card.get_metric("all").value == 7
    sentences = [issue.sentence for issue in card.issues]
    assert f"Judgments without a score from 1 to 10: 1 ({reason}: 1)." in sentences


def test_points_are_found_where_fastchat_finds_them() -> None:
    """`run_judge_single` of fschat 0.2.36 on `tool_data.MT_BENCH_TEXTS`; -1 is no score.

    Run by `benchmarks/fastchat_side.py` with the judge's replies in place of a server's.
    """
    fastchat = [8.0, 2.5, 7.0, 7.0, 6.5, -1, 9.0, 6.0, -1, -1, 10.0, -1]
    ours = [parse_rating(text) for text in tool_data.MT_BENCH_TEXTS]
    assert ours == [None if score == -1 else score for score in fastchat]


def test_means_agree_with_fastchat(tmp_path: Path) -> None:
    """The three tables of fschat 0.2.36's `show_result.py` (pandas 2.3.3) on the same rows.

    `benchmarks/fastchat_side.py` ran it on `tool_data.mt_bench_judgments()`: 320 judgments, of
    which it left out 46 of -1. `python -m benchmarks.tool_roundtrip --tools fastchat` repeats it.
    """
    path = write_lines(tmp_path / "j.jsonl", tool_data.mt_bench_judgments())
    cards = {card.model: card for card in score_mt_bench(read_turn_judgments([path]))}
    for model, expected in {
        "model-one": (5.411111111111111, 5.287878787878788, 5.528985507246377),
        "model-two": (6.133093525179856, 6.139705882352941, 6.126760563380282),
    }.items():
        found = [cards[model].get_metric(name).value for name in ("all", "turn_1", "turn_2")]
        assert found == pytest.approx(expected, abs=1e-12)
