"""The faults: what each does to a world while one step of the loop stands still, and undoes.

`strike` happens while a process of the step is held at `point`; then it is released, if it still
lives, and `lift` lets the fault last for a while and ends it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
from celery import Celery

from tests.faults.world import STAGE_NAMES, STEPS, World
from tests.workers.cluster import LEASE_SECONDS

Deed = Callable[[World, str], None]

OUTPUTS: Final = {
    "sample": "prompts",
    "generate": "responses",
    "judge": "judgments",
    "pair_actor": "actor_pairs",
    "meta_judge": "battles",
    "pair_judge": "judge_pairs",
    "train": "training_log",
    "evaluate": "evaluation",
    "answer": "judgments",
    "export": "actor_pairs",
}
"""By step the table that it makes, or that an answer or an export is about."""

_QUEUES: Final = {"sample": "cpu", "pair_actor": "cpu", "pair_judge": "cpu"}
_DARK_SECONDS: Final = 8.0


def _nothing(here: World, step: str) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix.

    Attributes:
        text: what is done, for the table.
        point: where in a stage the process stands meanwhile; "" for any moment.
        steps: where it makes sense.
        said: a regular expression that the page of the iteration must match afterwards, where a
            stage was struck; "" where it costs nothing that a person would have to know.
        logged: the same for the installation's log, where the page has nothing to say.
        refused: the same for what an export says that cannot end well as long as the fault lasts;
            "" where the export has to succeed, or is killed.
        remakes: whether files of the step have to be made a second time.
        skewed: every process is started with a clock of its own, a day ahead or behind.
    """

    name: str
    text: str
    strike: Deed
    lift: Deed = _nothing
    point: str = "working"
    steps: tuple[str, ...] = STEPS
    said: str = ""
    logged: str = ""
    refused: str = ""
    needs_disk: bool = False
    remakes: bool = False
    skewed: bool = False


def _kill(here: World, step: str) -> None:
    """SIGKILL to all that works on a step: the worker's tree, the site, the command."""
    if step in STAGE_NAMES:
        here.kill_worker()
        here.wait_until(lambda: here.engines() == [], seconds=10)
    elif step == "answer":
        assert here.web is not None
        here.kill_tree(here.web)
    else:
        _held(here, step).kill()


def _start_again(here: World, step: str) -> None:
    if step in STAGE_NAMES:
        here.new_worker()
    elif step == "answer":
        here.start_site()


def _held(here: World, step: str) -> psutil.Process:
    pid = here.points.reached(step, "working")
    assert pid is not None
    return psutil.Process(pid)


def _kill_at_random(here: World, step: str) -> None:
    """Wait until the stage has begun, and a moment that differs from run to run."""
    here.wait_for(lambda: here.stage_status(step) not in ("", "waiting"))
    time.sleep(int.from_bytes(os.urandom(2)) / 65536 * 1.5)
    _kill(here, step)


def _kill_engine(here: World, step: str) -> None:
    _held(here, step).kill()


def _freeze(here: World, step: str) -> None:
    """Stop whoever holds the step until its lease is over and somebody else has taken it."""
    if step in STAGE_NAMES:
        assert here.worker is not None
        os.killpg(here.worker.pid, signal.SIGSTOP)
        frozen = here.worker
        here.new_worker()
        here.wait_for(lambda: _lost(here, step))
        here.frozen = frozen
    else:
        _held(here, step).suspend()


def _lost(here: World, step: str) -> bool:
    question = (
        "select 1 from experiments_attempt a join experiments_shard s on s.id = a.shard_id "
        "join experiments_stage t on t.id = s.stage_id "
        f"where a.status = 'lost' and t.name = '{step}'"
    )
    return bool(here.ask(question))


def _thaw(here: World, step: str) -> None:
    if step not in STAGE_NAMES:
        time.sleep(LEASE_SECONDS)
        _held(here, step).resume()
        return
    here.wait_for(lambda: here.stage_status(step) == "finished")
    assert here.frozen is not None
    os.killpg(here.frozen.pid, signal.SIGCONT)
    time.sleep(1)  # it wakes, finds that it lost, and must change nothing
    here.kill_tree(here.frozen)


def _kill_broker(here: World, step: str) -> None:
    here.broker.kill()


def _revive_broker(here: World, step: str) -> None:
    time.sleep(2)
    here.broker.start()


def _kill_clients(here: World, step: str) -> None:
    with here.broker.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)


def _fill_broker(here: World, step: str) -> None:
    with here.broker.client() as client:
        client.config_set("maxmemory", "1")


def _empty_broker(here: World, step: str) -> None:
    time.sleep(_DARK_SECONDS)
    with here.broker.client() as client:
        client.config_set("maxmemory", "256mb")


def _forget_messages(here: World, step: str) -> None:
    with here.broker.client() as client:
        client.flushall()


def _go_dark(here: World, step: str) -> None:
    here.proxy.go_dark()


def _light_up(here: World, step: str) -> None:
    time.sleep(_DARK_SECONDS)
    here.proxy.light_up()


def _light_up_forgetting(here: World, step: str) -> None:
    time.sleep(_DARK_SECONDS)
    here.proxy.light_up(forgetting=True)


def _end_connections(here: World, step: str) -> None:
    for _ in range(3):
        with psycopg.connect(here.database.url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        time.sleep(0.3)


def _stop_database(here: World, step: str) -> None:
    here.database.stop()


def _start_database(here: World, step: str) -> None:
    time.sleep(2)
    here.database.start()


def _fill_disk(here: World, step: str) -> None:
    """Leave a few bytes, so that a file is begun and cannot be ended."""
    free = _free_bytes(here)
    with ballast(here).open("wb") as file, contextlib.suppress(OSError):
        while free > 0:
            free -= file.write(b"x" * min(free, 2**20))


def _free_bytes(here: World) -> int:
    found = os.statvfs(here.disk)
    return found.f_bavail * found.f_frsize


def ballast(here: World) -> Path:
    """What a disk is filled with."""
    return here.disk / "ballast"


def _free_disk(here: World, step: str) -> None:
    _fail_then(here, step, lambda: ballast(here).unlink())


def _fail_then(here: World, step: str, mend: Callable[[], None]) -> None:
    """Wait until a stage has failed and says so, mend what is wrong, and press Retry."""
    if step == "export":
        here.wait_for_export()
        mend()
        return
    here.wait_for(lambda: here.status() in ("failed", "no_pairs", "finished"))
    assert here.status() == "failed", f"{here.status()}: {here.finding()}"
    mend()
    here.control("retry")


def _remount(here: World, option: str) -> None:
    command = ["mount", "-o", f"remount,{option}", str(here.disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _protect_disk(here: World, step: str) -> None:
    _remount(here, "ro")


def _unprotect_disk(here: World, step: str) -> None:
    _fail_then(here, step, lambda: _remount(here, "rw"))


def _hide_files(here: World, step: str) -> None:
    here.site.artifacts.rename(here.disk / "elsewhere")


def _show_files(here: World, step: str) -> None:
    def show() -> None:
        shutil.rmtree(here.site.artifacts, ignore_errors=True)  # what was made in the wrong place
        (here.disk / "elsewhere").rename(here.site.artifacts)

    _fail_then(here, step, show)


def _part(here: World, step: str) -> Path:
    """A part that is there already; which shard comes first is chance."""
    folder = here.site.artifacts / "tiny" / "iteration-1" / OUTPUTS[step]
    return min(folder.glob("part-*.parquet"))


def _truncate(here: World, step: str) -> None:
    part = _part(here, step)
    _overwrite(part, part.read_bytes()[:-7])


def _flip_bit(here: World, step: str) -> None:
    flip_bit(_part(here, step))
    if step == "train":
        weights = here.site.artifacts / "tiny" / "iteration-1" / "checkpoint" / "model.safetensors"
        found = bytearray(weights.read_bytes())
        found[-100] ^= 1
        _overwrite(weights, bytes(found))


def flip_bit(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    _overwrite(path, bytes(data))


def _overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def _make_files_again(here: World, step: str) -> None:
    """After the end nobody looks by himself: a person has the files checked."""
    if step not in STAGE_NAMES:
        if step == "export":
            here.wait_for_export()
        options = (*here.site.experiment_options(), "--iterations", "1", "--queue")
        checking = here.site.start("manage.py", "run_iteration", *options)
        here.wait_for(lambda: checking.poll() is not None)
        said, _ = checking.communicate()
        assert checking.returncode == 0, said


def _send_thrice(here: World, step: str) -> None:
    """Send the message about each shard of the stage three times more, to two workers."""
    app = Celery(broker=here.broker.url)
    app.conf.broker_transport_options = {"global_keyprefix": "meta-reward:"}
    question = (
        "select s.id from experiments_shard s join experiments_stage t on t.id = s.stage_id "
        f"where t.name = '{step}'"
    )
    with app.connection_for_write() as connection:
        for (shard,) in here.ask(question) * 3:
            queue = _QUEUES.get(step, "gpu")
            app.send_task("workers.run_shard", args=[shard], queue=queue, connection=connection)
    here.second = here.start_worker()


def _dismiss_second(here: World, step: str) -> None:
    """Let the second worker go in order: it gives back what it has."""
    here.wait_for(lambda: here.stage_status(step) == "finished")
    assert here.second is not None
    here.second.terminate()
    here.second.wait(60)


def _cancel_without_worker(here: World, step: str) -> None:
    _kill(here, step)
    here.control("cancel")
    assert here.status() == "cancelled"


def _resume(here: World, step: str) -> None:
    here.control("resume")
    here.new_worker()


def _alter_tables(here: World, step: str) -> None:
    """Change a table as a migration does, and hold its lock for longer than a lease."""
    table = "audit_answer" if step == "answer" else "experiments_shard"
    here.migrating = psycopg.connect(here.database.url)
    here.migrating.execute(
        f"alter table {table} add column of_{step} integer not null default 0".encode()
    )


def _commit_tables(here: World, step: str) -> None:
    time.sleep(LEASE_SECONDS + 2)
    assert here.migrating is not None
    here.migrating.commit()
    here.migrating.close()


_SILENT: Final = r"lost.*(process no longer exists|sent no heartbeat)"
_LOST_BROKER: Final = r"Connection to broker lost|Cannot connect to redis"
_DAMAGED: Final = "are rerun"
_DIFFERS: Final = "differs from its manifest"

# An export opens no connection to the broker, and no answer is written to the artifacts' disk.
_WITHOUT_EXPORT: Final = (*STAGE_NAMES, "answer")
_WITHOUT_ANSWER: Final = (*STAGE_NAMES, "export")

KILLED_AT_WORK = Fault("killed", "worker tree SIGKILLed at work", _kill, _start_again,
                       said=_SILENT)  # fmt: skip

FAULTS: Final = {
    fault.name: fault
    for fault in (
        KILLED_AT_WORK,
        Fault("killed-unpromised", "SIGKILLed between a shard's files and its manifest",
              _kill, _start_again, point="unpromised", steps=STAGE_NAMES, said=_SILENT),
        Fault("killed-untold", "SIGKILLed between the manifest and the row",
              _kill, _start_again, point="untold", steps=STAGE_NAMES, said=_SILENT),
        Fault("killed-told", "SIGKILLed between the row and the next step",
              _kill, _start_again, point="told", steps=STAGE_NAMES),
        Fault("killed-at-random", "SIGKILLed at a random moment",
              _kill_at_random, _start_again, point="", steps=STAGE_NAMES),
        Fault("engine", "engine child killed", _kill_engine, steps=STAGE_NAMES,
              said=r"was killed \(SIGKILL\)"),
        Fault("frozen", "SIGSTOP past the lease", _freeze, _thaw, said=_SILENT, remakes=True),
        Fault("broker-killed", "broker killed, restarted after 2 s", _kill_broker, _revive_broker,
              steps=_WITHOUT_EXPORT, logged=_LOST_BROKER),
        Fault("broker-clients", "broker: CLIENT KILL of all clients", _kill_clients,
              steps=_WITHOUT_EXPORT),
        Fault("broker-forgets", "broker loses every message", _forget_messages,
              steps=_WITHOUT_EXPORT),
        Fault("broker-dark", "broker behind a black hole for 8 s", _go_dark, _light_up,
              steps=_WITHOUT_EXPORT),
        Fault("broker-forgotten", "the same, and its old connections stay dead",
              _go_dark, _light_up_forgetting, steps=_WITHOUT_EXPORT),
        Fault("broker-full", "broker full for 8 s", _fill_broker, _empty_broker,
              steps=_WITHOUT_EXPORT, logged="OutOfMemoryError"),
        Fault("database-connections", "every database connection ended, 3 times",
              _end_connections),
        Fault("database-restarted", "database stopped, restarted after 2 s",
              _stop_database, _start_database, logged="the database is not responding"),
        Fault("disk-full", "disk full; room made, Retry", _fill_disk, _free_disk,
              steps=_WITHOUT_ANSWER, said="no room left", refused="No space left", needs_disk=True),
        Fault("disk-read-only", "artifact root read-only; fixed, Retry",
              _protect_disk, _unprotect_disk, steps=_WITHOUT_ANSWER,
              said="Read-only file system", refused="cannot be written", needs_disk=True),
        Fault("disk-vanished", "artifact root vanished; put back, Retry",
              _hide_files, _show_files, steps=_WITHOUT_ANSWER, said="are missing|cannot read",
              refused="does not exist", remakes=True),
        Fault("truncated", "a finished part truncated", _truncate, _make_files_again,
              point="told", logged=_DAMAGED, refused=_DIFFERS, remakes=True),
        Fault("flipped", "a bit flipped in a finished part, and in the weights",
              _flip_bit, _make_files_again, point="told", logged=_DAMAGED, refused=_DIFFERS,
              remakes=True),
        Fault("triple", "every message delivered three more times, two workers", _send_thrice,
              _dismiss_second,
              steps=STAGE_NAMES),
        Fault("clocks", "clocks a day ahead and a day behind, in turn", _nothing, skewed=True),
        Fault("cancelled", "cancelled with no worker, then resumed",
              _cancel_without_worker, _resume, steps=STAGE_NAMES, said=_SILENT),
        Fault("migration", "a migration holds the table's lock for 6 s",
              _alter_tables, _commit_tables, steps=_WITHOUT_EXPORT),
    )
}  # fmt: skip

NOTHING_TO_SEE: Final = {
    "killed-told": "the shard is finished and its row says so: the reconciler goes on",
    "killed-at-random": "it depends on the moment",
    "broker-clients": "who is cut off connects again at once",
    "broker-forgets": "messages are hints: they are sent again",
    "broker-dark": "8 s are less than anybody's patience",
    "broker-forgotten": "whoever waits for the connection first hears of it, at any moment",
    "database-connections": "who is cut off connects again at once",
    "triple": "a message too many finds nothing to claim",
    "clocks": "nobody asks a worker's clock what time it is",
    "migration": "whoever needs the table waits",
}
"""Faults after which nobody has to know anything, and why."""

KINDS: Final = {
    "process": (*("killed", "killed-unpromised", "killed-untold", "killed-told"),
                *("killed-at-random", "engine")),
    "silence": ("frozen",),
    "broker": (*("broker-killed", "broker-clients", "broker-forgets", "broker-dark"),
               *("broker-forgotten", "broker-full")),
    "database": ("database-connections", "database-restarted", "migration"),
    "disk": ("disk-full", "disk-read-only", "disk-vanished"),
    "damage": ("truncated", "flipped"),
    "repetition": ("triple",),
    "person": ("cancelled",),
}  # fmt: skip
"""The kinds of faults; what is wrong with clocks is wrong in a whole world (`Fault.skewed`)."""
