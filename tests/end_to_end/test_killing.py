"""Killing changes nothing: what is left after any number of kills equals a quiet run's bytes."""

import random
import re
import shlex
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Site, make_site

MOST_KILLS = 6


def kill_until_finished(site: Site, rng: random.Random, *, run_seconds: float) -> int:
    """Kill the command at random moments until it ends by itself, or was killed often enough.

    Where starting takes longer than the moments reach, it would never end by itself.
    """
    killed = 0
    while killed < MOST_KILLS and site.start_and_kill(
        "--iterations", "1", after_seconds=rng.uniform(0.3, run_seconds)
    ):
        killed += 1
    if killed == MOST_KILLS:
        assert site.run_iteration("--iterations", "1").returncode == 0
    verified = site.run_iteration("--iterations", "1")
    assert verified.returncode == 0, verified.stdout
    assert "all its files are whole" in verified.stdout
    return killed


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


def test_an_iteration_killed_again_and_again_equals_a_quiet_one(
    quiet_site: Site, site: Site
) -> None:
    killed = kill_until_finished(site, random.Random(1), run_seconds=14.0)
    assert killed >= 1, "the kills must have hit a running process"
    assert site.digests() == quiet_site.digests()
    check_rows(site)


@pytest.mark.slow
def test_twenty_kills_change_nothing(quiet_site: Site, tmp_path: Path) -> None:
    """As many iterations as it takes until twenty kills have hit one of them."""
    timed = make_site(tmp_path / "timed")
    began = time.monotonic()
    assert timed.run_iteration("--iterations", "1").returncode == 0
    run_seconds = time.monotonic() - began
    rng, killed = random.Random(2), 0
    while killed < 20:
        site = make_site(tmp_path / f"after-{killed}")
        killed += kill_until_finished(site, rng, run_seconds=run_seconds)
        assert site.digests() == quiet_site.digests()
        check_rows(site)


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
    offered = re.search(r"To go on: (.* run_iteration --experiment tiny .*)", output)
    assert offered is not None
    gone_on = site.call(*shlex.split(offered[1])[1:], "--dry-run")
    assert gone_on.returncode == 0, gone_on.stdout


def test_two_processes_never_run_the_same_experiment(site: Site) -> None:
    first = site.start("manage.py", "run_iteration", *site.experiment_options())
    wait_for(site.artifacts / "tiny/iteration-1/manifests/sample-00000.json")
    second = site.run_iteration()
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert second.returncode == 5
    assert "another process is running experiment 'tiny'" in second.stdout
