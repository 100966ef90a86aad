"""`manage.py reproduce`: which runs, in which order, and what a kill leaves to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.errors import InputError
from meta_reward_core.miniature import seed_variants
from meta_reward_core.miniature.seed import GateResult
from meta_reward_core.miniature.seed_variants import SeedVariant
from tests.workers.installation import Installation
from workers import reproducing
from workers.reproducing import PlannedRun, Wish, choose_seeds, plan_runs, run_all

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


def wish(folder: Path, **changes: object) -> Wish:
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
    }
    return Wish(**(given | changes))  # type: ignore[arg-type]


def gate(sft_seed: int, *, passed: bool = True) -> GateResult:
    return GateResult(sft_seed, *([0.9] * 3 if passed else [0.5] * 3))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Runs that take a tenth of a second; the names of those that were started."""
    started: list[str] = []

    def start(wish: Wish, run: PlannedRun) -> "subprocess.Popen[bytes]":
        started.append(run.name)
        command = [sys.executable, "-c", CHILD, run.name, str(tmp_path / "artifacts")]
        with (tmp_path / f"{run.name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, start_new_session=True)

    monkeypatch.setattr(reproducing, "_start", start)
    monkeypatch.setattr(reproducing, "_POLL_SECONDS", 0.01)
    return started


def planned(*names: str) -> list[PlannedRun]:
    return [PlannedRun(name, "miniature", "miniature", 1, 1, None) for name in names]


def test_seed_by_seed_every_arm_has_its_turn(tmp_path: Path) -> None:
    """So whenever it is stopped, the arms have about as many runs each."""
    names = [run.name for run in plan_runs(wish(tmp_path), [])]
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
    runs = plan_runs(wish(tmp_path, seeds=1, sft_seeds=2), gates)
    assert [(run.name, run.model) for run in runs] == [
        ("t.miniature.sft1.seed1", SeedVariant(1)),
        ("t.miniature-noisy-meta-judge.sft1.seed1", SeedVariant(1, noisy=True)),
        ("t.miniature.sft3.seed1", SeedVariant(3)),
        ("t.miniature-noisy-meta-judge.sft3.seed1", SeedVariant(3, noisy=True)),
    ]


def test_every_arm_of_the_miniature_paper_can_be_named(tmp_path: Path) -> None:
    from workers.management.commands.reproduce import PAPER_ARMS

    runs = plan_runs(
        wish(tmp_path, name="paper", recipes=PAPER_ARMS, seeds=9, sft_seeds=1), [gate(99)]
    )
    assert len({run.name for run in runs}) == len(PAPER_ARMS) * 9


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"recipes": ("miniature", "miniature")}, "the same name"),
        ({"name": "x" * 60}, "cannot name an experiment"),
        ({"name": "../x"}, "cannot name an experiment"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        plan_runs(wish(tmp_path, **changes), [])


def test_seed_models_are_of_the_miniature_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for the miniature"):
        plan_runs(wish(tmp_path, recipes=("paper-llama3-8b",), sft_seeds=1), [gate(1)])


def test_the_first_seeds_that_pass_the_gate_are_taken_and_the_failures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {1: gate(1), 2: gate(2, passed=False), 3: gate(3), 4: gate(4)}
    monkeypatch.setattr(reproducing, "known_gate", lambda variant, models: known[variant.sft_seed])
    tried = choose_seeds(wish(tmp_path, sft_seeds=2), tmp_path, print, train=True)
    assert [(one.sft_seed, one.passed) for one in tried] == [(1, True), (2, False), (3, True)]


def test_without_training_the_seeds_end_at_the_first_that_nobody_tried(tmp_path: Path) -> None:
    tried = choose_seeds(wish(tmp_path, sft_seeds=3), tmp_path, print, train=False)
    assert [one.sft_seed for one in tried] == [1]
    assert seed_variants.known_gate(SeedVariant(2), tmp_path) is None


def test_finished_runs_are_not_run_again(tmp_path: Path, children: list[str]) -> None:
    said: list[str] = []
    store = ArtifactStore(str(tmp_path / "artifacts"))
    runs = planned("a", "b", "c")
    assert run_all(wish(tmp_path), runs[:1], store, say=said.append) == {}
    assert run_all(wish(tmp_path, jobs=1), runs, store, say=said.append) == {}
    assert children == ["a", "b", "c"]
    assert "1 of 3 runs are finished" in said
    assert any(line.startswith("1 of 2: ") and "left, about" in line for line in said)


def test_a_run_that_fails_keeps_no_other_from_going_on_and_says_why(
    tmp_path: Path, children: list[str]
) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    runs = planned("fails", "b", "c")
    failed = run_all(wish(tmp_path, jobs=1), runs, store, say=lambda _: None)
    assert failed == {"fails": "exit code 3: no pair   survived"}
    assert children == ["fails", "b", "c"]
    assert reproducing.finished_iterations(store, "c") == 1


def test_a_stop_ends_the_runs_that_were_going_on(
    tmp_path: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproducing, "_pause", stop)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    with pytest.raises(KeyboardInterrupt):
        run_all(wish(tmp_path), planned("a", "b", "c"), store, say=lambda _: None)
    assert children == ["a", "b"]
    assert reproducing.finished_iterations(store, "a") == 0


def test_a_report_of_nothing_finished_names_what_is_planned(
    installation: Installation, tmp_path: Path
) -> None:
    installation.run("reproduce", "--report-only", "--output", tmp_path / "paper")
    text = (tmp_path / "paper.md").read_text()
    assert "Planned: 7 arms, loop seeds 1 to 5, 3 seed models" in text
    assert "1 of 1 SFT seeds passed" in text
    assert "| miniature-noisy-meta-judge | no run is finished | 0 of 5 |" in text
    assert "it takes finished runs of the baseline and of another arm" in text


def test_an_unknown_baseline_is_refused_before_the_work(
    installation: Installation, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="--baseline takes one of miniature"):
        installation.run("reproduce", "--recipe", "miniature", "--baseline", "other")
