"""Run training in this process, or in several processes started by a launcher.

On GPUs the launcher is `accelerate launch` with one of the files in `sharding/`; on a CPU it is
torch's own, because accelerate silently starts a single process there. Either way every process
checks the number of processes and how the model is sharded. Rows are sorted before the processes
start. Data is exchanged as files in a folder next to the scratch folder: settings in, log and
outcome out.
"""

import json
import os
import re
import shutil
import signal
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
from meta_reward_core.training.checkpoint_candidates import (
    CheckpointScorer,
    publish_best_candidate,
)
from meta_reward_core.training.model_sharding import read_fsdp_environment
from meta_reward_core.training.result import OnLog, TrainingOutcome
from meta_reward_core.training.row_types import RowIterable, TrainingRow
from meta_reward_core.training.trainer import prepare_job, run_training
from meta_reward_core.training.trainer_factories import Objective

_PROCESS_MODULE: Final = "meta_reward_core.training.process_main"
CPU_SHARDING: Final = ("none", "fsdp")
_POLL_SECONDS: Final = 0.1
_MAX_ERROR_CHARS: Final = 3000
_DEATH: Final = re.compile(
    r"rank\s*:\s*(?P<rank>\d+) \(local_rank: \d+\)\s+exitcode\s*:\s*-(?P<signal>\d+)"
)
"""Pattern of a killed process in the summary of torch's launcher."""


class TrainingRunOptions(TypedDict):
    """Output folders and runtime options of training.

    Attributes:
        checkpoint: the folder to publish; the first writer wins.
        scratch: a private folder of this job; deleted when the training succeeds.
        seed: random seed of the row order and of dropout in adapters.
        threads: number of CPU threads of torch; sums, and therefore the last bits of the weights,
            depend on it.
        on_log: called with each new row of the log.
        chat_date: the current date for the chat template, YYYY-MM-DD; None for the day of the
            training.
        run_name: name of the training in trackers such as TensorBoard.
        score_checkpoint: measures the weights of each saved epoch after the training; only with
            `checkpoint_selection: highest_development_score`.
    """

    checkpoint: Path
    scratch: Path
    seed: int
    threads: NotRequired[int | None]
    on_log: NotRequired[OnLog | None]
    chat_date: NotRequired[str | None]
    run_name: NotRequired[str | None]
    score_checkpoint: NotRequired[CheckpointScorer | None]


def train(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    *,
    start: Path,
    settings: TrainingSettings,
    **place: Unpack[TrainingRunOptions],
) -> TrainingOutcome:
    """Train the model in `start` and publish it, on the configured number of processes.

    Raises:
        TrainingError: see `run_training`; or there are fewer devices than processes, a process
            died, or tasks select the checkpoint but `score_checkpoint` is missing.
    """
    score = place.get("score_checkpoint")
    if settings.selects_by_tasks and score is None:
        raise TrainingError(
            f"checkpoint_selection: {settings.checkpoint_selection} needs score_checkpoint, a "
            "function that measures a model."
        )
    outcome = _train_processes(objective, rows, start=start, settings=settings, place=place)
    if score is None or not settings.selects_by_tasks:
        return outcome
    return publish_best_candidate(
        outcome,
        start=start,
        checkpoint=place["checkpoint"],
        scratch=place["scratch"],
        score_checkpoint=score,
        on_log=place.get("on_log"),
    )


def _train_processes(
    objective: Objective,
    rows: RowIterable[TrainingRow],
    *,
    start: Path,
    settings: TrainingSettings,
    place: TrainingRunOptions,
) -> TrainingOutcome:
    if settings.processes == 1:
        return run_training(
            objective,
            rows,
            start=start,
            settings=settings,
            checkpoint=place["checkpoint"],
            scratch=place["scratch"],
            seed=place["seed"],
            threads=place.get("threads"),
            on_log=place.get("on_log"),
            chat_date=place.get("chat_date"),
            run_name=place.get("run_name"),
        )
    _check_devices(settings)
    prepare_job(
        objective,
        rows,
        start=start,
        settings=settings,
        scratch=place["scratch"],
        seed=place["seed"],
        chat_date=place.get("chat_date"),
    )
    job = place["scratch"].with_name(f"{place['scratch'].name}.job")
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir(mode=0o700, parents=True)
    _write_job(job, objective, start, settings, place)
    try:
        return _run_processes(
            job, settings, threads=place.get("threads"), on_log=place.get("on_log")
        )
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _write_job(
    job: Path,
    objective: Objective,
    start: Path,
    settings: TrainingSettings,
    place: TrainingRunOptions,
) -> None:
    described = {
        "objective": objective.name,
        "settings": settings.model_dump(mode="json"),
        "start": str(start.absolute()),
        "checkpoint": str(place["checkpoint"].absolute()),
        "scratch": str(place["scratch"].absolute()),
        "seed": place["seed"],
        "threads": place.get("threads"),
        "run_name": place.get("run_name"),
    }
    (job / "job.json").write_text(json.dumps(described), encoding="utf-8")


def _run_processes(
    job: Path, settings: TrainingSettings, *, threads: int | None, on_log: OnLog | None
) -> TrainingOutcome:
    """Start the processes, forward their log, and read their outcome."""
    log = job / "log.jsonl"
    log.touch()
    with (
        as_file(files("meta_reward_core.training") / "sharding") as shipped,
        (job / "errors.txt").open("wb") as errors_file,
        log.open(encoding="utf-8") as lines,
        subprocess.Popen(  # noqa: S603 ours, written here
            build_launch_command(job, settings, shipped=shipped, on_gpus=torch.cuda.is_available()),
            stdin=subprocess.DEVNULL,
            stdout=errors_file,
            stderr=errors_file,
            env=_build_environment(settings, threads, shipped=shipped),
            preexec_fn=make_parent_death_preexec(),
        ) as launcher,
    ):
        try:
            ended = False
            while not ended:
                ended = launcher.poll() is not None  # before the log is read for the last time
                _forward_log(lines, on_log)
                time.sleep(0 if ended else _POLL_SECONDS)
        finally:
            launcher.kill()  # its processes die with it
    outcome = job / "outcome.json"
    if launcher.returncode == 0 and outcome.is_file():
        return TrainingOutcome.from_json(json.loads(outcome.read_text(encoding="utf-8")))
    raise load_failure(job, launcher.returncode)


def build_launch_command(
    job: Path, settings: TrainingSettings, *, shipped: Path, on_gpus: bool
) -> list[str]:
    """Return the command that starts the processes.

    Args:
        job: folder for the exchanged files.
        shipped: the folder of accelerate's configuration files.
        on_gpus: whether the processes run on GPUs; otherwise on a CPU, which DeepSpeed does not
            support.
    """
    count = str(settings.processes)
    if on_gpus:
        config = str(shipped / f"{settings.sharding}.yaml")
        launcher = ["accelerate.commands.launch", "--config_file", config]
        launcher += ["--num_processes", count, "--main_process_port", "0"]
    else:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", count]
    return [sys.executable, "-m", *launcher, "-m", _PROCESS_MODULE, str(job)]


def _check_devices(settings: TrainingSettings) -> None:
    """Check that the processes can run here, before any preparation."""
    devices = torch.cuda.device_count()
    if 0 < devices < settings.processes:
        raise TrainingError(
            f"training.processes is {settings.processes}, but this machine has {devices} devices."
        )
    if not devices and settings.sharding not in CPU_SHARDING:
        raise TrainingError(
            f"training.sharding: {settings.sharding} needs CUDA devices, and this machine has "
            f"none. Use fsdp or none, or train on another machine."
        )


def _build_environment(
    settings: TrainingSettings, threads: int | None, *, shipped: Path
) -> dict[str, str]:
    """Build the processes' environment: CPU mode without a GPU, and the cores of each process."""
    told = {"OMP_NUM_THREADS": str(threads or 1)}
    if not torch.cuda.is_available():
        told |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        if settings.sharding == "fsdp":
            told |= read_fsdp_environment(shipped / "fsdp.yaml")
    return os.environ | told


def _forward_log(lines: Any, on_log: OnLog | None) -> None:
    """Forward complete rows; a process may still be writing the last row."""
    while True:
        at = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(at)
            return
        if on_log is not None:
            on_log(json.loads(line))


def load_failure(job: Path, code: int) -> MetaRewardError:
    """Load the error that ended training; errors of other processes are consequences.

    A process killed by the system cannot write its error, but torch's launcher reports the kill.
    A process that loses its connection to a killed one may abort (SIGABRT), and the launcher stops
    the rest (SIGTERM): neither signal is the cause if there is another error.
    """
    text = (job / "errors.txt").read_text(encoding="utf-8", errors="replace")
    deaths = {int(found["rank"]): int(found["signal"]) for found in _DEATH.finditer(text)}
    aborted = [rank for rank in deaths if deaths[rank] == signal.SIGABRT]
    killed = [rank for rank in deaths if deaths[rank] not in (signal.SIGABRT, signal.SIGTERM)]
    if killed:
        return _describe_death(killed[0], deaths[killed[0]])
    told = [json.loads(file.read_text(encoding="utf-8")) for file in job.glob("error-*.json")]
    if told:
        error = min(told, key=lambda error: error["met_at"])
        kind = getattr(errors, error["kind"], TrainingError)
        met: MetaRewardError = kind(error["message"])
        return met
    if aborted:
        return _describe_death(aborted[0], signal.SIGABRT)
    return TrainingError(
        f"The training processes ended with exit code {code}:\n{text[-_MAX_ERROR_CHARS:]}"
    )


def _describe_death(rank: int, number: int) -> TrainingError:
    return TrainingError(
        f"Training process {rank} was killed by signal {number} ({signal.strsignal(number)}). "
        "Signal 9 often means that the machine ran out of memory. The training resumes from its "
        "last state when it is started again."
    )
