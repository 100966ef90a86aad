"""The commands that look: list, show, export."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from tests.workers.installation import Installation
from webapp.experiments.models import Experiment


@pytest.fixture
def ran(installation: Installation) -> Installation:
    installation.run_iteration("--iterations", 2)
    return installation


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_list_of_nothing_says_how_to_begin(installation: Installation) -> None:
    assert "run_iteration --experiment" in installation.run("list_experiments")


def test_the_list_names_what_there_is(ran: Installation) -> None:
    shown = ran.run("list_experiments")
    for expected in ("mine", "scripted", "2 of 2", "completed"):
        assert expected in shown


def test_the_latest_iteration_is_shown(ran: Installation, tmp_path: Path) -> None:
    shown = ran.run("show_iteration", "--experiment", "mine", "--output", tmp_path / "out.json")
    assert "Iteration 2: M1 to M2" in shown
    assert json.loads((tmp_path / "out.json").read_text())["iteration"] == 2


def test_an_iteration_is_shown_from_its_files_alone(ran: Installation) -> None:
    Experiment.objects.all().delete()
    shown = ran.run("show_iteration", "--experiment", "mine", "--iteration", 1)
    assert "Iteration 1: M0 to M1" in shown


def test_an_iteration_that_was_not_begun_is_not_shown(ran: Installation) -> None:
    with pytest.raises(CommandError, match=r"iteration 3 .* has not been started"):
        ran.run("show_iteration", "--experiment", "mine", "--iteration", 3)


def test_pairs_are_exported_whole(ran: Installation, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    shown = ran.run("export_pairs", "--experiment", "mine", "--output", path)
    rows = read_lines(path)
    assert f"{len(rows)} pairs" in shown
    assert {row["kind"] for row in rows} == {"actor", "judge"}
    assert {row["iteration"] for row in rows} == {1, 2}
    assert rows[0]["chosen"][0]["role"] == "assistant"
    assert list(tmp_path.glob(".pairs*")) == []


@pytest.mark.parametrize(
    "form, column",
    [
        ("distilabel", "chosen_rating"),
        ("openrlhf", "reward"),
        ("llama-factory", "conversations"),
        ("online-rlhf", "rewards"),
    ],
)
def test_pairs_in_the_format_of_another_tool(
    ran: Installation, tmp_path: Path, form: str, column: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    shown = ran.run(
        "export_pairs", "--experiment", "mine", "--output", path,
        "--format", form, "--kind", "actor", "--iteration", 1,
    )  # fmt: skip
    assert all(column in row for row in read_lines(path))
    assert ("dataset_info.json" in shown) == (form == "llama-factory")


def test_a_file_that_exists_is_replaced_only_on_request(ran: Installation, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("precious")
    arguments = ("export_pairs", "--experiment", "mine", "--output", path)
    with pytest.raises(CommandError, match="--overwrite"):
        ran.run(*arguments)
    assert path.read_text() == "precious"
    ran.run(*arguments, "--overwrite")
    assert read_lines(path)
