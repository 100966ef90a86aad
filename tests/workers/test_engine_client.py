"""The engine's process: kept for one model, replaced for another, and killed without a trace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from meta_reward_core.iteration import STAGES, Resource
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.roots import StorageRoots
from tests.workers.installation import Installation
from workers.engine.client import (
    EngineHost,
    ShardFailedError,
    ShardRequest,
    ShardResult,
    ShardStoppedError,
)


@pytest.fixture
def host() -> Iterator[EngineHost]:
    made = EngineHost()
    yield made
    made.kill()


@pytest.fixture
def begun(installation: Installation) -> Path:
    """An experiment's artifact root."""
    root = installation.root
    roots = StorageRoots(str(installation.artifacts), root / "models", root / "scratch")
    request = ExperimentRequest(
        "mine", recipe=str(installation.recipe), prompts=installation.prompts
    )
    open_or_create(request, roots, say=lambda text: None)
    return installation.artifacts


def run(
    host: EngineHost,
    root: Path,
    stage: str = "sample",
    resource: Resource = "cpu",
    *,
    model: str = "M0",
    experiment: str = "mine",
    **more: Any,
) -> ShardResult:
    request = ShardRequest(str(root), str(root / "scratch"), experiment, 1, stage, 0)
    given: dict[str, Any] = {
        "on_message": lambda message: None,
        "can_continue": lambda: True,
        **more,
    }
    return host.run(request, resource=resource, model=model, **given)


def test_a_child_stays_for_one_model_and_is_replaced_for_another(
    host: EngineHost, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("META_REWARD_SECRET_KEY", "DATABASE_URL", "HF_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "sqlite:///sesame")
    assert run(host, begun) == ShardResult(
        {"pool": 20, "used_before": 0, "prompts": 8}, reused=False, device="cpu"
    )
    first = host.pid
    given = psutil.Process(first).environ()
    assert {given[name] for name in secrets} == {""}, "a model's process needs no secret"
    assert run(host, begun).reused
    assert run(host, begun, "generate", "engine", model="M0").counts["completions"] == 16
    assert host.pid == first
    assert run(host, begun, "generate", "engine", model="M1").reused
    assert host.pid not in (None, first)
    assert first is not None
    assert not psutil.pid_exists(first)


def test_keys_of_trackers_reach_the_training_and_no_other_process(
    host: EngineHost, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training gets no other secret; an engine gets none at all."""
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")
    monkeypatch.setenv("META_REWARD_SECRET_KEY", "sesame")
    given: dict[str, dict[str, str]] = {}

    def look(resource: str) -> bool:
        assert host.pid is not None
        given.setdefault(resource, psutil.Process(host.pid).environ())
        return True

    resources: tuple[Resource, ...] = ("engine", "trainer")
    for resource in resources:
        run(
            host,
            begun,
            resource=resource,
            can_continue=partial(look, resource),
            every_seconds=0.01,
        )
    names = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "META_REWARD_SECRET_KEY")
    assert [given["engine"][name] for name in names] == ["", "", ""]
    assert [given["trainer"][name] for name in names] == ["sesame", "sesame", ""]


def test_a_training_has_the_machine_to_itself(host: EngineHost, begun: Path) -> None:
    """The child that holds a model is gone before the training begins, and the training's after."""
    run(host, begun)
    run(host, begun, "generate", "engine")
    engine, beside = host.pid, list[tuple[int | None, bool]]()
    assert engine is not None

    def look() -> bool:
        beside.append((host.pid, psutil.pid_exists(engine)))
        return True

    assert run(host, begun, resource="trainer", can_continue=look, every_seconds=0.01).reused
    trainers = {pid for pid, _ in beside}
    assert beside, "it was asked while the training ran"
    assert not any(alive for _, alive in beside)
    assert engine not in trainers
    assert host.pid is None
    assert not any(psutil.pid_exists(pid) for pid in trainers if pid)


def test_the_only_stage_that_is_given_the_whole_machine_is_the_training() -> None:
    assert [stage.name for stage in STAGES if stage.resource == "trainer"] == ["train"]


def test_what_goes_wrong_in_it_has_a_kind_and_words(host: EngineHost, begun: Path) -> None:
    with pytest.raises(
        ShardFailedError, match="files of experiment 'other' are missing in"
    ) as caught:
        run(host, begun, experiment="other")
    assert (caught.value.kind, caught.value.retryable) == ("ArtifactError", False)
    assert run(host, begun).counts["prompts"] == 8
    with pytest.raises(ShardFailedError) as fault:
        run(host, begun, "no such stage")
    assert (fault.value.kind, fault.value.retryable) == ("StopIteration", True)
    assert host.pid is None, "nobody knows what state a process is in after a fault"


def test_no_leaves_nothing_behind(host: EngineHost, begun: Path) -> None:
    pids = []

    def say_no() -> bool:
        pids.append(host.pid)
        return False

    with pytest.raises(ShardStoppedError):
        run(host, begun, can_continue=say_no, every_seconds=0.1)
    assert host.pid is None
    assert not psutil.pid_exists(pids[0])


LARGE = """
import os, sys
if sys.argv[1] == "own session":
    os.setsid()
held = bytearray(400 * 2**20)
held[::4096] = bytes([1]) * len(held[::4096])
print(os.getpid(), flush=True)
sys.stdin.read()
"""
SPLIT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdin=subprocess.PIPE).wait()
"""


@pytest.mark.parametrize("session", ["own session", "same group"])
def test_a_kill_waits_for_the_memory_of_all_processes_of_an_engine(
    host: EngineHost, session: str
) -> None:
    """A stand-in for an engine on several devices: freeing memory takes longer than the leader."""
    command = [sys.executable, "-c", SPLIT, LARGE, session]
    host._child = leader = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
    assert leader.stdout is not None
    large = psutil.Process(int(leader.stdout.readline()))
    host.kill()
    assert not large.is_running() or large.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_is_a_failure_that_names_the_signal(
    host: EngineHost, begun: Path, number: signal.Signals
) -> None:
    def kill() -> bool:
        assert host.pid is not None
        os.kill(host.pid, number)
        return True

    with pytest.raises(ShardFailedError, match=number.name) as caught:
        run(host, begun, can_continue=kill, every_seconds=0.1)
    assert (caught.value.kind, caught.value.retryable) == ("EngineDied", True)


def test_one_that_died_while_it_had_nothing_to_do_is_replaced(
    host: EngineHost, begun: Path
) -> None:
    run(host, begun)
    assert host.pid is not None
    os.kill(host.pid, signal.SIGKILL)
    time.sleep(1)
    assert run(host, begun).reused
