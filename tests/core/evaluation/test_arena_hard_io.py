"""Arena-Hard's files in both versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.arena_hard_io import (
    STYLE_ELEMENTS,
    ArenaAnswer,
    ArenaJudgment,
    ArenaQuestion,
    Game,
    Version,
    find_mark,
    parse_arena_verdict,
    read_answers,
    read_judgments,
    read_questions,
    write_answers,
    write_judgments,
)
from meta_reward_core.evaluation.arena_hard_judge import measure_style
from tests.core.evaluation import tool_data
from tests.core.evaluation.rows import write_lines


@pytest.mark.parametrize(
    "text, first, second",
    [
        ("So: [[A>>B]]", "A>>B", "A>>B"),
        ("[[A>B]] at first, but no: [[B>A]].", None, "B>A"),
        ("[[A>B]], and again [[A>B]]", "A>B", "A>B"),
        ("[[B<<A]]", None, "A>>B"),
        ("[[A<B]]", None, "B>A"),
        ("[[a>b]]", None, "A>B"),
        ("[A>B]", None, "A>B"),
        ("[A>B], no: [B>A]", None, "B>A"),
        ("[A>B] or [B>A]", None, None),
        ("[[A>>B]] or [[A=B]]", None, None),
        ("<think> [[A>>B]] at first, then", None, None),
        ("<think> [[A>>B]] at first </think> [[B>A]]", None, "B>A"),
        ("[A>B], no: [[A]]", None, None),
        ("[[ A=B ]]", None, None),
        ("A>B", None, None),
        ("[[A>>>B]]", None, None),
        ("", None, None),
    ],
)
def test_a_mark_is_read_by_the_rules_of_the_version(
    text: str, first: str | None, second: str | None
) -> None:
    assert parse_arena_verdict(text, version="0.1") == first
    assert parse_arena_verdict(text, version="2.0") == second


def test_marks_are_found_as_the_public_tool_finds_them() -> None:
    """`get_score` of `gen_judgment.py` with the shipped patterns, on `tool_data.ARENA_TEXTS`.

    Commits 0489bf3 (version 0.1) and 196f6b8 (2.0), run by `benchmarks/arena_hard_side.py`.
    """
    assert [find_mark(text, version="0.1") for text in tool_data.ARENA_TEXTS] == [
        "A>>B", None, "A>B", "B<<A", "A<B", "B=A", None, None, None, "A",
        None, "A>>>B", None, None, "B>>A", "A=B", None, None, None,
    ]  # fmt: skip
    assert [find_mark(text, version="2.0") for text in tool_data.ARENA_TEXTS] == [
        "A>>B", "B>A", "A>B", "B<<A", "A<B", "B=A", "A>B", "A>B", "B>>A", "A",
        "A", "A>>>B", None, None, "B>>A", "A=B", None, None, None,
    ]  # fmt: skip


def test_style_is_counted_as_the_public_tool_counts_it() -> None:
    """Headers, list items and bold passages by `utils/add_markdown_info.py`, commit 196f6b8.

    Run by `benchmarks/arena_hard_side.py` on `tool_data.STYLED_ANSWERS`; version 0.1 counts alike.
    """
    assert [measure_style(text)[1:] for text in tool_data.STYLED_ANSWERS] == [
        (1, 4, 2), (0, 0, 4), (1, 0, 0), (0, 0, 0), (1, 2, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0),
    ]  # fmt: skip


def judgment_row(**changes: Any) -> dict[str, Any]:
    games = [{"score": "A>B", "judgment": {"answer": "..."}}, {"score": "B>>A"}]
    row = {"uid": "q", "judge": "j", "model": "m", "baseline": "b", "games": games}
    return row | changes


@pytest.mark.parametrize("version", ["0.1", "2.0"])
def test_judgments_are_read_as_they_were_written(tmp_path: Path, version: Version) -> None:
    null = Game(None, "text", unread="the score is null")
    written = [
        ArenaJudgment("q", "m", "b", "j", (Game("A>B", "text", "prompt"), null), "hard"),
        ArenaJudgment("r", "m", "b", "j", (Game("A=B"), Game("B>>A")), "hard"),
    ]
    write_judgments(tmp_path / "m.jsonl", written, version=version)
    assert read_judgments([tmp_path / "m.jsonl"], version=version) == written


def test_judgments_without_a_category_get_the_one_that_the_tool_looks_for(tmp_path: Path) -> None:
    """`show_result.py` of version 2.0 fails without a category; hard_prompt is its default."""
    written = [ArenaJudgment("q", "m", "b", "j", (Game("A>B"), Game("A>B")))]
    write_judgments(tmp_path / "m.jsonl", written, version="2.0")
    row = json.loads((tmp_path / "m.jsonl").read_text())
    assert (row["uid"], row["category"]) == ("q", "hard_prompt")
    write_judgments(tmp_path / "m.jsonl", written, version="0.1")
    row = json.loads((tmp_path / "m.jsonl").read_text())
    assert (row["question_id"], row["games"][0]["score"]) == ("q", "A>B")


def test_two_categories_with_two_baselines_are_read_from_one_file(tmp_path: Path) -> None:
    rows = [
        judgment_row(category="hard_prompt"),
        judgment_row(uid="r", category="creative_writing", baseline="c"),
    ]
    path = write_lines(tmp_path / "m.jsonl", rows)
    found = read_judgments([path], version="2.0")
    assert [(one.category, one.baseline) for one in found] == [
        ("hard_prompt", "b"),
        ("creative_writing", "c"),
    ]
    (chosen,) = read_judgments([path], version="2.0", categories=["creative_writing"])
    assert chosen.uid == "r"
    with pytest.raises(EvaluationFileError, match=r"category math; choose one of creative_writing"):
        read_judgments([path], version="2.0", categories=["math"])
    with pytest.raises(EvaluationFileError, match=r"2 baselines \(b, c\); .* per category"):
        read_judgments([path], version="0.1")
    with pytest.raises(EvaluationFileError, match=r"2 baselines \(b, c\)"):
        read_judgments(
            [write_lines(tmp_path / "m.jsonl", [rows[0], rows[1] | {"category": "hard_prompt"}])],
            version="2.0",
        )


@pytest.mark.parametrize(
    "score, first, second",
    [
        ("A>>B", "A>>B", "A>>B"),
        ("B=A", None, "A=B"),
        ("A<B", None, "B>A"),
        ("A<<B", None, "B>>A"),
        ("B<A", None, "A>B"),
        ("B<<A", None, "A>>B"),
        ("A", None, None),
        ("A>>>B", None, None),
        ("a>b", None, None),
        ("", None, None),
        (1, None, None),
        (["A>B"], None, None),
    ],
)
def test_a_score_that_a_version_does_not_read_leaves_its_game_out(
    tmp_path: Path, score: Any, first: str | None, second: str | None
) -> None:
    """The other game stays; 0.1's `get_battles_from_row` gives weight 0 to all but five scores."""
    path = write_lines(
        tmp_path / "m.jsonl", [judgment_row(games=[{"score": score}, {"score": "A>B"}])]
    )
    versions: tuple[tuple[Version, str | None], ...] = (("0.1", first), ("2.0", second))
    for version, verdict in versions:
        ((game, other),) = (one.games for one in read_judgments([path], version=version))
        assert (game.verdict, other.verdict) == (verdict, "A>B")
        assert (game.unread is None) == (verdict is not None)


def test_version_0_1_is_read_with_a_baseline_named(tmp_path: Path) -> None:
    row = {
        "question_id": 7,
        "model": "m",
        "judge": "j",
        "games": [{"score": "A=B", "judgment": "x", "user_prompt": "p"}, {"judgment": "[[A>B]]"}],
    }
    path = write_lines(tmp_path / "m.jsonl", [row])
    (found,) = read_judgments([path], version="0.1", baseline="gpt-4-0314")
    assert (found.uid, found.baseline) == ("7", "gpt-4-0314")
    assert [game.verdict for game in found.games] == ["A=B", "A>B"]
    with pytest.raises(EvaluationFileError, match=r"has no baseline; .* --baseline"):
        read_judgments([path], version="0.1")


def test_a_null_game_has_no_verdict(tmp_path: Path) -> None:
    rows = [judgment_row(games=[None, {"score": None, "judgment": "[[A>B]]"}])]
    (found,) = read_judgments([write_lines(tmp_path / "m.jsonl", rows)], version="2.0")
    assert [game.verdict for game in found.games] == [None, None]
    assert [game.unread for game in found.games] == ["the game is null", "the score is null"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([judgment_row(), judgment_row()], "line 2: question q of m occurs twice"),
        ([judgment_row(), judgment_row(uid="r", judge="k")], r"2 judges \(j, k\)"),
        ([judgment_row(), judgment_row(uid="r", baseline="c")], r"2 baselines \(b, c\)"),
        ([judgment_row(games=[{"score": "A>B"}])], "must contain two games"),
        ([judgment_row(games=["A>B", "B>A"])], "a game must be an object"),
        ([judgment_row(model="b")], "b is compared with itself"),
    ],
)
def test_bad_judgments_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read_judgments([write_lines(tmp_path / "m.jsonl", rows)], version="0.1")


@pytest.mark.parametrize("version, counts", [("0.1", "conv_metadata"), ("2.0", "metadata")])
def test_answers_are_read_as_they_were_written(
    tmp_path: Path, version: Version, counts: str
) -> None:
    """Both versions take a count that is no int for an object of counts, and fail on a float."""
    written = [ArenaAnswer("q", "m", "hello", (10, 1, 2, 3)), ArenaAnswer("r", "m", "")]
    write_answers(tmp_path / "m.jsonl", written, version=version)
    assert list(read_answers([tmp_path / "m.jsonl"]).values()) == written
    row = json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])
    assert [type(count) for count in row[counts].values()] == [int] * 4


def test_counts_that_were_written_as_floats_are_read(tmp_path: Path) -> None:
    style = dict(zip(STYLE_ELEMENTS, (10.0, 1.0, 2.0, 3.0), strict=True))
    row = {"uid": "q", "model": "m", "messages": [{"content": "hello"}], "metadata": style}
    (found,) = read_answers([write_lines(tmp_path / "m.jsonl", [row])]).values()
    assert found.style == (10, 1, 2, 3)


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
        ({"metadata": {"token_len": "9"}}, "metadata must contain the integers token_len"),
        ({"metadata": {"token_len": 9.5}}, "metadata must contain the integers token_len"),
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
        {"uid": "a", "prompt": "one?", "category": "hard_prompt"},
        {"question_id": 2, "turns": [{"content": "two?"}]},
    ]
    path = write_lines(tmp_path / "question.jsonl", rows)
    assert read_questions(path) == {
        "a": ArenaQuestion("one?", "hard_prompt"),
        "2": ArenaQuestion("two?"),
    }
    with pytest.raises(EvaluationFileError, match="question a occurs twice"):
        read_questions(write_lines(tmp_path / "question.jsonl", [rows[0], rows[0]]))
    with pytest.raises(EvaluationFileError, match="neither a prompt nor turns"):
        read_questions(write_lines(tmp_path / "question.jsonl", [{"uid": "a", "turns": []}]))
