"""Run all arms and seeds, several at a time, and resume after a kill.

Each run is an ordinary experiment with a descriptive name that `run_iteration` runs in its own
process. Its files, or its record (`workers.reproduction.records`), show whether it is finished. So
the same command resumes after any kill, here or elsewhere, and adding seeds later only adds runs.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from meta_reward_core.errors import InputError
from meta_reward_core.tasks.toy.base_model import MAX_SFT_SEEDS, GateResult
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant
from workers.ops.processes import kill_group, start_child, stop_child
from workers.ops.services import build_manage_command
from workers.reproduction.matrix import MatrixSpec, PlannedRun
from workers.reproduction.records import RunRecords, SeedCandidate, SeedModelRecords, StatusCallback

_POLL_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 20.0
_SHOWN_LINES: Final = 3


def choose_seed_models(
    spec: MatrixSpec, seed_models: SeedModelRecords, *, train: bool
) -> list[GateResult]:
    """Try SFT seeds in order until enough have passed the gate.

    Args:
        train: whether to train untried seed models; if not, the list ends before them.

    Raises:
        InputError: too few of the permitted seeds passed the gate.
    """
    tried: list[GateResult] = []
    wanted = spec.sft_seeds or 0
    while sum(gate.passed for gate in tried) < wanted:
        if len(tried) >= MAX_SFT_SEEDS * wanted:
            raise InputError(
                f"only {sum(gate.passed for gate in tried)} of {len(tried)} SFT seeds passed "
                f"the gate: request fewer than {wanted}"
            )
        variant = SeedModelVariant(len(tried) + 1)
        known = seed_models.find_or_record(variant)
        if known is None and not train:
            break
        tried.append((known or _train_seed_model(variant, spec, seed_models)).gate)
    return tried


def list_noisy_gates(runs: Sequence[PlannedRun], seed_models: SeedModelRecords) -> list[GateResult]:
    """List the gate results of the runs' noisy M0s that were tried, by SFT seed."""
    wanted = sorted({run.model.sft_seed for run in runs if run.model and run.model.noisy})
    known = (
        seed_models.find_or_record(SeedModelVariant(sft_seed, noisy=True)) for sft_seed in wanted
    )
    return [tried.gate for tried in known if tried is not None]


def prepare_seed_models(
    spec: MatrixSpec, waiting: Sequence[PlannedRun], seed_models: SeedModelRecords
) -> None:
    """Provide, one by one, the seed models from which runs will start.

    Raises:
        InputError: the weights of a seed model trained here differ from those recorded.
    """
    for variant in dict.fromkeys(run.model for run in waiting if run.model):
        here = seed_models.find_local(variant) or _train_seed_model(variant, spec, seed_models)
        recorded = seed_models.find_or_record(variant)
        if recorded is not None and recorded.model != here.model:
            raise InputError(
                f"{variant.name} trained on this machine differs from the base model in "
                f"{seed_models.get_path(variant)}, because another type of processor rounds "
                f"differently. Copy that model's folder to {seed_models.models}, or "
                "start over with another --records folder"
            )


def _train_seed_model(
    variant: SeedModelVariant, spec: MatrixSpec, seed_models: SeedModelRecords
) -> SeedCandidate:
    """Train a seed model and measure its gate in a child process."""
    seed_models.say(f"training {variant.name}, two to five minutes on two idle cores")
    log = spec.logs / f"{variant.name}.log"
    with log.open("ab") as file:
        child = start_child(
            [sys.executable, "-m", "meta_reward_core.tasks.toy", variant.name], stdout=file
        )
        try:
            child.wait()
        finally:
            stop_child(child, number=signal.SIGTERM, grace_seconds=_GRACE_SECONDS)
    found = seed_models.find_local(variant)
    if found is None:
        raise InputError(f"{variant.name} could not be trained: see {log}")
    return found


def run_all(
    spec: MatrixSpec, runs: Sequence[PlannedRun], records: RunRecords, *, say: StatusCallback
) -> dict[str, str]:
    """Run all unfinished runs, and record each one when it ends.

    A failed run does not stop the others.

    Returns:
        The reason of failure for each failed run.
    """
    todo = [run for run in runs if records.find(run) is None]
    # for the child processes; without effect in this process
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    say(f"{len(runs) - len(todo)} of {len(runs)} runs are finished")
    progress = _Progress(records, todo, jobs=spec.jobs)
    failed: dict[str, str] = {}
    queue = _Queue(spec, todo)
    try:
        while queue.start_next():
            _pause()
            for run, code in queue.iter_ended():
                if code:
                    failed[run.name] = _read_last_lines(spec, run, code)
                elif records.find(run) is None:
                    failed[run.name] = "it completed, but is not the planned run"
                say(progress.describe_end(run, failed.get(run.name)))
    finally:
        queue.stop()
    return failed


class _Queue:
    """Pending runs, and the child processes of running ones."""

    def __init__(self, spec: MatrixSpec, todo: Sequence[PlannedRun]) -> None:
        self._spec = spec
        self._todo = list(todo)
        self._children: dict[PlannedRun, subprocess.Popen[bytes]] = {}

    def start_next(self) -> bool:
        """Start runs up to the maximum; return whether any is running."""
        while self._todo and len(self._children) < self._spec.jobs:
            run = take_next_run(self._todo, busy={run.group for run in self._children})
            self._children[run] = _start_run(self._spec, run)
        return bool(self._children)

    def iter_ended(self) -> Iterator[tuple[PlannedRun, int]]:
        """Yield the runs that have ended since the last call, with their exit codes."""
        for run, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[run]
                kill_group(child)
                self._remove_completions(run.group)
                yield run, code

    def _remove_completions(self, group: str) -> None:
        """Delete the cached completions of a group after its last run."""
        if all(run.group != group for run in [*self._todo, *self._children]):
            shutil.rmtree(self._spec.completion_cache / group, ignore_errors=True)

    def stop(self) -> None:
        """Stop all runs; the same command resumes them."""
        for child in self._children.values():
            stop_child(child, number=signal.SIGTERM, grace_seconds=_GRACE_SECONDS)


def take_next_run(todo: list[PlannedRun], *, busy: Collection[str]) -> PlannedRun:
    """Remove and return the next run, preferring one of a group that is not running.

    Sequential runs of one group reuse the completions of the first one; in parallel, each would
    generate them.
    """
    run = next((run for run in todo if run.group not in busy), todo[0])
    todo.remove(run)
    return run


def _pause() -> None:
    time.sleep(_POLL_SECONDS)


def _start_run(spec: MatrixSpec, run: PlannedRun) -> subprocess.Popen[bytes]:
    command = [
        *build_manage_command("run_iteration", "--no-color"),
        *("--experiment", run.name, "--recipe", run.recipe, "--seed", str(run.seed)),
        *(
            "--iterations",
            str(run.iterations),
            "--completion-cache",
            str(spec.completion_cache / run.group),
        ),
    ]
    command += [word for change in spec.changes for word in ("--set", change)]
    if run.model is not None:
        command += ["--model", run.model.name]
    if spec.prompts is not None:
        command += ["--prompts", str(spec.prompts)]
    with (spec.logs / f"{run.name}.log").open("ab") as log:
        return start_child(command, stdout=log)


def _read_last_lines(spec: MatrixSpec, run: PlannedRun, code: int) -> str:
    text = (spec.logs / f"{run.name}.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join([f"exit code {code}:", *lines[-_SHOWN_LINES:]])


class _Progress:
    """Progress of all runs, and the remaining time at this machine's pace."""

    def __init__(self, records: RunRecords, runs: Sequence[PlannedRun], *, jobs: int) -> None:
        self._records = records
        self._runs = tuple(runs)
        self._jobs = jobs
        self._began = time.monotonic()
        self._at_first = self._count_done()
        self._ended = 0

    def describe_end(self, run: PlannedRun, failure: str | None) -> str:
        """Describe how a run ended, and estimate when the rest will be done."""
        self._ended += 1
        how = f"failed ({failure})" if failure else "finished"
        return f"{self._ended} of {len(self._runs)}: {run.name} {how}; {self._estimate_rest()}"

    def _estimate_rest(self) -> str:
        done = self._count_done()
        made = done - self._at_first
        left = sum(run.iterations for run in self._runs) - done
        if not made or not left:
            return f"{left} iterations left"
        seconds = (time.monotonic() - self._began) / made * left
        return (
            f"{left} iterations left, about {_format_duration(seconds)} with {self._jobs} at a time"
        )

    def _count_done(self) -> int:
        return sum(self._records.count_iterations(run) for run in self._runs)


def _format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
