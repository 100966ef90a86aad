"""A whole iteration through vLLM, killed and cancelled too."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from meta_reward_core.experiment import open_experiment
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.vllm.installation import counts_of, get_roots, run_smoke, summary_of
from workers.engine.client import EngineHost, ShardFailedError, ShardRequest, ShardStoppedError

RECIPE = "smoke"


def hashes(root: Path) -> dict[str, str]:
    """Of all parts of all tables, and of the checkpoint."""
    experiment = open_experiment(ArtifactStore(get_roots(root).artifacts), "mine")
    assert experiment is not None
    files = experiment.build_context(1).files
    parts = {part.path: part.sha256 for made in files.list_manifests() for part in made.parts}
    return parts | {"checkpoint": str(files.checkpoint.compute_sha256())}


def wait_for(found: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not found():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.1)


def test_a_smoke_iteration_runs_through_it(quiet_run: Mapping[str, Any]) -> None:
    summary = quiet_run["summary"]
    assert summary["finished"]
    assert summary["model_out"]
    assert counts_of(summary, "generate")["completions"] == 252
    assert counts_of(summary, "judge")["unscored"] < 30
    assert counts_of(summary, "meta_judge")["battles"] > 500
    assert counts_of(summary, "train")["trained"] > 50
    assert {row["subject"] for row in summary["truth"]} == {"actor", "judge", "meta_judge"}


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    quiet_run: Mapping[str, Any], tmp_path: Path
) -> None:
    manifests = tmp_path / "artifacts/mine/iteration-1/manifests"
    run = run_smoke(tmp_path, "--engine", "vllm")
    wait_for(lambda: (manifests / "judge-00000.json").exists(), run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (manifests / "train-00000.json").exists()
    assert run_smoke(tmp_path).wait(400) == 0
    assert summary_of(tmp_path)["finished"]
    assert hashes(tmp_path) == hashes(Path(quiet_run["roots"].models).parent)


@pytest.fixture
def begun(tmp_path: Path) -> ShardRequest:
    """An experiment whose first shard of instructions has been drawn."""
    places = get_roots(tmp_path)
    open_or_create(
        ExperimentRequest("mine", recipe=RECIPE, engine="vllm"), places, say=lambda text: None
    )
    request = ShardRequest(places.artifacts, str(places.scratch), "mine", 1, "sample", 0)
    host = EngineHost()
    host.run(
        request, resource="cpu", model="", on_message=lambda _: None, can_continue=lambda: True
    )
    host.kill()
    return ShardRequest(places.artifacts, str(places.scratch), "mine", 1, "generate", 0)


def family(pid: int | None) -> list[psutil.Process]:
    child = psutil.Process(pid)
    return [child, *child.children(recursive=True)]


def test_a_shard_that_is_cancelled_leaves_no_process_behind(begun: ShardRequest) -> None:
    host, seen = EngineHost(), list[psutil.Process]()
    progress: list[Any] = []

    def can_continue() -> bool:
        seen.extend(family(host.pid))
        return not progress

    with pytest.raises(ShardStoppedError):
        host.run(
            begun,
            resource="engine",
            model="M0",
            on_message=progress.append,
            can_continue=can_continue,
            every_seconds=0.05,
        )
    assert progress, "vLLM was at work"
    assert psutil.wait_procs(seen, timeout=5)[1] == []


def test_an_engine_that_is_killed_is_a_failure_and_the_next_attempt_works(
    begun: ShardRequest,
) -> None:
    host = EngineHost()

    def run(can_continue: Callable[[], bool]) -> dict[str, int]:
        made = host.run(
            begun,
            resource="engine",
            model="M0",
            on_message=lambda _: None,
            can_continue=can_continue,
            every_seconds=0.5,
        )
        return made.counts

    def kill() -> bool:
        assert host.pid is not None
        if psutil.Process(host.pid).memory_info().rss > 600 * 2**20:  # vLLM has been imported
            os.kill(host.pid, signal.SIGKILL)
        return True

    with pytest.raises(ShardFailedError, match="SIGKILL"):
        run(kill)
    assert run(lambda: True)["completions"] == 84
    left = family(host.pid)
    host.kill()
    assert psutil.wait_procs(left, timeout=5)[1] == []
