"""`manage.py evaluate`: files in, a table and JSON out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.core.evaluation.rows import annotation_row, write_array, write_lines


def evaluate(*arguments: object) -> str:
    out = io.StringIO()
    call_command("evaluate", *map(str, arguments), stdout=out)
    return out.getvalue()


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    rows = [annotation_row(n, preference=1 + n % 2, output_2="x" * (n + 9)) for n in range(20)]
    return write_array(tmp_path / "annotations.json", rows)


def test_annotations_are_scored_under_the_leaderboards_names(
    annotations: Path, tmp_path: Path
) -> None:
    shown = evaluate("annotations", annotations, "--json", tmp_path / "out.json", "--rounds", 3)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["win_rate"] == 50
    assert written["n_total"] == 20
    assert written["avg_length"] == 18
    assert "lc_standard_error" in written
    for expected in ("model against baseline", "length_controlled_winrate", "look:"):
        assert expected in shown


def test_a_leaderboard_gains_a_row(annotations: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.write_text(",win_rate,length_controlled_winrate\nother,10.0,90.0\n")
    evaluate("annotations", annotations, "--leaderboard", board, "--rounds", 2)
    lines = board.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["", "other", "model"]


def test_repeats_outputs_and_difficulty_are_taken(annotations: Path, tmp_path: Path) -> None:
    rows = json.loads(annotations.read_text())
    again = write_array(tmp_path / "again.json", [row | {"preference": 2} for row in rows])
    outputs = write_array(
        tmp_path / "outputs.json",
        [
            {"instruction": row["instruction"], "output": row["output_2"], "generator": "model"}
            for row in rows
        ],
    )
    difficulty = tmp_path / "difficulty.csv"
    lines = [f"{row['instruction']},{n % 3}" for n, row in enumerate(rows)]
    difficulty.write_text("\n".join(["instruction,instruction_difficulty", *lines]))
    shown = evaluate(
        "annotations", annotations, "--rounds", 2, "--repeats", again,
        "--model-outputs", outputs, "--difficulty", difficulty,
    )  # fmt: skip
    assert "35.3553" in shown  # rates 50 and 100: 50 / sqrt(2)


def test_arena_games_are_scored_per_model(tmp_path: Path) -> None:
    games = [{"score": "A>B"}, {"score": "A>>B"}]
    row = {"uid": "q", "judge": "j", "baseline": "b", "games": games}
    path = write_lines(tmp_path / "m.jsonl", [row | {"model": "m"}, row | {"model": "[n]"}])
    shown = evaluate("arena", path, "--version", "2.0", "--json", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert {card["Model"] for card in written} == {"m", "[n]"}
    assert "arena_hard_2.0" in shown
    assert "[n] against b" in shown


def test_mt_bench_reward_bench_and_judges_are_scored(tmp_path: Path) -> None:
    turns = [
        {"question_id": 1, "model": "m", "judge": "j", "score": 7 + turn, "turn": turn}
        for turn in (1, 2)
    ]
    assert "8.5000" in evaluate("mt-bench", write_lines(tmp_path / "mt.jsonl", turns))
    item = {"id": 1, "subset": "math-prm", "score_chosen": 4, "score_rejected": 2}
    path = write_lines(tmp_path / "rb.jsonl", [item])
    assert "100.0000" in evaluate("reward-bench", path, "--judge", "mine")
    opinions: list[dict[str, Any]] = [
        {"prompt_id": "p", "response_id": r, "score": s} for r, s in (("a", 1), ("b", 2))
    ]
    mine = write_lines(tmp_path / "mine.jsonl", opinions)
    theirs = write_lines(tmp_path / "theirs.jsonl", opinions)
    assert "agreement" in evaluate("judge", mine, "--reference", theirs)
    with pytest.raises(CommandError, match="are the same file"):
        evaluate("judge", mine, "--reference", mine)


def test_what_is_wrong_with_a_file_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    path = write_array(tmp_path / "bad.json", [annotation_row(preference=7)])
    with pytest.raises(CommandError, match=r"bad\.json, row 1: the preference 7") as raised:
        evaluate("annotations", path)
    assert raised.value.returncode == 2


def test_a_place_that_cannot_be_written_is_refused_before_the_work(annotations: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written"):
        evaluate("annotations", annotations, "--json", annotations.parent / "no" / "out.json")


def test_without_a_kind_the_usage_is_told() -> None:
    with pytest.raises(CommandError, match="KIND"):
        evaluate()
