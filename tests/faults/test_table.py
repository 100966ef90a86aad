"""The table of faults in docs/reliability.md is what the runs gave, for every fault there is."""

from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.faults import FAULTS, KINDS, NOTHING_TO_SEE
from tests.faults.world import STEPS


def table_of(page: Path) -> str:
    return page.read_text().partition(table.BEGIN)[2].partition(table.END)[0].strip()


def test_the_page_says_what_the_kept_results_say() -> None:
    assert table_of(table.PAGE) == table.write_table(table.read_results(table.RESULTS))


def test_results_are_of_faults_and_steps_that_there_are() -> None:
    for name, seconds in table.read_results(table.RESULTS).items():
        assert set(seconds or {}) <= set(FAULTS[name].steps), name


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "page.md"
    made.write_text(f"before\n{table.BEGIN}\nwhat stood there\n{table.END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["table", str(tmp_path), "--output", str(made)])
    return made


def test_what_was_seen_stands_in_its_cell_and_what_was_not_run_says_so(
    tmp_path: Path, page: Path
) -> None:
    engine = FAULTS["engine"]
    table.write_result(tmp_path, engine, dict.fromkeys(engine.steps, 3.44))
    with pytest.raises(SystemExit, match=r"not run, or failed: .*broker-clients"):
        table.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert f"| engine child killed | {' | '.join(['3 s'] * 8)} | · | · |" in text
    assert "| broker: CLIENT KILL of all clients | not run |" in text
    assert "what stood there" not in text


def test_a_run_of_one_row_leaves_the_others_as_they_were(tmp_path: Path, page: Path) -> None:
    for name in ("engine", "triple"):
        table.write_result(tmp_path, FAULTS[name], dict.fromkeys(FAULTS[name].steps, 3.0))
    table.write_result(tmp_path, FAULTS["triple"], dict.fromkeys(FAULTS["triple"].steps, 5.0))
    with pytest.raises(SystemExit):
        table.main()
    assert "| engine child killed | 3 s |" in table_of(page)
    assert "two workers | 5 s |" in table_of(page)


def test_a_run_that_failed_keeps_no_figures_of_the_one_before(tmp_path: Path, page: Path) -> None:
    table.write_result(tmp_path, FAULTS["engine"], dict.fromkeys(STEPS, 3.0))
    table.write_result(tmp_path, FAULTS["engine"], None)
    with pytest.raises(SystemExit, match="engine"):
        table.main()
    assert "| engine child killed | failed |" in table_of(page)


def test_somebody_can_see_what_a_fault_cost_or_it_is_said_why_not() -> None:
    unseen = {fault.name for fault in FAULTS.values() if not fault.said and not fault.logged}
    assert unseen == NOTHING_TO_SEE.keys()


def test_every_fault_is_of_one_kind() -> None:
    """What is wrong with clocks is wrong in a whole world, and of no kind."""
    of_a_kind = [name for names in KINDS.values() for name in names]
    assert sorted(of_a_kind) == sorted(name for name, fault in FAULTS.items() if not fault.skewed)
