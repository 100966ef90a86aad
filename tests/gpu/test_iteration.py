"""A whole iteration on a CUDA device: the engine and the training that a CPU runs elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_an_iteration_runs_on_the_device(tmp_path: Path) -> None:
    """By the core's own command, which needs no web framework on such a machine."""
    settings = ("--set", "engine.device=cuda", "--set", "engine.threads=null")
    experiment = ("--experiment", "mine", "--recipe", "smoke", "--iterations", "1")
    finished = subprocess.run(
        [sys.executable, "-m", "meta_reward_core", *experiment, *settings],
        env=os.environ
        | {
            "META_REWARD_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
            "META_REWARD_MODEL_ROOT": str(tmp_path / "models"),
            "META_REWARD_SCRATCH_ROOT": str(tmp_path / "scratch"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (tmp_path / "artifacts/mine/iteration-1/checkpoint/model.safetensors").exists()
