"""docs/artifacts.md describes exactly the tables and columns that there are."""

import dataclasses
import re
from pathlib import Path

import pytest

from meta_reward_core.storage.schemas import RECORDS, SCHEMAS

PAGE = (Path(__file__).parents[2] / "docs" / "artifacts.md").read_text(encoding="utf-8")
ROWS = {
    cells[1].strip(" `"): cells[4]
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := line.split("|")) == 6
}


def test_every_table_is_described_and_no_other() -> None:
    assert ROWS.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_columns_are_described_in_their_order(table: str) -> None:
    assert re.findall(r"`(\w+)`", ROWS[table]) == SCHEMAS[table].names


@pytest.mark.parametrize("table", RECORDS)
def test_a_record_has_the_columns_of_its_table(table: str) -> None:
    fields = [field.name for field in dataclasses.fields(RECORDS[table])]
    # Why an engine refused a prompt is kept in a table of its own.
    assert [name for name in fields if name != "refusal"] == [
        name for name in SCHEMAS[table].names if name != "refusal"
    ]
