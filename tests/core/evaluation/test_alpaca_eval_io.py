"""alpaca_eval's files: written as read, and refused where they are not what they seem."""

import json
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.alpaca_eval_io import (
    LEADERBOARD_COLUMNS,
    Annotation,
    ModelOutput,
    add_difficulty,
    match_outputs,
    read_annotations,
    read_leaderboard,
    read_outputs,
    read_outputs_by_instruction,
    write_annotations,
    write_leaderboard,
    write_outputs,
)
from tests.core.evaluation.rows import annotation_row, write_array

OUTPUTS = [
    ModelOutput("question 0?", "yes", "model", dataset="set", datasplit="eval"),
    ModelOutput("question 1?", "", "model"),
]


def read(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> list[Annotation]:
    return read_annotations(write_array(tmp_path / "annotations.json", rows), **options)


def test_outputs_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_outputs(tmp_path / "outputs.json", OUTPUTS)
    assert read_outputs(tmp_path / "outputs.json") == OUTPUTS
    assert set(json.loads((tmp_path / "outputs.json").read_text())[0]) == {
        "instruction", "output", "generator", "dataset", "datasplit",
    }  # fmt: skip


def test_annotations_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        annotation_row(0, preference=1.25, dataset="set", instruction_difficulty=0.5),
        annotation_row(1, preference=None),
    ]
    found = read(tmp_path, rows)
    assert (found[0].preference, found[0].difficulty, found[1].preference) == (1.25, 0.5, None)
    write_annotations(tmp_path / "again.json", found)
    assert read_annotations(tmp_path / "again.json") == found


def test_zero_is_the_older_sign_of_a_draw(tmp_path: Path) -> None:
    assert read(tmp_path, [annotation_row(preference=0)])[0].preference == 1.5


@pytest.mark.parametrize(
    "rows, message",
    [
        ([annotation_row(preference=2.5)], r"row 1: the preference 2.5 is outside \[1, 2\]"),
        ([annotation_row(preference="2")], "row 1: preference must be a number"),
        ([annotation_row(0), annotation_row(0)], "row 2: the instruction .* occurs twice .*1"),
        ([annotation_row(instruction=" ")], "the instruction is empty"),
        ([annotation_row(output_2=None)], "has no output_2; .* --model-outputs"),
        ([annotation_row(output_1=None)], "has no output_1; .* --baseline-outputs"),
        ([annotation_row(0), annotation_row(1, generator_2="other")], "generator_2 has 2 values"),
        ([annotation_row(0), annotation_row(1, generator_1="other")], "generator_1 has 2 values"),
        ([annotation_row(0), annotation_row(1, annotator="b")], "annotator has 2 .* --annotator"),
    ],
)
def test_bad_annotations_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(EvaluationFileError, match=message):
        read(tmp_path, rows)


def test_one_of_several_models_and_annotators_can_be_chosen(tmp_path: Path) -> None:
    rows = [annotation_row(0), annotation_row(0, generator_2="b"), annotation_row(0, annotator="c")]
    assert read(tmp_path, rows, model="b")[0].generator_2 == "b"
    with pytest.raises(EvaluationFileError, match="no annotation of model 'x'"):
        read(tmp_path, rows, model="x")


def outputs(*texts: str, generator: str = "model") -> dict[str, ModelOutput]:
    return {
        f"question {number}?": ModelOutput(f"question {number}?", text, generator)
        for number, text in enumerate(texts)
    }


def test_outputs_fill_what_annotations_leave_out(tmp_path: Path) -> None:
    rows = [annotation_row(0, output_2=None, output_1=None)]
    found = read(tmp_path, rows, outputs=outputs("mine"), baseline_outputs=outputs("theirs"))
    assert (found[0].output_1, found[0].output_2) == ("theirs", "mine")


def test_outputs_of_another_run_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(EvaluationFileError, match="output_2 differs from the file of outputs"):
        read(tmp_path, [annotation_row(0)], outputs=outputs("another answer"))


def test_outputs_that_nobody_annotated_are_noticed(tmp_path: Path) -> None:
    given = outputs("the answer of the model to 0", "more", "and more")
    with pytest.raises(EvaluationFileError, match="2 of 3 outputs have no annotation, and 0"):
        read(tmp_path, [annotation_row(0)], outputs=given)
    with pytest.raises(EvaluationFileError, match="1 of 1 outputs have no annotation, and 1"):
        read(tmp_path, [annotation_row(5)], baseline_outputs=outputs("x"))


def test_two_models_are_paired_by_instruction_and_not_by_position() -> None:
    baseline = [ModelOutput("a", "1", "x"), ModelOutput("b", "2", "x")]
    model = [ModelOutput("b", "3", "y"), ModelOutput("a", "4", "y")]
    assert [(b.output, m.output) for b, m in match_outputs(baseline, model)] == [
        ("1", "4"), ("2", "3"),
    ]  # fmt: skip


def test_models_with_different_instructions_are_not_paired() -> None:
    baseline = [ModelOutput("a", "1", "x"), ModelOutput("b", "2", "x")]
    with pytest.raises(EvaluationFileError, match="no output of the model, and 1 have no output"):
        match_outputs(baseline, [ModelOutput("a", "4", "y"), ModelOutput("c", "5", "y")])


def test_outputs_are_refused_where_one_comes_twice_or_of_two_models(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, [OUTPUTS[0], OUTPUTS[0]])
    with pytest.raises(EvaluationFileError, match="occurs twice"):
        read_outputs(path)
    write_outputs(path, [OUTPUTS[0], ModelOutput("other?", "no", "another")])
    with pytest.raises(EvaluationFileError, match="generator has 2 values"):
        read_outputs_by_instruction(path)


def test_difficulty_comes_by_instruction(tmp_path: Path) -> None:
    path = tmp_path / "difficulty.csv"
    path.write_text("instruction,instruction_difficulty\nquestion 1?,0.5\nquestion 0?,-1\n")
    found = add_difficulty(path, read(tmp_path, [annotation_row(0), annotation_row(1)]))
    assert [annotation.difficulty for annotation in found] == [-1, 0.5]
    with pytest.raises(EvaluationFileError, match="no row for the instruction 'question 2"):
        add_difficulty(path, read(tmp_path, [annotation_row(2)]))


def test_difficulty_by_number_needs_the_whole_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "difficulty.csv"
    path.write_text(",instruction_difficulty\n0,0.5\n1,0.25\n")
    rows = [annotation_row(0), annotation_row(1)]
    assert [a.difficulty for a in add_difficulty(path, read(tmp_path, rows))] == [0.5, 0.25]
    with pytest.raises(EvaluationFileError, match="2 rows for 1 annotations"):
        add_difficulty(path, read(tmp_path, rows[:1]))
    path.write_text(",instruction_difficulty\n0,hard\n1,0\n")
    with pytest.raises(EvaluationFileError, match="is not a number"):
        add_difficulty(path, read(tmp_path, rows))


def test_a_leaderboard_keeps_other_models_and_is_ranked(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    row = dict.fromkeys(LEADERBOARD_COLUMNS, 1)
    write_leaderboard(path, {"a": row | {"length_controlled_winrate": 10}})
    rows = read_leaderboard(path) | {"b": row | {"length_controlled_winrate": 20}}
    write_leaderboard(path, rows)
    lines = path.read_text().splitlines()
    assert lines[0] == "," + ",".join(LEADERBOARD_COLUMNS)
    assert [line.split(",")[0] for line in lines[1:]] == ["b", "a"]


def test_a_leaderboard_opened_as_a_spreadsheet_computes_no_name(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    write_leaderboard(path, {"=1+1": {"win_rate": -1.5, "mode": "x;=1"}})
    line = path.read_text(encoding="utf-8").splitlines()[1]
    assert line.startswith("'=1+1,-1.5,")
    assert "'x;'=1" in line
    assert read_leaderboard(path)["=1+1"]["mode"] == "x;=1"
