"""Random faults over several experiments at once, for as long as you like: `make soak`.

python -m tests.faults.soak [--minutes 60] [--experiments 3] [--seed 1]

A new experiment begins whenever one has ended, until the time is up; then all are left in peace and
must end. Each is compared, byte for byte, with one that nobody disturbed. Exit code 1 otherwise.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.faults.faults import FAULTS, OUTPUTS, ballast, flip_bit
from tests.faults.world import QuietRun, World, world
from tests.workers.cluster import Process

PAUSE_SECONDS = (3.0, 12.0)
PATIENCE_SECONDS = 900.0
"""After the last fault every experiment must end within this time."""
DISK_BYTES = 4 * 2**30
"""Room for all experiments of some hours, about 10 MiB each: what fills it is to be the fault."""

_NETWORK_AND_SERVERS = (
    *("broker-killed", "broker-clients", "broker-forgets", "broker-dark", "broker-forgotten"),
    *("broker-full", "database-connections", "database-restarted"),
)


@dataclass
class Soak:
    """One long run."""

    here: World
    rng: random.Random
    workers: list[Process] = field(default_factory=list)
    reconciler: Process | None = None
    faults: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    flipped: set[str] = field(default_factory=set)

    def start(self, *, workers: int) -> None:
        """Bring everything up."""
        self.workers = [self.here.start_worker() for _ in range(workers)]
        self.reconciler = self.here.start_reconciler()

    def strike(self) -> None:
        """Do something at random, and undo it."""
        kinds: dict[str, Callable[[], None]] = {
            "worker killed": self._kill_worker,
            "engine killed": self._kill_engine,
            "worker frozen": self._freeze_worker,
            "reconciler killed": self._kill_reconciler,
            "bit flipped": self._flip_bit,
            "cancelled": self._cancel,
            "migration": self._alter_tables,
        }
        if self.here.has_disk:  # or it would be everybody's
            kinds["disk full"] = self._fill_disk
        name = self.rng.choice([*kinds, *_NETWORK_AND_SERVERS])
        self.faults[name] += 1
        if name in kinds:
            kinds[name]()
            return
        FAULTS[name].strike(self.here, "export")
        FAULTS[name].lift(self.here, "export")

    def _kill_worker(self) -> None:
        index = self.rng.randrange(len(self.workers))
        self.here.kill_tree(self.workers[index])

    def _kill_engine(self) -> None:
        for engine in self.here.engines()[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()

    def _freeze_worker(self) -> None:
        worker = self.rng.choice(self.workers)
        if worker.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGSTOP)
            time.sleep(self.rng.uniform(1.0, 12.0))
            os.killpg(worker.pid, signal.SIGCONT)

    def _kill_reconciler(self) -> None:
        assert self.reconciler is not None
        self.here.kill_tree(self.reconciler)

    def _fill_disk(self) -> None:
        FAULTS["disk-full"].strike(self.here, "export")
        time.sleep(self.rng.uniform(1.0, 6.0))
        ballast(self.here).unlink()

    def _flip_bit(self) -> None:
        """Flip a bit in a finished part of any experiment."""
        parts = sorted(self.here.site.artifacts.glob("*/iteration-1/*/part-*.parquet"))
        parts = [part for part in parts if part.parent.name in OUTPUTS.values()]
        if not parts:
            return
        part = self.rng.choice(parts)
        self.flipped.add(part.relative_to(self.here.site.artifacts).parts[0])
        with contextlib.suppress(FileNotFoundError):  # it is being made again just now
            flip_bit(part)

    def _cancel(self) -> None:
        """Cancel an experiment that runs; `look_after` resumes it."""
        running = self._names("running")
        if running:
            self._control("cancel", self.rng.choice(running))

    def _alter_tables(self) -> None:
        """Hold a table's lock as a migration does; no two of them have the same name."""
        name = f"soak_{sum(self.faults.values())}"
        FAULTS["migration"].strike(self.here, name)
        FAULTS["migration"].lift(self.here, name)

    def _names(self, status: str) -> list[str]:
        rows = self.here.ask(_OF_STATUS.format(status=status))
        return sorted(str(name) for (name,) in rows)

    def _control(self, action: str, name: str) -> None:
        """Do what a person does, who tries again when it cannot be done just now."""
        self.here.site.manage("control_iteration", action, "--experiment", name)

    def help(self) -> None:
        """Press the buttons that the pages offer: Retry where it failed, Resume where it rests."""
        for status, action in (("failed", "retry"), ("cancelled", "resume")):
            for name in self._names(status):
                self._control(action, name)

    def check_files(self) -> None:
        """Have the files of finished experiments looked at, where a bit was flipped."""
        for name in sorted(self.flipped):
            options = ("--experiment", name, "--recipe", str(self.here.site.recipe))
            self.here.site.manage("run_iteration", *options, "--iterations", "1", "--queue")

    def look_after(self) -> None:
        """Start again what has ended, as a supervisor does."""
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[index] = self.here.start_worker()
        if self.reconciler is not None and self.reconciler.poll() is not None:
            self.reconciler = self.here.start_reconciler()

    def begin_more(self, wanted: int) -> None:
        """Let so many experiments run at once."""
        while self.begun < wanted + self.ended():
            self.begin_one()

    def begin_one(self) -> None:
        """Begin an experiment, whatever is out of order just now."""
        self.begun += 1
        name = f"soak-{self.begun}"
        options = ("--experiment", name, "--recipe", str(self.here.site.recipe), "--queue")
        deadline = time.monotonic() + 120
        while not self.here.ask(_RUNS.format(name=name)):
            assert time.monotonic() < deadline, f"{name} could not be begun\n{self.here.log()}"
            handing = self.here.start("manage.py", "run_iteration", *options)
            until = time.monotonic() + 40
            while handing.poll() is None and time.monotonic() < until:
                if self.here.ask(_RUNS.format(name=name)):
                    return
                time.sleep(0.2)

    def statuses(self) -> Counter[str]:
        """How many iterations there are in each status."""
        rows = self.here.ask("select status, count(*) from experiments_iteration group by status")
        return Counter(dict(rows))

    def ended(self) -> int:
        """How many iterations are over."""
        return sum(count for status, count in self.statuses().items() if status != "running")

    def attempts(self) -> Counter[str]:
        """How many attempts ended in which way."""
        rows = self.here.ask("select status, count(*) from experiments_attempt group by status")
        return Counter(dict(rows))


_RUNS = (
    "select 1 from experiments_iteration i join experiments_experiment e on e.id = i.experiment_id "
    "where e.name = '{name}' and i.status <> 'waiting'"
)
_OF_STATUS = (
    "select e.name from experiments_iteration i join experiments_experiment e "
    "on e.id = i.experiment_id where i.status = '{status}'"
)


def run(soak: Soak, *, minutes: float, experiments: int) -> None:
    """Strike until the time is up, then wait until all is done."""
    soak.start(workers=2)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        soak.begin_more(experiments)
        time.sleep(soak.rng.uniform(*PAUSE_SECONDS))
        soak.strike()
        soak.look_after()
        soak.help()
    give_up = time.monotonic() + PATIENCE_SECONDS
    while soak.statuses()["finished"] < soak.begun and time.monotonic() < give_up:
        soak.look_after()
        soak.help()
        time.sleep(0.5)
    soak.check_files()


def verdict(soak: Soak, quiet: dict[str, str]) -> list[str]:
    """What is not as it should be; nothing if all is well."""
    wrong = []
    if soak.statuses() != Counter(finished=soak.begun):
        wrong.append(f"of {soak.begun} experiments: {dict(soak.statuses())}")
    found = soak.here.site.digests()
    for number in range(1, soak.begun + 1):
        name = f"soak-{number}"
        mine = {
            path.removeprefix(f"{name}/"): digest
            for path, digest in found.items()
            if path.startswith(f"{name}/") and not path.endswith("experiment.json")
        }
        if mine != quiet:
            differs = sorted(dict(mine.items() ^ quiet.items()))
            wrong.append(f"{name} differs from the quiet run: {', '.join(differs[:5])}")
    return wrong


def report(soak: Soak, wrong: list[str]) -> str:
    """What happened, in a few lines."""
    lines = [
        f"{soak.begun} experiments: {dict(soak.statuses())}",
        f"attempts: {dict(sorted(soak.attempts().items()))}",
        f"{sum(soak.faults.values())} faults: {dict(sorted(soak.faults.items()))}",
        *(wrong or ["every file equals the quiet run's"]),
        *([soak.here.log()] if wrong else []),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, tell what happened, and fail if something was lost, double, wedged or different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to strike")
    parser.add_argument("--experiments", type=int, default=3, help="how many run at once")
    parser.add_argument("--seed", type=int, default=1, help="of what is struck when")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        models = root / "models"
        shutil.copytree(get_shipped_seed_model(), models / "seed")
        quiet = {
            path.removeprefix("tiny/"): digest
            for path, digest in QuietRun(root / "quiet", models).digests().items()
            if not path.endswith("experiment.json")
        }
        with world(root / "world", models, max_attempts=100, disk_bytes=DISK_BYTES) as here:
            soak = Soak(here, random.Random(options.seed))
            began = time.monotonic()
            run(soak, minutes=options.minutes, experiments=options.experiments)
            wrong = verdict(soak, quiet)
            sys.stdout.write(f"{(time.monotonic() - began) / 60:.1f} minutes\n")
            sys.stdout.write(report(soak, wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
