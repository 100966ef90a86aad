"""The seed model in vLLM; folders of their own, and the smoke recipe run in them by the command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from meta_reward_core.engines.vllm import VllmEngine, load_vllm_engine
from meta_reward_core.storage.roots import StorageRoots

SEED_MODEL = Path("meta_reward_core/tasks/toy/seed_model").absolute()


def load_seed_model(*, model_folder: Path = SEED_MODEL, **changes: Any) -> VllmEngine:
    """The miniature's seed model, or another; vLLM bears one engine in a process at a time."""
    settings: dict[str, Any] = {
        "dtype": "float32",
        "threads": 1,
        "max_batch_tokens": 65_536,
        "max_model_len": None,
        "max_num_seqs": 128,
        "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.5,
    }
    return load_vllm_engine(model_folder, **settings | changes)


def get_roots(root: Path) -> StorageRoots:
    return StorageRoots(str(root / "artifacts"), root / "models", root / "scratch")


def run_smoke(root: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    """Begin a smoke iteration; the summary goes to a file."""
    summary = ("--output", str(root / "summary.json"))
    return subprocess.Popen(
        [sys.executable, "-m", "meta_reward_core", "--experiment", "mine", *summary, *more],
        env={
            **os.environ,
            "META_REWARD_ARTIFACT_ROOT": str(root / "artifacts"),
            "META_REWARD_MODEL_ROOT": str(root / "models"),
            "META_REWARD_SCRATCH_ROOT": str(root / "scratch"),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
    )


def summary_of(root: Path) -> dict[str, Any]:
    """The one iteration of a summary."""
    written = json.loads((root / "summary.json").read_text())
    [iteration] = written["iterations"]
    return dict(iteration)


def counts_of(summary: dict[str, Any], stage: str) -> dict[str, int]:
    """What a stage made."""
    return next(dict(row["counts"]) for row in summary["stages"] if row["stage"] == stage)
