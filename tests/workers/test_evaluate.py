"""`manage.py evaluate`: files in, a table and JSON out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.core.evaluation import tool_data
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
    shown = evaluate("annotations", annotations, "--output", tmp_path / "out.json", "--rounds", 3)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["win_rate"] == 50
    assert written["n_total"] == 20
    assert written["avg_length"] == 18
    assert "lc_standard_error" in written
    for expected in ("model against baseline", "length_controlled_winrate", "note:"):
        assert expected in shown


def test_a_leaderboard_gains_a_row(annotations: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.write_text(",win_rate,length_controlled_winrate\nother,10.0,90.0\n")
    evaluate("annotations", annotations, "--leaderboard", board, "--rounds", 2)
    lines = board.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["", "other", "model"]


def test_a_public_row_is_never_replaced_in_silence(annotations: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    public = ",win_rate,length_controlled_winrate\nmodel,10.0,90.0\n"
    board.write_text(public)
    arguments = ("annotations", annotations, "--leaderboard", board, "--rounds", 2)
    with pytest.raises(CommandError, match=r"win_rate 10\.0 -> 50\.0.*--replace-row"):
        evaluate(*arguments)
    assert board.read_text() == public
    assert "replaced: 2 (win_rate 10.0 -> 50.0" in evaluate(*arguments, "--replace-row")
    written = board.read_text()
    assert "replaced" not in evaluate(*arguments)  # the same figures again
    assert board.read_text() == written


def test_a_leaderboard_with_two_rows_of_a_model_is_refused(
    annotations: Path, tmp_path: Path
) -> None:
    board = tmp_path / "board.csv"
    board.write_text(",win_rate\nother,10.0\nother,20.0\n")
    with pytest.raises(CommandError, match=r"line 3: the model 'other' has an earlier row"):
        evaluate("annotations", annotations, "--leaderboard", board, "--rounds", 2)


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
    shown = evaluate("arena", path, "--version", "2.0", "--output", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert {card["Model"] for card in written} == {"m", "[n]"}
    assert "arena_hard_2.0" in shown
    assert "[n] against b" in shown


def test_published_arena_files_are_scored_by_category(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", tool_data.arena_judgments("2.0"))
    shown = evaluate("arena", path, "--version", "2.0", "--output", tmp_path / "out.json")
    cards = json.loads((tmp_path / "out.json").read_text())
    assert [(card["benchmark"], card["baseline"]) for card in cards[::2]] == [
        ("arena_hard_2.0_creative_writing", "gemini-2.0-flash-001"),
        ("arena_hard_2.0_hard_prompt", "o3-mini-2025-01-31"),
    ]
    assert "57.7381" in shown
    with pytest.raises(CommandError, match="per category"):
        evaluate("arena", path)


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
        evaluate("annotations", annotations, "--output", annotations.parent / "no" / "out.json")


def test_without_a_kind_the_usage_is_told() -> None:
    with pytest.raises(CommandError, match="KIND"):
        evaluate()


def output_rows(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [
        {"instruction": row["instruction"], "output": row["output_2"], "generator": "model"}
        | changes
        for row in rows
    ]


def test_outputs_of_other_instructions_are_refused(annotations: Path, tmp_path: Path) -> None:
    rows = output_rows(json.loads(annotations.read_text()))
    others = write_array(tmp_path / "o.json", [*rows[1:], rows[0] | {"instruction": "other?"}])
    with pytest.raises(CommandError, match="1 of 20 outputs have no annotation, and 1 annotations"):
        evaluate("annotations", annotations, "--model-outputs", others)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[{"instruction": "q", "generator_1": "b", "generator_2": "m", "preference": 2}]',
         "has no output_1; add it"),
        ('[{"instruction": "q", "preference": 2, "preference": 1}]', "key 'preference' twice"),
        ('[{"instruction": "q", "output_1": "a", "output_2": "b", "generator_1": "b", '
         '"generator_2": "m", "preference": Infinity}]', "contains Infinity, which is not"),
        ("[]", "contains no row"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_something_is_one_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CommandError, match=message) as raised:
        evaluate("annotations", tmp_path / "a.json")
    assert raised.value.returncode == 2


def test_preferences_that_are_nan_are_missing_and_never_a_number(tmp_path: Path) -> None:
    """10 won of 20, 10 NaN: the rate is of the 10; the interval allows for all of the others."""
    rows = [annotation_row(n, preference=2 if n < 10 else float("nan")) for n in range(20)]
    path = write_array(tmp_path / "nan.json", rows)
    assert "NaN" in path.read_text()
    shown = evaluate("annotations", path, "--rounds", 2, "--output", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["win_rate"], written["n_total"]) == (100, 10)
    metric = next(f for f in written["figures"] if f["name"] == "win_rate")
    assert metric["low"] < 31
    assert "Rows without a preference: 10" in shown


def test_nothing_but_nan_has_no_rate(tmp_path: Path) -> None:
    rows = [annotation_row(n, preference=float("nan")) for n in range(12)]
    evaluate(
        "annotations", write_array(tmp_path / "nan.json", rows), "--output", tmp_path / "o.json"
    )
    written = json.loads((tmp_path / "o.json").read_text())
    assert (written["win_rate"], written["length_controlled_winrate"]) == (None, None)


def test_ten_prompts_have_a_wide_interval_and_are_told(tmp_path: Path) -> None:
    rows = [annotation_row(n, preference=2, output_2="x" * (5 + 4 * n)) for n in range(10)]
    path = write_array(tmp_path / "ten.json", rows)
    shown = evaluate("annotations", path, "--rounds", 5, "--output", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert "Small sample: 10" in shown
    for metric in written["figures"][:3]:
        assert metric["high"] - metric["low"] > 20, metric["name"]


def test_a_file_of_the_baseline_alone_is_50_or_refused(tmp_path: Path) -> None:
    """One model: as its own baseline it has 50; Arena-Hard has no such game."""
    rows = [
        annotation_row(n, preference=1.5, output_2=f"the baseline's answer {n}",
                       generator_2="baseline")
        for n in range(12)
    ]  # fmt: skip
    path = write_array(tmp_path / "own.json", rows)
    shown = evaluate("annotations", path, "--output", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["win_rate"], written["length_controlled_winrate"]) == (50, 50)
    assert "nothing was compared" in shown
    game = {"uid": "q", "judge": "j", "baseline": "m", "model": "m", "games": [{}, {}]}
    with pytest.raises(CommandError, match="m is compared with itself"):
        evaluate("arena", write_lines(tmp_path / "a.jsonl", [game]))


def test_arena_judgments_of_one_model_are_scored_without_a_sure_rank(tmp_path: Path) -> None:
    games = [{"score": "B>A"}, {"score": "A>B"}]
    rows = [
        {"uid": f"q{n}", "judge": "j", "baseline": "b", "model": "m", "games": games}
        for n in range(10)
    ]
    path = write_lines(tmp_path / "one.jsonl", rows)
    shown = evaluate("arena", path, "--output", tmp_path / "out.json")
    (card,) = json.loads((tmp_path / "out.json").read_text())
    score = next(metric for metric in card["figures"] if metric["name"] == "score")
    assert score["value"] > 99
    assert score["low"] < 75
    assert "Small sample" in shown


def test_a_judge_and_its_reference_without_their_files_are_refused(tmp_path: Path) -> None:
    for given in ([], ["mine.jsonl"], ["--experiment", "mine"]):
        with pytest.raises(CommandError, match="specify a FILE"):
            evaluate("judge", *given)
