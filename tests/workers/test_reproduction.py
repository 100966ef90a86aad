"""`manage.py reproduce`: which runs, in which order, and what a kill leaves to do."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from meta_reward_core.errors import InputError
from meta_reward_core.reporting.run_loader import ExperimentRun
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.tasks.toy.base_model import GateResult
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant
from tests.core.reporting.fixtures import make_run
from tests.workers.installation import Installation
from workers.reproduction import run
from workers.reproduction.matrix import MatrixSpec, PlannedRun, plan_runs
from workers.reproduction.records import SeedModelRecords
from workers.reproduction.run import choose_seed_models, run_all

ARMS = ("miniature", "miniature-noisy-meta-judge")
# Stands in for `run_iteration`: "finishes" an iteration, or fails where its name says so.
CHILD = """
import pathlib, sys, time
name, root = sys.argv[1:]
if "fails" in name:
    print("no pair\\n  survived")
    sys.exit(3)
time.sleep(0.1)
folder = pathlib.Path(root, name, "iteration-1")
folder.mkdir(parents=True)
(folder / "manifest.json").write_text("{}")
"""


def make_spec(folder: Path, **changes: object) -> MatrixSpec:
    given = {
        "name": "t",
        "recipes": ARMS,
        "seeds": 2,
        "sft_seeds": None,
        "iterations": None,
        "changes": (),
        "prompts": None,
        "jobs": 2,
        "threads": 1,
        "logs": folder,
        "completion_cache": folder / "draws",
    }
    return MatrixSpec(**(given | changes))  # type: ignore[arg-type]


def gate(sft_seed: int, *, passed: bool = True) -> GateResult:
    return GateResult(sft_seed, *([0.9] * 3 if passed else [0.5] * 3))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Runs that take a tenth of a second; the names of those that were started."""
    started: list[str] = []

    def start(spec: MatrixSpec, run: PlannedRun) -> "subprocess.Popen[bytes]":
        started.append(run.name)
        command = [sys.executable, "-c", CHILD, run.name, str(tmp_path / "artifacts")]
        with (tmp_path / f"{run.name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, start_new_session=True)

    monkeypatch.setattr(run, "_start_run", start)
    monkeypatch.setattr(run, "_POLL_SECONDS", 0.01)
    return started


class Files:
    """Runs are finished by their files alone, without records."""

    def __init__(self, folder: Path) -> None:
        self._store = ArtifactStore(str(folder / "artifacts"))

    def count_iterations(self, run: PlannedRun) -> int:
        return ExperimentFiles(self._store, run.name).count_finished_iterations()

    def find(self, run: PlannedRun) -> ExperimentRun | None:
        return make_run(run.name) if self.count_iterations(run) >= run.iterations else None


def work(folder: Path, runs: list[PlannedRun], said: list[str], jobs: int = 1) -> dict[str, str]:
    files: Any = Files(folder)
    return run_all(make_spec(folder, jobs=jobs), runs, files, say=said.append)


def planned(*names: str, group: str = "seed1") -> list[PlannedRun]:
    return [PlannedRun(name, group, "miniature", "miniature", 1, 1, None) for name in names]


def test_seed_by_seed_every_arm_has_its_turn(tmp_path: Path) -> None:
    """So whenever it is stopped, the arms have about as many runs each."""
    names = [run.name for run in plan_runs(make_spec(tmp_path), [])]
    assert names == [
        "t.miniature.seed1",
        "t.miniature-noisy-meta-judge.seed1",
        "t.miniature.seed2",
        "t.miniature-noisy-meta-judge.seed2",
    ]


def test_each_seed_model_that_passed_has_all_arms_and_the_noisy_arm_its_noisy_twin(
    tmp_path: Path,
) -> None:
    gates = [gate(1), gate(2, passed=False), gate(3)]
    runs = plan_runs(make_spec(tmp_path, seeds=1, sft_seeds=2), gates)
    assert [(run.name, run.model) for run in runs] == [
        ("t.miniature.sft1.seed1", SeedModelVariant(1)),
        ("t.miniature-noisy-meta-judge.sft1.seed1", SeedModelVariant(1, noisy=True)),
        ("t.miniature.sft3.seed1", SeedModelVariant(3)),
        ("t.miniature-noisy-meta-judge.sft3.seed1", SeedModelVariant(3, noisy=True)),
    ]


def test_every_arm_of_the_miniature_paper_can_be_named(tmp_path: Path) -> None:
    from workers.management.commands.reproduce import PAPER_ARMS

    runs = plan_runs(
        make_spec(tmp_path, name="paper", recipes=PAPER_ARMS, seeds=9, sft_seeds=1), [gate(99)]
    )
    assert len({run.name for run in runs}) == len(PAPER_ARMS) * 9
    gates = [gate(1), gate(2, passed=False), gate(3), gate(4)]
    assert (
        len(plan_runs(make_spec(tmp_path, recipes=PAPER_ARMS, seeds=5, sft_seeds=3), gates)) == 90
    )


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"recipes": ("miniature", "miniature")}, "the same name"),
        ({"name": "x" * 60}, "is not a valid experiment name"),
        ({"name": "../x"}, "is not a valid experiment name"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        plan_runs(make_spec(tmp_path, **changes), [])


def test_seed_models_are_of_the_miniature_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy task"):
        plan_runs(make_spec(tmp_path, recipes=("paper-llama3-8b",), sft_seeds=1), [gate(1)])


def known_seeds(folder: Path, gates: Mapping[int, GateResult]) -> SeedModelRecords:
    """Seed models of which these were tried."""
    seeds = SeedModelRecords(folder / "models", folder / "runs", print)
    for sft_seed, one in gates.items():
        variant = SeedModelVariant(sft_seed)
        seeds.get_path(variant).parent.mkdir(parents=True, exist_ok=True)
        record = {"key": variant.key, "gate": asdict(one), "model": None}
        seeds.get_path(variant).write_text(json.dumps(record))
    return seeds


def test_the_first_seeds_that_pass_the_gate_are_taken_and_the_failures_are_kept(
    tmp_path: Path,
) -> None:
    seeds = known_seeds(tmp_path, {1: gate(1), 2: gate(2, passed=False), 3: gate(3), 4: gate(4)})
    tried = choose_seed_models(make_spec(tmp_path, sft_seeds=2), seeds, train=True)
    assert [(one.sft_seed, one.passed) for one in tried] == [(1, True), (2, False), (3, True)]


def test_without_training_the_seeds_end_at_the_first_that_nobody_tried(tmp_path: Path) -> None:
    tried = choose_seed_models(
        make_spec(tmp_path, sft_seeds=3), known_seeds(tmp_path, {}), train=False
    )
    assert [one.sft_seed for one in tried] == [1]


def test_finished_runs_are_not_run_again(tmp_path: Path, children: list[str]) -> None:
    said: list[str] = []
    runs = planned("a", "b", "c")
    assert work(tmp_path, runs[:1], said) == {}
    assert work(tmp_path, runs, said) == {}
    assert children == ["a", "b", "c"]
    assert "1 of 3 runs are finished" in said
    assert any(line.startswith("1 of 2: ") and "left, about" in line for line in said)


def test_a_run_that_fails_keeps_no_other_from_going_on_and_says_why(
    tmp_path: Path, children: list[str]
) -> None:
    runs = planned("fails", "b", "c")
    assert work(tmp_path, runs, []) == {"fails": "exit code 3: no pair   survived"}
    assert children == ["fails", "b", "c"]
    assert Files(tmp_path).find(runs[2]) is not None


def test_runs_that_begin_alike_follow_each_other_and_their_draws_go_with_the_last(
    tmp_path: Path, children: list[str]
) -> None:
    """Two at a time: one of each group, not the two first."""
    for group in ("one", "two"):
        (tmp_path / "draws" / group).mkdir(parents=True)
    runs = [*planned("a", "b", group="one"), *planned("fails", group="two")]
    work(tmp_path, runs, [], jobs=2)
    assert children == ["a", "fails", "b"]
    assert list((tmp_path / "draws").iterdir()) == []


def test_where_all_runs_begin_alike_they_run_side_by_side_all_the_same() -> None:
    todo = planned("a", "b")
    assert run.take_next_run(todo, busy={"seed1"}).name == "a"
    assert [run.name for run in todo] == ["b"]


def test_a_stop_ends_the_runs_that_were_going_on(
    tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_pause", stop)
    runs = planned("a", "b", "c")
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, runs, [], jobs=2)
    assert children == ["a", "b"]
    assert Files(tmp_path).count_iterations(runs[0]) == 0


def test_a_report_of_nothing_finished_names_what_is_planned(
    installation: Installation, tmp_path: Path
) -> None:
    installation.run("reproduce", "--report-only", "--output", tmp_path / "paper")
    text = (tmp_path / "paper.md").read_text()
    assert "Planned: 6 arms, loop seeds 1 to 5, 3 seed models" in text
    assert "1 of 1 SFT seeds passed" in text
    assert "| miniature-noisy-meta-judge | no run is finished | 0 of 5 |" in text
    assert "finished runs of the baseline and of another arm" in text


def test_an_unknown_baseline_is_refused_before_the_work(
    installation: Installation, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="--baseline must be one of miniature"):
        installation.run("reproduce", "--recipe", "miniature", "--baseline", "other")
