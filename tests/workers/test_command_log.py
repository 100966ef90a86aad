"""What a shell's user takes out, deletes or puts back leaves an event, as a person's deeds do."""

import getpass
from pathlib import Path

import pytest
from django.db import DatabaseError

from tests.workers.installation import Installation, UseScript
from webapp.activity.models import Action, Activity
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment
from workers.management import base
from workers.ops.host import get_machine_name

WHO = f"{getpass.getuser()} on {get_machine_name()}"


@pytest.fixture
def finished(installation: Installation, use_script: UseScript) -> Installation:
    installation.run_iteration("--iterations", 2)
    Activity._base_manager.all().delete()
    return installation


def noted() -> list[tuple[str, str, str, str]]:
    rows = Activity.objects.order_by("pk")
    return list(rows.values_list("action", "object_name", "details", "actor_name"))


def test_commands_that_take_out_delete_or_put_back_are_noted(
    finished: Installation, tmp_path: Path
) -> None:
    pairs, rows = tmp_path / "pairs.jsonl", tmp_path / "rows.gz"
    finished.run("export_pairs", "--experiment", "mine", "--output", pairs)
    finished.run("backup", "--output", rows)
    finished.run("restore", "--input", rows, "--replace")
    layout = open_experiment_files(Experiment.objects.get(name="mine")).layout
    scratch = layout.get_scratch(finished.root / "scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "state").write_bytes(b"x")
    finished.run("prune", "--only", "scratch")
    assert noted() == [
        (Action.EXPORTED, "mine", f"pairs in {pairs}", WHO),
        (
            Action.RESTORED,
            str(rows),
            "",
            WHO,
        ),  # the backup's own event is younger than its rows
    ], "a list of what may be deleted deletes nothing"
    finished.run("prune", "--only", "scratch", "--yes")
    kind, subject, *detail = noted()[-1]
    assert (kind, detail) == (Action.PRUNED, ["scratch", WHO])
    assert str(scratch) in subject


def test_a_backup_is_noted(finished: Installation, tmp_path: Path) -> None:
    finished.run("backup", "--output", tmp_path / "rows.gz")
    assert noted() == [(Action.BACKED_UP, str(tmp_path / "rows.gz"), "", WHO)]


def test_an_export_needs_no_database(
    finished: Installation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(*args: object, **more: object) -> None:
        raise DatabaseError("no connection")

    monkeypatch.setattr(base, "log_event", away)
    finished.run("export_pairs", "--experiment", "mine", "--output", tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").exists()
    assert f"not recorded: data exported, mine, by {WHO}: no connection" in caplog.text


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 10001)
    assert base._get_user_name() == "user 10001"
