"""The table of faults in docs/reliability.md is what the runs gave, for every fault there is."""

import json
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.faults import FAULTS
from tests.faults.world import STEPS


def test_the_page_has_every_fault_against_every_step() -> None:
    page = table.PAGE.read_text()
    lines = page.partition(table.BEGIN)[2].partition(table.END)[0].strip().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [
        fault.text for fault in FAULTS.values()
    ]
    assert all(line.count("|") == len(STEPS) + 2 for line in lines)


def test_what_was_seen_stands_in_its_cell_and_what_was_not_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [{"fault": "engine", "step": step, "seconds": 3.4} for step in STEPS]
    (tmp_path / "engine.json").write_text(json.dumps(cells))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nwhat stood there\n{table.END}\nafter\n")
    arguments = ["table", str(tmp_path), "--output", str(page)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="1"):
        table.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert f"| engine child killed | {' | '.join(['3 s'] * 8)} | · | · |" in text
    assert "| broker: CLIENT KILL of everybody | not run |" in text
    assert "what stood there" not in text
