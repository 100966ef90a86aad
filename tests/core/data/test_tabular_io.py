"""Rows of files in every form, and what is said of broken ones."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meta_reward_core.data.tabular_io import NumberedRow, read_csv, read_rows
from meta_reward_core.errors import EvaluationFileError, InputError

ROWS = [{"id": "a", "score": 1.5}, {"id": "b", "score": None}]


@pytest.mark.parametrize(
    "name, text",
    [
        ("array.json", '[{"id": "a", "score": 1.5}, {"id": "b", "score": null}]'),
        ("lines.jsonl", '{"id": "a", "score": 1.5}\n\n{"id": "b", "score": NaN}\n'),
        ("columns.json", '{\n "id": ["a", "b"],\n "score": [1.5, null]}'),
        ("bom.jsonl", '\ufeff{"id": "a", "score": 1.5}\r\n{"id": "b", "score": null}'),
    ],
)
def test_every_json_form_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [row.values for row in read_rows(tmp_path / name)] == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert [row.values for row in read_rows(tmp_path / "rows.parquet")] == ROWS


def test_one_object_without_columns_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"id": "a", "turns": ["x", "y"]}')
    assert [row.values for row in read_rows(tmp_path / "one.json")] == [
        {"id": "a", "turns": ["x", "y"]}
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"id": 1}\n{"id": ', "line 2: is not valid JSON"),
        ('{"id": 1, "id": 2}\n{"id": 3}', "line 1: .* the key 'id' twice"),
        ("[1, 2]", "row 1: must be a JSON object, not 1"),
        ("[]", "contains no row"),
        ("", "contains no row"),
        ("[" * 100_000, "is nested deeper than 64 levels"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(EvaluationFileError, match=message):
        read_rows(path)


def test_what_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"id": "a"}\n{"id": "\xe9"}')
    with pytest.raises(EvaluationFileError, match="line 2: is not UTF-8"):
        read_rows(path)
    with pytest.raises(EvaluationFileError, match="cannot be read"):
        read_rows(tmp_path / "absent.json")
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(EvaluationFileError, match="not a readable Parquet file"):
        read_rows(tmp_path / "no.parquet")


def test_it_is_the_persons_error_and_not_retryable() -> None:
    assert issubclass(EvaluationFileError, InputError)
    assert not EvaluationFileError.retryable


def test_a_missing_value_is_neither_a_number_nor_a_text() -> None:
    row = NumberedRow("here", {"score": float("nan"), "output": None, "id": 7})
    assert row.read_number("score") is None
    assert row.read_number("nowhere") is None
    assert row.read_optional_text("output") is None
    assert row.read_name("id") == "7"
    with pytest.raises(EvaluationFileError, match=r"here: has no output \(found: score, output"):
        row.read_text("output")


@pytest.mark.parametrize("value", ["5", True, [1], float("inf")])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(EvaluationFileError, match="score must be a number"):
        NumberedRow("here", {"score": value}).read_number("score")


def test_a_csv_file_gives_texts(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('name,n\n"a, b",1\n')
    assert [row.values for row in read_csv(path)] == [{"name": "a, b", "n": "1"}]
    path.write_text("name,n\n")
    with pytest.raises(EvaluationFileError, match="no row below its header"):
        read_csv(path)
