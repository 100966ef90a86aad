"""Killing changes nothing: what is left after any number of kills equals a quiet run's bytes."""

import contextlib
import math
import os
import random
import re
import shlex
import signal
import sqlite3
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Site, make_site


def check_rows(site: Site) -> None:
    """Every shard is finished once, whatever number of attempts it took."""
    with sqlite3.connect(site.root / "db.sqlite3") as database:
        shards = database.execute("select id, status from experiments_shard order by id").fetchall()
        finished = database.execute(
            "select shard_id, count(*) from experiments_attempt "
            "where status = 'finished' group by shard_id having count(*) > 1"
        ).fetchall()
        running = database.execute(
            "select count(*) from experiments_attempt where status = 'running'"
        ).fetchone()
    assert {status for _, status in shards} == {"finished"}
    assert finished == []
    assert running == (0,)


@pytest.mark.slow
def test_an_iteration_killed_while_it_judges_and_trains_equals_a_quiet_one(
    quiet_site: Site, site: Site
) -> None:
    for stage in ("judge", "train"):
        kill_in(site, stage)
    ended = site.run_iteration("--iterations", "1")
    assert ended.returncode == 0, ended.stdout
    assert site.digests() == quiet_site.digests()
    check_rows(site)
    assert len(attempts(site, "lost")) == 2


def kill_in(site: Site, stage: str) -> None:
    """Start the command, and kill its process group while it runs a shard of a stage."""
    running = (
        "select 1 from experiments_attempt a join experiments_shard s on s.id = a.shard_id "
        "join experiments_stage t on t.id = s.stage_id where a.status = 'running' and t.name = ?"
    )
    process = site.start(
        "manage.py", "run_iteration", *site.experiment_options(), "--iterations", "1"
    )
    with contextlib.closing(sqlite3.connect(site.root / "db.sqlite3", timeout=30)) as database:
        while not database.execute(running, [stage]).fetchall():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def rows_of(site: Site, question: str, *values: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(site.root / "db.sqlite3", timeout=30)) as database:
        return database.execute(question, values).fetchall()


KILLS = 20
IN_SHARDS_OF_ONE = ("--iterations", "1", "--set", "prompts_per_shard=1")


@dataclass(frozen=True)
class Moment:
    """A while after an iteration has come so far."""

    finished: int
    seconds: float


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_of_one_iteration_change_nothing(tmp_path: Path) -> None:
    """At moments drawn from the time that a quiet run takes, each followed by the same command.

    Twelve instructions in shards of one are 41 shards, the training and the evaluation among them.
    """
    quiet, site = make_site(tmp_path / "quiet"), make_site(tmp_path / "killed")
    assert quiet.run_iteration(*IN_SHARDS_OF_ONE).returncode == 0
    struck = []
    for moment in moments_of(quiet, random.Random(2)):
        start_and_kill_at(site, moment)
        struck.append(shards_finished(site))
    assert struck[0] < struck[-1] < shards_finished(quiet), "all over the iteration"
    ended = site.run_iteration(*IN_SHARDS_OF_ONE)
    assert ended.returncode == 0, ended.stdout
    assert site.digests() == quiet.digests()
    check_rows(site)


def shards_finished(site: Site) -> int:
    return len(list((site.artifacts / "tiny/iteration-1/manifests").glob("*.json")))


def moments_of(quiet: Site, rng: random.Random) -> list[Moment]:
    """Moments of a quiet run, in order; the last ones early enough to find it running again."""
    spans = attempts(quiet, "finished")
    began, (last_began, last_ended) = spans[0][0], spans[-1]
    end = last_began + (last_ended - last_began) / 4
    sampled = sorted(rng.uniform(began, end) for _ in range(KILLS))
    found = []
    for moment in sampled:
        before = [ended for _, ended in spans if ended <= moment]
        found.append(Moment(len(before), moment - max([began, *before])))
    return found


def start_and_kill_at(site: Site, moment: Moment) -> None:
    """Give the command; kill its process group when it has come as far and runs a shard."""
    lost = len(attempts(site, "lost")) + len(attempts(site, "running"))
    process = site.start(
        "manage.py", "run_iteration", *site.experiment_options(), *IN_SHARDS_OF_ONE
    )

    def has_come_so_far() -> bool:
        runs = len(attempts(site, "lost")) == lost and len(attempts(site, "running")) == 1
        return runs and shards_finished(site) >= moment.finished

    while not has_come_so_far():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    time.sleep(moment.seconds)
    assert process.poll() is None, "it was to be killed while it runs"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def attempts(site: Site, status: str) -> list[tuple[float, float]]:
    """When attempts at shards began and ended, in seconds, in their order."""
    question = "select started, finished from experiments_attempt where status = ? order by id"
    found = rows_of(site, question, status)
    return [(seconds_of(began), seconds_of(ended)) for began, ended in found]


def seconds_of(written: object) -> float:
    return datetime.fromisoformat(str(written)).timestamp() if written else math.inf


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(site: Site) -> None:
    process = site.start("manage.py", "run_iteration", *site.experiment_options())
    wait_for(site.artifacts / "tiny/iteration-1/manifests/sample-00000.json")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    offered = re.search(r"To resume: (.* run_iteration --experiment tiny .*)", output)
    assert offered is not None
    gone_on = site.call(*shlex.split(offered[1])[1:], "--dry-run")
    assert gone_on.returncode == 0, gone_on.stdout


def test_two_processes_never_run_the_same_experiment(site: Site) -> None:
    first = site.start("manage.py", "run_iteration", *site.experiment_options())
    wait_for(site.artifacts / "tiny/iteration-1/manifests/sample-00000.json")
    first.send_signal(signal.SIGSTOP)  # else it can be done before the second has started
    second = site.run_iteration()
    assert first.poll() is None, "it runs on, whatever another one does"
    first.send_signal(signal.SIGCONT)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert second.returncode == 5
    assert "another process is running experiment 'tiny'" in second.stdout
