"""A run as one small file: everything that a report reads comes back, and nothing else counts."""

import json
from dataclasses import replace
from typing import Any

import pytest

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.scorecard import DataIssue
from meta_reward_core.reporting.assemble import build_report
from meta_reward_core.reporting.markdown import write_markdown
from meta_reward_core.reporting.run_loader import ExperimentRun, group_runs
from meta_reward_core.reporting.run_record import RunFingerprint, RunRecord
from tests.core.reporting.fixtures import make_card, make_run

FOUND = DataIssue("verdict_marks", "Answers with marks: 4.", "Read them.", 4)
HASH = "0" * 64


def basis(run: ExperimentRun, **changes: Any) -> RunFingerprint:
    return replace(
        RunFingerprint(run.recipe.sha256, HASH, HASH, run.seed, run.models[0]), **changes
    )


def recorded(run: ExperimentRun) -> RunRecord:
    return RunRecord(run, basis(run))


@pytest.mark.parametrize(
    "run",
    [
        make_run("plain"),
        make_run("gaming", gaming={1: [FOUND], 2: []}),
        make_run("cards", cards={2: [make_card("mt_bench", {"all": 7.5})]}),
        make_run("nothing", iterations=0),
        make_run("unknown", steps=[None, 30], metrics={("M1", "judge", "x", "oracle"): (None, 0)}),
    ],
    ids=lambda run: run.name,
)
def test_a_record_gives_back_the_run(run: ExperimentRun) -> None:
    written = recorded(run).to_json()
    read = RunRecord.from_json(written)
    assert read == recorded(run)
    assert read.to_json() == written


def test_the_report_of_records_is_the_report_of_the_runs() -> None:
    runs = [make_run("a", gaming={1: [FOUND]}), make_run("b", recipe="miniature-self-rewarding")]
    read = [RunRecord.from_json(recorded(run).to_json()).run for run in runs]
    documents = [build_report(group_runs(some), title="x") for some in (runs, read)]
    assert write_markdown(documents[0]) == write_markdown(documents[1])


def test_a_record_that_was_changed_is_refused() -> None:
    values = json.loads(recorded(make_run("a")).to_json())
    values["run"]["figures"][0][4] += 1
    with pytest.raises(ArtifactError, match="the record was modified"):
        RunRecord.from_json(json.dumps(values).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"<<<<<<< ours"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="not a run record"):
        RunRecord.from_json(data)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seed": 2}, "seed 1 then, 2 now"),
        ({"recipe": "9" * 64}, "recipe"),
        ({"templates": "9" * 64}, "templates 000000000000 then, 999999999999 now"),
        ({"prompts": "9" * 64}, "prompts"),
        ({"seed_model": "9" * 64}, "seed model"),
        ({"world": 99}, "world 1 then, 99 now"),
        ({"schema": 99}, "schema 1 then, 99 now"),
    ],
)
def test_whatever_a_run_of_today_would_have_otherwise_is_named(
    changes: dict[str, Any], said: str
) -> None:
    run = make_run("a")
    (difference,) = basis(run, **changes).list_differences(basis(run))
    assert said in difference


def test_a_seed_model_that_nobody_here_knows_is_not_compared() -> None:
    run = make_run("a")
    assert basis(run, seed_model=None).list_differences(basis(run)) == []
