"""Run arms times seeds, several at a time, and go on wherever a kill has left them.

Nothing is remembered here. Each run is an ordinary experiment whose name says what it is, made by
`run_iteration` in a process of its own; whether it is finished its files say. So the same command
goes on after any kill, and more seeds later are more runs of the same names.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.errors import InputError
from meta_reward_core.miniature.seed import MAX_SEEDS, GateResult
from meta_reward_core.miniature.seed_variants import SeedVariant, known_gate
from meta_reward_core.recipes import load_recipe
from meta_reward_core.request import check_name
from workers.parts import manage
from workers.processes import kill_group, start_child, stop_child

_POLL_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 20.0
_SHOWN_LINES: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be run.

    Attributes:
        name: first part of the runs' names.
        recipes: one for each arm, by name or file.
        seeds: loop seeds 1 to `seeds`.
        sft_seeds: how many M0s of the miniature, the first that pass the gate; None for the
            recipe's own model.
        iterations: of each run; None for the recipe's.
        jobs: runs at a time.
        threads: of each run's libraries.
        logs: folder of what the runs print.
    """

    name: str
    recipes: Sequence[str]
    seeds: int
    sft_seeds: int | None
    iterations: int | None
    changes: Sequence[str]
    prompts: Path | None
    jobs: int
    threads: int
    logs: Path


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One experiment to be."""

    name: str
    recipe: str
    arm: str
    seed: int
    iterations: int
    model: SeedVariant | None


def choose_seeds(wish: Wish, models: Path, say: Say, *, train: bool) -> list[GateResult]:
    """Try SFT seeds in order until enough have passed the gate.

    Args:
        train: whether to train those that nobody has tried; without, they end the list.

    Raises:
        InputError: too few of the seeds that may be tried passed.
    """
    tried: list[GateResult] = []
    wanted = wish.sft_seeds or 0
    while sum(gate.passed for gate in tried) < wanted:
        if len(tried) >= MAX_SEEDS * wanted:
            raise InputError(
                f"only {sum(gate.passed for gate in tried)} of {len(tried)} SFT seeds passed the "
                f"gate: ask for fewer than {wanted}"
            )
        variant = SeedVariant(len(tried) + 1)
        if not train and known_gate(variant, models) is None:
            break
        tried.append(_gate(variant, wish, models, say))
    return tried


def make_noisy_seeds(
    wish: Wish, runs: Sequence[PlannedRun], models: Path, say: Say
) -> dict[int, GateResult]:
    """Train the noisy M0s that runs need, one after the other; SFT seed -> how it did."""
    wanted = sorted({run.model.sft_seed for run in runs if run.model and run.model.noisy})
    return {seed: _gate(SeedVariant(seed, noisy=True), wish, models, say) for seed in wanted}


def known_noisy_seeds(runs: Sequence[PlannedRun], models: Path) -> dict[int, GateResult]:
    """The noisy M0s among the runs' that have been trained; SFT seed -> how it did."""
    wanted = {run.model for run in runs if run.model and run.model.noisy}
    gates = {variant.sft_seed: known_gate(variant, models) for variant in wanted}
    return {seed: gate for seed, gate in sorted(gates.items()) if gate is not None}


def _gate(variant: SeedVariant, wish: Wish, models: Path, say: Say) -> GateResult:
    """How a seed does at the gate; it is trained in a child if nobody has."""
    if (known := known_gate(variant, models)) is not None:
        return known
    say(f"training {variant.name}, two to five minutes on two idle cores")
    log = wish.logs / f"{variant.name}.log"
    with log.open("ab") as file:
        child = start_child(
            [sys.executable, "-m", "meta_reward_core.miniature", variant.name], stdout=file
        )
        try:
            child.wait()
        finally:
            stop_child(child, number=signal.SIGTERM, grace_seconds=_GRACE_SECONDS)
    found = known_gate(variant, models)
    if found is None:
        raise InputError(f"{variant.name} could not be trained: see {log}")
    return found


def plan_runs(wish: Wish, gates: Sequence[GateResult]) -> list[PlannedRun]:
    """All runs, seed by seed, so that every arm has as many whenever it is stopped.

    Raises:
        RecipeError: a recipe is missing or wrong.
        InputError: a run cannot be named so, or two recipes have one name.
    """
    recipes = {path: load_recipe(path, changes=wish.changes) for path in wish.recipes}
    if len({recipe.name for recipe in recipes.values()}) < len(wish.recipes):
        raise InputError("two of the recipes have the same name, and so would their runs")
    passed: list[int | None] = [gate.sft_seed for gate in gates if gate.passed]
    planned = []
    for seed in range(1, wish.seeds + 1):
        for sft_seed in passed or [None]:
            for path, recipe in recipes.items():
                if sft_seed is not None and recipe.world != "miniature":
                    raise InputError(f"--sft-seeds is for the miniature, not {recipe.name!r}")
                parts = [wish.name, recipe.name]
                parts += [] if sft_seed is None else [f"sft{sft_seed}"]
                name = ".".join([*parts, f"seed{seed}"])
                check_name(name)
                noisy = (recipe.model or "").endswith("-noisy")
                model = None if sft_seed is None else SeedVariant(sft_seed, noisy=noisy)
                iterations = wish.iterations or recipe.iterations
                planned.append(PlannedRun(name, path, recipe.name, seed, iterations, model))
    return planned


def finished_iterations(store: ArtifactStore, name: str) -> int:
    """How many iterations of an experiment are finished, by its files."""
    count = 0
    while store.exists(f"{name}/iteration-{count + 1}/manifest.json"):
        count += 1
    return count


def run_all(
    wish: Wish, runs: Sequence[PlannedRun], store: ArtifactStore, *, say: Say
) -> dict[str, str]:
    """Run what is not finished; a run that fails keeps no other from going on.

    Returns:
        Run -> why it failed.
    """
    waiting = [run for run in runs if finished_iterations(store, run.name) < run.iterations]
    os.environ["OMP_NUM_THREADS"] = str(wish.threads)  # for the children; it decides nothing here
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished")
    progress = _Progress(store, waiting, jobs=wish.jobs)
    failed: dict[str, str] = {}
    active: dict[str, tuple[PlannedRun, subprocess.Popen[bytes]]] = {}
    todo = iter(waiting)
    try:
        for run in _take(todo, wish.jobs):
            active[run.name] = (run, _start(wish, run))
        while active:
            _pause()
            for run, child in list(active.values()):
                if child.poll() is None:
                    continue
                del active[run.name]
                kill_group(child)
                if child.returncode:
                    failed[run.name] = _last_words(wish, run, child.returncode)
                say(progress.tell(run, failed.get(run.name)))
                for following in _take(todo, 1):
                    active[following.name] = (following, _start(wish, following))
    finally:
        for _, child in active.values():
            stop_child(child, number=signal.SIGTERM, grace_seconds=_GRACE_SECONDS)
    return failed


def _pause() -> None:
    time.sleep(_POLL_SECONDS)


def _take(todo: Iterator[PlannedRun], count: int) -> Iterator[PlannedRun]:
    for _ in range(count):
        run = next(todo, None)
        if run is not None:
            yield run


def _start(wish: Wish, run: PlannedRun) -> subprocess.Popen[bytes]:
    command = [
        *manage("run_iteration", "--no-color"),
        *("--experiment", run.name, "--recipe", run.recipe, "--seed", str(run.seed)),
        *("--iterations", str(run.iterations)),
    ]
    command += [word for change in wish.changes for word in ("--set", change)]
    if run.model is not None:
        command += ["--model", run.model.name]
    if wish.prompts is not None:
        command += ["--prompts", str(wish.prompts)]
    with (wish.logs / f"{run.name}.log").open("ab") as log:
        return start_child(command, stdout=log)


def _last_words(wish: Wish, run: PlannedRun, code: int) -> str:
    text = (wish.logs / f"{run.name}.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join([f"exit code {code}:", *lines[-_SHOWN_LINES:]])


class _Progress:
    """How far all runs are, and how long the rest will take at the pace seen here."""

    def __init__(self, store: ArtifactStore, runs: Sequence[PlannedRun], *, jobs: int) -> None:
        self._store = store
        self._runs = runs
        self._jobs = jobs
        self._began = time.monotonic()
        self._at_first = self._done()
        self._ended = 0

    def tell(self, run: PlannedRun, failure: str | None) -> str:
        """Say how a run ended, and when the rest may be done."""
        self._ended += 1
        how = f"failed ({failure})" if failure else "finished"
        return f"{self._ended} of {len(self._runs)}: {run.name} {how}; {self._rest()}"

    def _rest(self) -> str:
        done = sum(self._done().values())
        made = done - sum(self._at_first.values())
        left = sum(run.iterations for run in self._runs) - done
        if not made or not left:
            return f"{left} iterations left"
        seconds = (time.monotonic() - self._began) / made * left
        return f"{left} iterations left, about {_duration(seconds)} with {self._jobs} at a time"

    def _done(self) -> Mapping[str, int]:
        return {run.name: finished_iterations(self._store, run.name) for run in self._runs}


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
