"""Where a training runs: in this process, or in several that a launcher starts.

On GPUs the launcher is `accelerate launch` with one of the files in `sharding/`; on a CPU it is
torch's own, because accelerate starts a single process there and says nothing. Either way every
process checks how many there are. What goes to and fro are files in a folder beside the scratch
folder: rows and settings in, log and outcome out.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict, Unpack

import torch

from meta_reward_core import errors
from meta_reward_core.errors import MetaRewardError, TrainingError
from meta_reward_core.recipes.training_settings import TrainingSettings
from meta_reward_core.system.signals import make_parent_death_preexec
from meta_reward_core.training.result import OnLog, TrainingOutcome
from meta_reward_core.training.row_types import RowFile, RowIterable, TrainingRow
from meta_reward_core.training.trainer import run_training
from meta_reward_core.training.trainer_factories import Objective

ROWS_FILE: Final = "rows.jsonl"
_PROCESS_MODULE: Final = "meta_reward_core.training.process_main"
_POLL_SECONDS: Final = 0.1
_MAX_ERROR_CHARS: Final = 3000


class TrainingRunOptions(TypedDict):
    """Where a training leaves what it makes, and what it is made with.

    Attributes:
        checkpoint: the folder to appear; the first writer wins.
        scratch: a private folder of this job; deleted when the training ends well.
        seed: of the order of rows and of dropout in adapters.
        threads: CPU threads of torch; sums, and so the weights' last bits, depend on them.
        on_log: called with each new row of the log.
        chat_date: the day that the chat template reads as today, YYYY-MM-DD; None: the day of
            the training.
    """

    checkpoint: Path
    scratch: Path
    seed: int
    threads: NotRequired[int | None]
    on_log: NotRequired[OnLog | None]
    chat_date: NotRequired[str | None]


def train(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    *,
    start: Path,
    settings: TrainingSettings,
    **place: Unpack[TrainingRunOptions],
) -> TrainingOutcome:
    """Train the model in `start` and publish it, on as many processes as the settings say.

    Raises:
        TrainingError: see `run_training`; or fewer devices than processes, or a process died.
    """
    if settings.processes == 1 and settings.sharding == "none":
        return run_training(objective, rows, start=start, settings=settings, **place)
    job = place["scratch"].with_name(f"{place['scratch'].name}.job")
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir(mode=0o700, parents=True)
    _write_job(job, objective, rows, start, settings, place)
    try:
        return _run_processes(
            job, settings, threads=place.get("threads"), on_log=place.get("on_log")
        )
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _write_job(
    job: Path,
    objective: Objective,
    rows: RowIterable[TrainingRow],
    start: Path,
    settings: TrainingSettings,
    place: TrainingRunOptions,
) -> None:
    described = {
        "rows": len(RowFile.write(job / ROWS_FILE, rows)),
        "objective": objective.name,
        "settings": settings.model_dump(mode="json"),
        "start": str(start.absolute()),
        "checkpoint": str(place["checkpoint"].absolute()),
        "scratch": str(place["scratch"].absolute()),
        "seed": place["seed"],
        "threads": place.get("threads"),
        "chat_date": place.get("chat_date"),
    }
    (job / "job.json").write_text(json.dumps(described), encoding="utf-8")


def _run_processes(
    job: Path, settings: TrainingSettings, *, threads: int | None, on_log: OnLog | None
) -> TrainingOutcome:
    """Start the processes, pass their log on, and read how they ended."""
    log = job / "log.jsonl"
    log.touch()
    with (
        as_file(files("meta_reward_core.training") / "sharding") as shipped,
        (job / "errors.txt").open("wb") as errors_file,
        log.open(encoding="utf-8") as lines,
        subprocess.Popen(  # noqa: S603 ours, written here
            build_launch_command(job, settings, shipped=shipped, on_gpus=_has_gpus(settings)),
            stdin=subprocess.DEVNULL,
            stdout=errors_file,
            stderr=errors_file,
            env=_build_environment(threads),
            preexec_fn=make_parent_death_preexec(),
        ) as launcher,
    ):
        try:
            ended = False
            while not ended:
                ended = launcher.poll() is not None  # before the last look at the log
                _forward_log(lines, on_log)
                time.sleep(0 if ended else _POLL_SECONDS)
        finally:
            launcher.kill()  # its processes die with it
    outcome = job / "outcome.json"
    if launcher.returncode == 0 and outcome.is_file():
        return TrainingOutcome.from_json(json.loads(outcome.read_text(encoding="utf-8")))
    raise _load_failure(job, launcher.returncode)


def build_launch_command(
    job: Path, settings: TrainingSettings, *, shipped: Path, on_gpus: bool
) -> list[str]:
    """The command that starts the processes.

    Args:
        job: the folder of what goes to and fro.
        shipped: the folder of accelerate's configuration files.
        on_gpus: otherwise on a CPU, where nothing can be sharded.
    """
    count = str(settings.processes)
    if on_gpus:
        config = str(shipped / f"{settings.sharding}.yaml")
        launcher = ["accelerate.commands.launch", "--config_file", config]
        launcher += ["--num_processes", count, "--main_process_port", "0"]
    elif settings.sharding != "none":
        raise TrainingError(
            f"training.sharding: {settings.sharding} needs CUDA devices, and there is none here. "
            "Leave it out, or train elsewhere."
        )
    else:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", count]
    return [sys.executable, "-m", *launcher, "-m", _PROCESS_MODULE, str(job)]


def _has_gpus(settings: TrainingSettings) -> bool:
    devices = torch.cuda.device_count()
    if 0 < devices < settings.processes:
        raise TrainingError(
            f"training.processes is {settings.processes}, and there are {devices} devices here."
        )
    return devices > 0


def _build_environment(threads: int | None) -> dict[str, str]:
    """Say it to accelerate too where there is no GPU, and share the cores as the recipe says."""
    told = {"OMP_NUM_THREADS": str(threads or 1)}
    if not torch.cuda.is_available():
        told |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | told


def _forward_log(lines: Any, on_log: OnLog | None) -> None:
    """Tell the rows that are whole; a process may be in the middle of writing one."""
    while True:
        at = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(at)
            return
        if on_log is not None:
            on_log(json.loads(line))


def _load_failure(job: Path, code: int) -> MetaRewardError:
    """The error that a process met first, the others' follow from it; or their last words."""
    told = [json.loads(file.read_text(encoding="utf-8")) for file in job.glob("error-*.json")]
    if told:
        error = min(told, key=lambda error: error["met_at"])
        kind = getattr(errors, error["kind"], TrainingError)
        met: MetaRewardError = kind(error["message"])
        return met
    last = (job / "errors.txt").read_bytes()[-_MAX_ERROR_CHARS:].decode(errors="replace")
    return TrainingError(f"The training's processes ended with exit code {code}:\n{last}")
