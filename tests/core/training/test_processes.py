"""A training on several processes: the same weights, the same log, and no process left behind."""

import json
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from transformers import AutoModelForCausalLM

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.launcher import build_launch_command, load_failure
from meta_reward_core.training.preprocessing import is_held_out
from meta_reward_core.training.result import TrainingOutcome
from tests.core.training.conftest import TINY_DPO, preference_rows

VALIDATED = TINY_DPO.model_copy(
    update={"epochs": 2, "validation_share": 0.25, "checkpoint_selection": "lowest_validation_loss"}
)
_HELD = [row for row in preference_rows(60) if is_held_out(row["prompt_id"], share=0.25)]
_REST = [row for row in preference_rows(60) if not is_held_out(row["prompt_id"], share=0.25)]
ROWS = [*_REST[:24], *_HELD[:8]]
"""Three whole batches: several processes fill up an incomplete one, see docs/training.md."""
TWO = VALIDATED.model_copy(update={"processes": 2, "gradient_checkpointing": True})
SHARDING = Path(str(files("meta_reward_core.training"))) / "sharding"


def trained(
    root: Path, start: Path, settings: DpoSettings
) -> tuple[TrainingOutcome, list[dict[str, float]]]:
    told: list[dict[str, float]] = []
    outcome = train_dpo(
        ROWS,
        start=start,
        settings=settings,
        checkpoint=root / "m1",
        scratch=root / "scratch",
        seed=5,
        threads=1,
        on_log=told.append,
    )
    return outcome, told


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def largest_difference(one: Path, other: Path) -> float:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(first_model: Path, tmp_path: Path) -> None:
    """Within 1e-5 where the training moves weights by 1e-2 and more: sums in another order."""
    alone, _ = trained(tmp_path / "alone", first_model, VALIDATED)
    outcome, told = trained(tmp_path / "both", first_model, TWO)
    assert (outcome.rows_trained, outcome.rows_held_out) == (24, 8)
    assert (outcome.kept_step, outcome.published) == (alone.kept_step, True)
    assert told == outcome.log, "the log of the first process came through, once"
    assert [row["step"] for row in told] == [row["step"] for row in alone.log]
    for both, one in zip(told, alone.log, strict=True):
        assert both == pytest.approx(one, abs=1e-4)
    checkpoints = tmp_path / "alone" / "m1", tmp_path / "both" / "m1"
    assert largest_difference(*checkpoints) < 1e-5
    assert largest_difference(first_model, checkpoints[0]) > 1e-2
    assert [entry.name for entry in (tmp_path / "both").iterdir()] == ["m1"], "nothing is left"


KILLED = """
import os, signal
from pathlib import Path
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.training.dpo import train_dpo
from tests.core.training.test_processes import ROWS, TWO

def die(row):
    if row["epoch"] > 1.3:
        os.kill(os.getpid(), signal.SIGKILL)

root = Path({root!r})
train_dpo(ROWS, start=Path({start!r}), settings=TWO, checkpoint=root / "m1",
          scratch=root / "scratch", seed=5, threads=1, on_log=die)
"""


@pytest.mark.slow
def test_a_killed_training_leaves_no_process_and_goes_on_from_its_state(
    first_model: Path, tmp_path: Path
) -> None:
    undisturbed, _ = trained(tmp_path / "undisturbed", first_model, TWO)
    root = tmp_path / "killed"
    root.mkdir()
    script = KILLED.format(root=str(root), start=str(first_model))
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path.cwd(), check=False)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while list_processes(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list_processes(root) == []
    assert (root / "scratch" / "states" / "checkpoint-3" / "complete").is_file()
    outcome, told = trained(root, first_model, TWO)
    assert told[0]["step"] == 4, "it resumed, it did not begin again"
    assert outcome == undisturbed
    assert hash_model_folder(root / "m1") == hash_model_folder(tmp_path / "undisturbed" / "m1")


def list_processes(root: Path) -> list[str]:
    """Launchers and training processes that still run for this folder."""
    running = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
    lines = [" ".join(words) for words in running]
    return [
        line for line in lines if str(root) in line and re.search(r"training\.\w*process", line)
    ]


@pytest.mark.slow
def test_what_stops_one_process_stops_all_and_is_told(first_model: Path, tmp_path: Path) -> None:
    strict = TWO.model_copy(update={"stop_at_grad_norm": 1e-6})
    with pytest.raises(TrainingError, match="diverged at step 1: the gradient's norm is"):
        trained(tmp_path, first_model, strict)
    assert not (tmp_path / "m1").exists()
    assert list_processes(tmp_path) == []


@pytest.mark.slow
def test_adapters_of_two_processes_are_merged(first_model: Path, tmp_path: Path) -> None:
    """As those of one are; the weights of adapters begin at random, by the seed."""
    adapters = VALIDATED.model_copy(update={"lora": LoraSettings(r=2, alpha=4)})
    trained(tmp_path / "alone", first_model, adapters)
    trained(tmp_path / "both", first_model, adapters.model_copy(update={"processes": 2}))
    checkpoints = tmp_path / "alone" / "m1", tmp_path / "both" / "m1"
    assert largest_difference(*checkpoints) < 1e-5
    assert largest_difference(first_model, checkpoints[0]) > 1e-3


@pytest.mark.parametrize("file", sorted(SHARDING.iterdir()), ids=lambda file: str(file.stem))
def test_every_shipped_configuration_is_one_of_accelerates(file: Path) -> None:
    config: Any = load_config_from_file(str(file))
    assert config.num_machines == 1
    asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert config.distributed_type == asked["distributed_type"]
    settings = TINY_DPO.model_copy(update={"processes": 8, "sharding": file.stem})
    command = build_launch_command(Path("job"), settings, shipped=SHARDING, on_gpus=True)
    assert command[command.index("--config_file") + 1] == str(file)
    assert command[command.index("--num_processes") + 1] == "8"


def test_deepspeed_without_a_gpu_is_refused_with_what_to_do(
    first_model: Path, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(TrainingError, match="zero3 needs CUDA devices"):
        trained(tmp_path, first_model, TWO.model_copy(update={"sharding": "zero3"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("exit_codes", "error", "expected"),
    [
        ({0: -9, 1: -6}, None, "process 0 was killed by signal 9"),
        ({0: -6, 1: -9}, None, "process 1 was killed by signal 9"),
        ({0: -15, 1: -9}, "connection closed", "process 1 was killed by signal 9"),
        ({0: -6, 1: 1}, "disk full", "^disk full$"),
        ({0: -15, 1: -6}, None, "process 1 was killed by signal 6"),
    ],
)
def test_the_cause_is_reported_and_not_what_follows_from_it(
    tmp_path: Path, exit_codes: dict[int, int], error: str | None, expected: str, first: int
) -> None:
    """Torch's launcher lists the process whose end it saw first, here `first`, last."""
    failures = {
        rank: ProcessFailure(rank, pid=100 + rank, exitcode=code, error_file="<N/A>")
        for rank, code in exit_codes.items()
    }
    for rank, failure in failures.items():
        failure.timestamp = 1 + (rank != first)
    (tmp_path / "errors.txt").write_text(str(ChildFailedError("training", failures)))
    if error is not None:
        described = {"kind": "TrainingError", "message": error, "met_at": 1.0}
        (tmp_path / "error-1.json").write_text(json.dumps(described))
    with pytest.raises(TrainingError, match=expected):
        raise load_failure(tmp_path, 1)
