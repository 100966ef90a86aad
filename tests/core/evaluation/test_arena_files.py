"""Arena-Hard's files in both versions."""

from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.arena_files import (
    ArenaAnswer,
    ArenaJudgment,
    Game,
    read_answers,
    read_judgments,
    read_questions,
    read_verdict,
    write_answers,
    write_judgments,
)
from tests.core.evaluation.rows import write_lines

PUBLIC = Path(__file__).parents[3].parent / "shared" / "data" / "arena_hard"


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("So: [[A>>B]]", "A>>B"),
        ("[[A>B]] at first, but no: [[B>A]].", "B>A"),
        ("[[B<<A]]", "A>>B"),
        ("[[ A = B ]]", "A=B"),
        ("A>B", None),
        ("[[A>>>B]]", None),
        ("[[a>b]]", "A>B"),
        ("[A>B]", "A>B"),
        ("[[A<B]]", "B>A"),
        ("", None),
    ],
)
def test_the_last_mark_is_the_verdict(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def judgment_row(**changes: Any) -> dict[str, Any]:
    games = [{"score": "A>B", "judgment": {"answer": "..."}}, {"score": "B>>A"}]
    row = {"uid": "q", "judge": "j", "model": "m", "baseline": "b", "games": games}
    return row | changes


def test_judgments_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [
        ArenaJudgment("q", "m", "b", "j", (Game("A>B", "text", "prompt"), Game(None)), "hard"),
        ArenaJudgment("r", "m", "b", "j", (Game("A=B"), Game("B>>A"))),
    ]
    write_judgments(tmp_path / "m.jsonl", written)
    assert read_judgments([tmp_path / "m.jsonl"]) == written


def test_version_0_1_is_read_with_a_baseline_named(tmp_path: Path) -> None:
    row = {
        "question_id": 7,
        "model": "m",
        "judge": "j",
        "games": [{"score": "A=B", "judgment": "x", "user_prompt": "p"}, {"judgment": "[[A>B]]"}],
    }
    path = write_lines(tmp_path / "m.jsonl", [row])
    (found,) = read_judgments([path], baseline="gpt-4-0314")
    assert (found.uid, found.baseline) == ("7", "gpt-4-0314")
    assert [game.verdict for game in found.games] == ["A=B", "A>B"]
    with pytest.raises(EvaluationFileError, match=r"has no baseline; .* --baseline"):
        read_judgments([path])


def test_a_null_game_has_no_verdict(tmp_path: Path) -> None:
    rows = [judgment_row(games=[None, {"score": None, "judgment": "[[A>B]]"}])]
    (found,) = read_judgments([write_lines(tmp_path / "m.jsonl", rows)])
    assert [game.verdict for game in found.games] == [None, None]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([judgment_row(), judgment_row()], "line 2: question q of m was there before"),
        ([judgment_row(), judgment_row(uid="r", judge="k")], r"2 judges \(j, k\)"),
        ([judgment_row(), judgment_row(uid="r", baseline="c")], r"2 baselines \(b, c\)"),
        ([judgment_row(games=[{"score": "A>B"}])], "needs two games"),
        ([judgment_row(games=["A>B", "B>A"])], "a game must be an object"),
        ([judgment_row(games=[{"score": "A"}, {"score": "A>B"}])], "the score 'A' is none of"),
        ([judgment_row(model="b")], "b plays against itself"),
    ],
)
def test_bad_judgments_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_judgments([write_lines(tmp_path / "m.jsonl", rows)])


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [ArenaAnswer("q", "m", "hello", (10.0, 1.0, 2.0, 3.0)), ArenaAnswer("r", "m", "")]
    write_answers(tmp_path / "m.jsonl", written)
    assert list(read_answers([tmp_path / "m.jsonl"]).values()) == written


def test_answers_of_version_0_1_have_their_style_elsewhere(tmp_path: Path) -> None:
    row = {
        "question_id": "q",
        "model_id": "m",
        "choices": [{"index": 0, "turns": [{"content": "hello"}]}],
        "conv_metadata": {
            "token_len": 8,
            "header_count": {"h1": 1, "h2": 2},
            "list_count": {"ordered": 0, "unordered": 4},
            "bold_count": {"**": 1, "__": 0},
        },
    }
    found = read_answers([write_lines(tmp_path / "m.jsonl", [row])])
    assert found == {("m", "q"): ArenaAnswer("q", "m", "hello", (8, 3, 4, 1))}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"messages": []}, "has no answer in its last message"),
        ({"messages": [{"role": "assistant", "content": None}]}, "has no answer"),
        ({"metadata": {"token_len": "9"}}, "metadata must hold the numbers token_len"),
    ],
)
def test_bad_answers_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    row = {"uid": "q", "model": "m", "messages": [{"content": {"answer": "hello"}}]}
    with pytest.raises(EvaluationFileError, match=message):
        read_answers([write_lines(tmp_path / "m.jsonl", [row | changes])])
    with pytest.raises(EvaluationFileError, match="answers question q twice"):
        read_answers([write_lines(tmp_path / "m.jsonl", [row, row])])


def test_questions_are_read_in_both_forms(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"uid": "a", "prompt": "one?"},
        {"question_id": 2, "turns": [{"content": "two?"}]},
    ]
    path = write_lines(tmp_path / "question.jsonl", rows)
    assert read_questions(path) == {"a": "one?", "2": "two?"}
    with pytest.raises(EvaluationFileError, match="question a was there before"):
        read_questions(write_lines(tmp_path / "question.jsonl", [rows[0], rows[0]]))
    with pytest.raises(EvaluationFileError, match="neither a prompt nor turns"):
        read_questions(write_lines(tmp_path / "question.jsonl", [{"uid": "a", "turns": []}]))


@pytest.mark.skipif(
    not PUBLIC.is_dir(), reason="../shared/data/arena_hard (public questions) is not there"
)
def test_the_public_questions_and_answers_are_read() -> None:
    questions = read_questions(PUBLIC / "question.jsonl")
    answers = read_answers([PUBLIC / "gpt-3.5-turbo-0125.answers.jsonl"])
    assert len(questions) == 500
    assert {uid for _, uid in answers} <= questions.keys()
