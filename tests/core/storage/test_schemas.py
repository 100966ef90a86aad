"""Parquet is read whole or by columns, of this version of the tables and of those before it.

Nothing that reading leaves behind outlives the process.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from meta_reward_core.engines.base import pack_token_ids
from meta_reward_core.errors import DamagedArtifactError
from meta_reward_core.storage.records import Battle, Judgment, Response
from meta_reward_core.storage.schemas import (
    ADDED_COLUMNS,
    SCHEMAS,
    TOKEN_COLUMNS,
    build_table,
    from_parquet,
    list_columns,
    read_parquet,
    to_parquet,
    to_records,
)

READ_AND_END = """
import sys
from pathlib import Path
from meta_reward_core.storage.schemas import read_parquet
data = Path(sys.argv[1]).read_bytes()
for _ in range(3):
    read_parquet(data)
"""
DROPPED = build_table(
    "dropped", [{"prompt_id": "p", "kind": "actor", "reason": "equal_scores"}] * 3
)


def test_a_process_may_end_as_soon_as_it_has_read(tmp_path: Path) -> None:
    """With `pyarrow.parquet.read_table` every second one of these was aborted at its end."""
    file = tmp_path / "dropped.parquet"
    file.write_bytes(to_parquet(DROPPED))
    for _ in range(10):
        command = [sys.executable, "-c", READ_AND_END, str(file)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_columns_come_in_the_order_asked_for_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "dropped.parquet"
    file.write_bytes(to_parquet(DROPPED))
    for source in (file, file.read_bytes()):
        assert read_parquet(source).equals(DROPPED)
        assert read_parquet(source, ["reason", "kind"]).equals(DROPPED.select(["reason", "kind"]))


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="score"):
        read_parquet(to_parquet(DROPPED), ["kind", "score"])
    with pytest.raises(pa.ArrowException):
        read_parquet(b"no Parquet")


JUDGMENTS = [
    Judgment("p", "r", "r.j0", 0, "Good. Score: 4", 4.0, None, 5, "stop", "free",
             token_ids=pack_token_ids([5, 128_009])),
    Judgment("p", "r", "r.j1", 1, "Good. Score: 4", 3.7, None, 5, "length", "expected",
             [{"value": "4", "probability": 0.7}, {"value": "3", "probability": 0.3}],
             pack_token_ids([5, 6, 7]), pack_token_ids([1])),
    Judgment("p", "r", "r.j2", 2, "", None, "prompt_refused", 0, "refused", "free"),
]  # fmt: skip
RESPONSES = [Response("p", "r", 0, "an answer", 2, "stop", pack_token_ids([9, 2]))]
BATTLES = [
    Battle("p", "r", "r.j0", "r.j1", "Winner: A", "A", None, 3, "stop", "forced",
           [{"value": "A", "probability": 1.0}])
]  # fmt: skip
ROWS: dict[str, list[object]] = {
    "responses": [*RESPONSES],
    "judgments": [*JUDGMENTS],
    "battles": [*BATTLES],
}
VERSION_1 = {
    "responses": ["prompt_id", "response_id", "sample", "text", "tokens", "finish_reason"],
    "judgments": [
        "prompt_id", "response_id", "judgment_id", "sample", "text", "score", "unscored_reason",
        "tokens",
    ],
    "battles": [
        "prompt_id", "response_id", "first_judgment_id", "second_judgment_id", "text", "verdict",
        "unparsed_reason", "tokens",
    ],
}  # fmt: skip
"""Columns as version 1 of the tables wrote them."""


def test_a_judgment_goes_into_its_table_with_all_that_is_known_of_it() -> None:
    table = from_parquet(
        to_parquet(build_table("judgments", JUDGMENTS)), name="judgments", origin=""
    )
    assert table["token_ids"].to_pylist() == [[5, 128_009], [5, 6, 7], None]
    assert table["injected_at"].to_pylist() == [None, [1], None]
    assert table["finish_reason"].to_pylist() == ["stop", "length", "refused"]
    assert table["readout"].to_pylist() == ["free", "expected", "free"]
    assert table["probabilities"].to_pylist() == [None, JUDGMENTS[1].probabilities, None]


def test_records_are_read_without_the_ids_of_their_tokens() -> None:
    """A shard of the paper's size holds a million tokens, and only training asks for them."""
    read = to_records(build_table("judgments", JUDGMENTS), Judgment)
    assert [one.token_ids for one in read] == [None] * 3
    assert [one.probabilities for one in read] == [one.probabilities for one in JUDGMENTS]
    assert set(SCHEMAS["judgments"].names) - set(list_columns(Judgment)) == set(TOKEN_COLUMNS)


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_version_1_is_read_with_null_where_it_knows_nothing(name: str) -> None:
    now = build_table(name, ROWS[name])
    read = from_parquet(to_parquet(now.select(VERSION_1[name])), name=name, origin="a file")
    assert read.schema.equals(SCHEMAS[name])
    assert read.select(VERSION_1[name]).equals(now.select(VERSION_1[name]))
    added = ADDED_COLUMNS[2][name]
    assert [*VERSION_1[name], *added] == SCHEMAS[name].names
    assert [read[column].null_count for column in added] == [len(ROWS[name])] * len(added)


@pytest.mark.parametrize("name", ROWS)
def test_some_columns_of_either_version_come_in_the_order_asked_for(name: str) -> None:
    now, added = build_table(name, ROWS[name]), ADDED_COLUMNS[2][name]
    for columns in ([added[0], "text", "prompt_id"], [added[-1]], ["text"], []):
        for table, known in ((now, True), (now.select(VERSION_1[name]), False)):
            read = from_parquet(to_parquet(table), name=name, origin="", columns=columns)
            assert read.column_names == columns
            assert all(
                read[column].equals(now[column]) if known or column not in added
                else read[column].null_count == len(now)
                for column in columns
            )  # fmt: skip


def test_every_table_that_gained_nothing_is_read_as_it_was() -> None:
    for name in SCHEMAS.keys() - ADDED_COLUMNS[2].keys():
        empty = SCHEMAS[name].empty_table()
        assert from_parquet(to_parquet(empty), name=name, origin="a file").equals(empty)


@pytest.mark.parametrize(
    "wrong",
    [
        VERSION_1["judgments"][:-1],
        [*VERSION_1["judgments"], "finish_reason"],
        SCHEMAS["judgments"].names[::-1],
    ],
)
def test_columns_that_no_version_wrote_are_refused(wrong: list[str]) -> None:
    data = to_parquet(build_table("judgments", JUDGMENTS).select(wrong))
    with pytest.raises(DamagedArtifactError, match="a file does not have the columns of the table"):
        from_parquet(data, name="judgments", origin="a file", columns=["text"])


def test_a_column_that_the_table_has_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="points"):
        from_parquet(to_parquet(DROPPED), name="dropped", origin="", columns=["points"])
