"""Parquet is read whole or by columns, and leaves nothing behind that outlives the process."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from meta_reward_core.tables import read_parquet, table_of, to_parquet

READ_AND_END = """
import sys
from pathlib import Path
from meta_reward_core.tables import read_parquet
data = Path(sys.argv[1]).read_bytes()
for _ in range(3):
    read_parquet(data)
"""
DROPPED = table_of("dropped", [{"prompt_id": "p", "kind": "actor", "reason": "equal_scores"}] * 3)


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
