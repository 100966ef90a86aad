"""Real workers, a real broker, a real engine; and what may happen to each of them.

Whatever happens, the files equal those of `manage.py run_iteration` on a quiet machine.
"""

import contextlib
import html
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from meta_reward_core.iteration import STAGES
from tests.end_to_end.conftest import Site, find_quiet_site
from tests.end_to_end.serving import Browser
from tests.services import Broker, RedisLike, RedisServer, free_port, postgres
from tests.workers.cluster import (
    LACK_OF_MEMORY,
    Cluster,
    Process,
    WorkerSite,
    cluster,
    deny_memory,
    make_site,
)

CONTROL_SECONDS = 5.0


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An iteration that one command ran, undisturbed. Read it, do not write to it."""
    return find_quiet_site(tmp_path_factory)


@pytest.fixture
def site_with_workers(tmp_path: Path, running_broker: Broker) -> Iterator[Cluster]:
    with cluster(tmp_path / "site", running_broker) as running:
        yield running


def check_rows(site: WorkerSite) -> None:
    """Every shard is finished, by one attempt, whatever number of others it took."""
    assert set(site.statuses("shard")) == {"finished"}
    assert "running" not in site.statuses("attempt")
    twice = site.rows(
        "select shard_id from experiments_attempt where status = 'finished' "
        "group by shard_id having count(*) > 1"
    )
    assert twice == []


@pytest.mark.slow
def test_a_whole_iteration_through_redis_equals_the_commands(
    tmp_path: Path, redis_server: RedisServer, quiet: Site
) -> None:
    with cluster(tmp_path / "site", redis_server) as here:
        run_a_whole_iteration(here, quiet)


def run_a_whole_iteration(here: Cluster, quiet: Site) -> None:
    worker = here.start_worker()
    following = here.queue_iteration()
    here.wait_finished()
    assert following.wait(20) == 0
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)
    assert here.site.statuses("attempt") == {"finished": 11}
    assert "M1 is in" in here.log()
    assert here.site.rows("select queues, device from experiments_worker") == [("cpu,gpu", "cpu")]
    assert len(here.engines()) == 1
    assert not any(loads_torch(process) for process in psutil.Process(worker.pid).children())
    assert not loads_torch(psutil.Process(worker.pid))
    load = "select memory_total_bytes from experiments_machineload"
    here.wait_until(lambda: here.site.rows(load) != [])
    assert here.site.rows(load)[0] == (psutil.virtual_memory().total,)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert here.engines() == []
    assert here.site.rows("select * from experiments_worker") == []


PARTS = ("--set", "prompts_per_shard=3")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_worker_with_two_engine_processes_equals_the_commands(
    tmp_path: Path, running_broker: Broker
) -> None:
    quiet = make_site(tmp_path / "quiet")
    assert quiet.run_iteration("--iterations", "1", *PARTS).returncode == 0
    with cluster(tmp_path / "site", running_broker) as here:
        here.start_worker(processes=2)
        here.start_reconciler()
        here.queue_iteration(*PARTS)
        here.wait_until(lambda: count_running(here) == 2 and len(here.engines()) == 2)
        cores = [set(engine.cpu_affinity() or ()) for engine in here.engines()]
        here.engines()[0].kill()
        here.wait_finished()
        assert here.site.digests() == quiet.digests()
        check_rows(here.site)
        check_training_was_alone(here.site)
        assert here.site.rows("select count(*) from experiments_worker") == [(2,)]
        failed = here.site.rows("select error from experiments_attempt where status = 'failed'")
        assert len(failed) == 1, "the other engine process was not disturbed"
    if len(os.sched_getaffinity(0)) > 1:
        assert not cores[0] & cores[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stops_and_faults_of_two_engine_processes_change_nothing(
    tmp_path: Path, running_broker: Broker
) -> None:
    """In turn: pause, cancel, no memory for one of them, and a kill of their worker."""
    longer = ("--set", "actor.samples=10", *LONG, "--set", "prompts_per_shard=1")
    with cluster(tmp_path / "site", running_broker) as here:
        worker = here.start_worker(processes=2)
        here.start_reconciler()
        here.queue_iteration(*longer)
        for action, status in (("pause", "paused"), ("cancel", "cancelled")):
            wait_for_two_judges(here)
            seconds = control(here, action, status=status)
            assert seconds < CONTROL_SECONDS
            here.wait_until(lambda: here.engines() == [], seconds=CONTROL_SECONDS)
            assert "running" not in here.site.statuses("shard")
            control(here, "resume", status="running")
        wait_for_two_judges(here)
        deny_memory(here.engines()[0])
        here.wait_until(lambda: here.site.statuses("attempt").get("failed"))
        wait_for_two_judges(here)
        here.kill_tree(worker)
        here.wait_until(lambda: here.engines() == [], seconds=CONTROL_SECONDS)
        here.start_worker(processes=2)
        here.wait_finished(seconds=900)
        check_rows(here.site)
        check_training_was_alone(here.site)
        ended = here.site.statuses("attempt")
        assert (ended["interrupted"], ended["lost"]) == (4, 2)
        # Only one process lacks memory, but it can fail twice if it survives the first time.
        errors = here.site.rows("select error from experiments_attempt where status = 'failed'")
        assert errors
        assert all(LACK_OF_MEMORY.search(error) for (error,) in errors), errors
        undisturbed = make_site(tmp_path / "undisturbed")
        assert undisturbed.run_iteration("--iterations", "1", *longer).returncode == 0
        assert here.site.digests() == undisturbed.digests()


def wait_for_two_judges(here: Cluster) -> None:
    """Wait until two engine processes are in the middle of judging."""
    busy = (
        "select 1 from experiments_shard s join experiments_stage t on t.id = s.stage_id "
        "where t.name = 'judge' and s.status = 'running' and s.tokens > 0"
    )
    here.wait_until(lambda: len(here.site.rows(busy)) == 2 and len(here.engines()) == 2)


def count_running(here: Cluster) -> int:
    running = "select count(*) from experiments_shard where status = 'running'"
    return int(here.site.rows(running)[0][0])


def check_training_was_alone(site: WorkerSite) -> None:
    """A training has every device of its worker: no other shard runs meanwhile."""
    trace = site.rows(
        "select t.name, a.started, a.finished from experiments_attempt a "
        "join experiments_shard s on s.id = a.shard_id "
        "join experiments_stage t on t.id = s.stage_id where a.status = 'finished'"
    )
    ((begun, ended),) = [(start, end) for name, start, end in trace if name == "train"]
    others = [(start, end) for name, start, end in trace if name != "train"]
    assert not [span for span in others if span[0] < ended and span[1] > begun]


@pytest.mark.slow
def test_a_whole_iteration_on_postgresql_by_two_workers_equals_the_commands(
    tmp_path: Path, redis_server: RedisServer, quiet: Site
) -> None:
    """PostgreSQL and Redis themselves, as several machines have them."""
    with (
        postgres() as url,
        cluster(tmp_path / "site", redis_server, DATABASE_URL=url) as here,
    ):
        here.start_worker("gpu")
        here.start_worker("gpu,cpu")
        here.queue_iteration()
        here.wait_finished()
        assert here.site.digests() == quiet.digests()
        check_rows(here.site)
        assert here.site.statuses("attempt") == {"finished": 11}
        with redis_server.client() as client:
            processed = client.info("stats")["total_commands_processed"]
        assert processed > 100, "it was this server that the workers talked through"


@pytest.mark.slow
def test_a_frozen_worker_loses_its_shard_and_changes_nothing_when_it_wakes(
    site_with_workers: Cluster, quiet: Site
) -> None:
    here = site_with_workers
    frozen = here.start_worker()
    here.start_reconciler()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running("train"))
    os.killpg(frozen.pid, signal.SIGSTOP)
    here.start_worker()
    here.wait_until(lambda: here.site.statuses("attempt").get("lost"))
    here.wait_until(lambda: here.site.iteration() == "finished" or here.site.running("evaluate"))
    os.killpg(frozen.pid, signal.SIGCONT)
    here.wait_finished()
    time.sleep(2)
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)


def loads_torch(process: psutil.Process) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("stage", ["judge", pytest.param("train", marks=pytest.mark.slow)])
def test_a_worker_killed_in_the_middle_of_a_stage_changes_nothing(
    tmp_path: Path, redis_server: RedisServer, quiet: Site, stage: str
) -> None:
    with cluster(tmp_path / "site", redis_server) as here:
        kill_a_worker_in(here, quiet, stage)


def kill_a_worker_in(here: Cluster, quiet: Site, stage: str) -> None:
    worker = here.start_worker()
    here.start_reconciler()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running(stage))
    here.kill_tree(worker)
    here.wait_until(lambda: here.engines() == [], seconds=3)
    here.start_worker()
    here.wait_finished()
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)
    assert here.site.statuses("attempt")["lost"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, server",
    [
        ("worker", "running_broker"),
        ("broker", "running_broker"),
        ("broker", "redis_server"),
        ("site", "running_broker"),
    ],
)
def test_kills_in_every_stage_change_nothing(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    quiet: Site,
    victim: str,
    server: str,
) -> None:
    """One iteration; every stage is struck once while a shard of it runs."""
    broker: RedisLike = request.getfixturevalue(server)
    with cluster(tmp_path / "site", broker, META_REWARD_MAX_ATTEMPTS="100") as here:
        here.start_reconciler()
        pages = Pages(here)
        here.queue_iteration()
        worker = here.start_worker()
        for stage in STAGES:
            here.wait_until(lambda name=stage.name: here.site.running(name), every_seconds=0.001)  # type: ignore[misc]
            os.killpg(worker.pid, signal.SIGSTOP)  # or the next stage might pass unseen
            if victim == "worker":
                here.kill_tree(worker)
            elif victim == "broker":
                here.broker.kill()
                here.broker.start()
            else:
                pages.restart()
            here.wait_until(pages.are_right)
            if victim == "worker":
                worker = here.start_worker()
            else:
                os.killpg(worker.pid, signal.SIGCONT)
        here.wait_finished()
        here.wait_until(pages.are_right)
        assert here.site.digests() == quiet.digests()
        check_rows(here.site)


SHOWN_STAGE = r'class="title">\d+\. ([^<]+)</span>\s*<span class="status status-(\w+)"'


class Pages:
    """The site of a cluster, in a process that may be killed, and somebody who looks at it."""

    def __init__(self, here: Cluster) -> None:
        self.here = here
        self.port = free_port()
        self.browser = Browser()
        account = ("createsuperuser", "--noinput", "--username", "ann", "--email", "a@example.org")
        made = here.site.manage(*account)
        assert made.returncode == 0, made.stdout
        self.process = self.start()
        here.wait_until(lambda: self.browser.get(self.port, "/healthz") == "ok")
        self.browser.sign_in(self.port, "ann", here.site.environment["DJANGO_SUPERUSER_PASSWORD"])

    def start(self) -> Process:
        where = ("--bind", f"127.0.0.1:{self.port}", "--no-control-socket")
        return self.here.start("-m", "gunicorn", "webapp.wsgi:application", *where)

    def restart(self) -> None:
        self.here.kill_tree(self.process)
        self.process = self.start()

    def are_right(self) -> bool:
        """Whether the page of the iteration shows every stage as its row has it."""
        question = "select title, status from experiments_stage order by position"
        before = self.here.site.rows(question)
        page = self.browser.get(self.port, "/experiments/tiny/iterations/1")
        shown = re.findall(SHOWN_STAGE, html.unescape(page or ""))
        return shown == before == self.here.site.rows(question)


@pytest.mark.slow
def test_a_broker_that_forgets_everything_changes_nothing(
    site_with_workers: Cluster, running_broker: Broker, quiet: Site
) -> None:
    here = site_with_workers
    here.start_worker()
    here.start_reconciler()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running("generate"))
    here.broker.kill()
    time.sleep(2)
    shutil.rmtree(running_broker.place.data)
    here.broker.start()
    here.wait_finished()
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)
    assert set(here.site.statuses("attempt")) == {"finished"}


@pytest.mark.slow
def test_an_engine_killed_in_the_middle_is_a_readable_failure_and_tried_again(
    site_with_workers: Cluster, quiet: Site
) -> None:
    here = site_with_workers
    here.start_worker()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running("train") and here.engines())
    time.sleep(0.5)
    for engine in here.engines():
        engine.kill()
    here.wait_finished()
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)
    errors = here.site.rows("select error from experiments_attempt where status = 'failed'")
    assert len(errors) == 1
    assert "was killed (SIGKILL)" in errors[0][0]


LONG = ("--set", "judge.samples=250", "--set", "prompts_per_shard=2")


@pytest.mark.slow
def test_cancel_and_resume_of_a_running_judge_stage(site_with_workers: Cluster) -> None:
    here = site_with_workers
    here.start_worker()
    following = here.queue_iteration(*LONG)
    stop_and_resume_judging(here, "cancel", status="cancelled")
    assert following.wait(20) == 130
    control(here, "pause", status="paused")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("action, status", [("pause", "paused"), ("cancel", "cancelled")])
def test_judging_that_was_stopped_and_resumed_ends_in_the_same_bytes(
    tmp_path: Path, site_with_workers: Cluster, action: str, status: str
) -> None:
    """Longer than the usual iteration, so that its judging can be stopped in its middle."""
    longer = ("--set", "judge.samples=50", "--set", "prompts_per_shard=1")
    here = site_with_workers
    here.start_worker()
    here.queue_iteration(*longer)
    stop_and_resume_judging(here, action, status=status)
    here.wait_finished(seconds=900)
    check_rows(here.site)
    undisturbed = make_site(tmp_path / "undisturbed")
    assert undisturbed.run_iteration("--iterations", "1", *longer).returncode == 0
    assert here.site.digests() == undisturbed.digests()


def stop_and_resume_judging(here: Cluster, action: str, *, status: str) -> None:
    """Both act at once, no process stays behind, and no finished shard is lost or run again."""
    here.wait_until(lambda: count(here.site, "judge", "finished") >= 1)
    here.wait_until(lambda: here.site.running("judge"))
    seconds = control(here, action, status=status)
    assert seconds < CONTROL_SECONDS
    here.wait_until(lambda: here.engines() == [], seconds=CONTROL_SECONDS - seconds)
    finished = finished_attempts(here.site)
    assert finished
    assert "running" not in here.site.statuses("shard")
    time.sleep(2)
    assert here.engines() == []
    assert finished_attempts(here.site) == finished, "nothing goes on while it is stopped"
    asking = ask(here, "resume")
    here.wait_until(lambda: here.site.iteration() == "running")
    here.wait_until(lambda: here.site.running("judge"), seconds=CONTROL_SECONDS)
    assert asking.wait(20) == 0, here.log()
    assert finished_attempts(here.site) >= finished


def finished_attempts(site: WorkerSite) -> set[tuple[object, ...]]:
    return set(site.rows("select id from experiments_attempt where status = 'finished'"))


@pytest.mark.slow
def test_cancel_pause_and_resume_with_every_worker_down(
    site_with_workers: Cluster, quiet: Site
) -> None:
    here = site_with_workers
    worker = here.start_worker()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running("judge"))
    here.kill_tree(worker)
    here.wait_until(lambda: here.engines() == [], seconds=3)
    for action, status in (("pause", "paused"), ("cancel", "cancelled")):
        assert control(here, action, status=status) < CONTROL_SECONDS
        control(here, "resume", status="running")
    here.start_worker()
    here.wait_finished()
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)


@pytest.mark.slow
@pytest.mark.parametrize("action, status", [("pause", "paused"), ("cancel", "cancelled")])
def test_pause_or_cancel_and_resume_of_a_running_training(
    site_with_workers: Cluster, quiet: Site, action: str, status: str
) -> None:
    here = site_with_workers
    here.start_worker()
    here.queue_iteration()
    here.wait_until(lambda: here.site.running("train"))
    time.sleep(1)
    assert control(here, action, status=status) < CONTROL_SECONDS
    assert here.engines() == []
    control(here, "resume", status="running")
    here.wait_finished()
    assert here.site.digests() == quiet.digests()
    check_rows(here.site)


def count(site: WorkerSite, stage: str, status: str) -> int:
    question = (
        "select count(*) from experiments_shard s join experiments_stage t on t.id = s.stage_id "
        f"where t.name = '{stage}' and s.status = '{status}'"
    )
    return int(site.rows(question)[0][0])


def ask(here: Cluster, action: str) -> Process:
    return here.start("manage.py", "control_iteration", action, "--experiment", "tiny")


def control(here: Cluster, action: str, *, status: str) -> float:
    """Ask, as a person does; returns how long it takes until the row says so.

    Python needs seconds to start on a busy machine, so the time counts from the flag on.
    """
    asking = ask(here, action)
    flag = f"select 1 from experiments_iteration where {action}_requested or status = '{status}'"
    if action in ("cancel", "pause"):
        here.wait_until(lambda: here.site.rows(flag))
    seconds = here.wait_until(lambda: here.site.iteration() == status)
    assert asking.wait(20) == 0, here.log()
    return seconds


@pytest.mark.slow
def test_ctrl_c_stops_following_and_not_the_work(site_with_workers: Cluster, quiet: Site) -> None:
    here = site_with_workers
    following = here.queue_iteration()
    time.sleep(1)
    following.send_signal(signal.SIGINT)
    assert following.wait(20) == 130
    assert "the workers continue" in here.log()
    assert "no worker is running" in here.log()
    assert "Traceback" not in here.log()
    assert here.site.iteration() == "running"


@pytest.mark.slow
def test_a_worker_that_is_stopped_gives_its_shard_back_at_once(site_with_workers: Cluster) -> None:
    here = site_with_workers
    worker = here.start_worker()
    here.queue_iteration(*LONG)
    here.wait_until(lambda: here.site.running("judge"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert here.engines() == []
    assert here.site.statuses("attempt").get("interrupted") == 1
    assert "running" not in here.site.statuses("shard")
    here.start_worker()
    here.wait_until(lambda: here.site.running("judge"))


@pytest.mark.slow
def test_a_limit_of_memory_is_a_readable_failure(tmp_path: Path, running_broker: Broker) -> None:
    limits = {"META_REWARD_ENGINE_MEMORY_MB": "40", "META_REWARD_MAX_ATTEMPTS": "2"}
    with cluster(tmp_path / "site", running_broker, **limits) as here:
        here.start_worker()
        here.queue_iteration()
        here.wait_until(lambda: here.site.iteration() == "failed")
        errors = here.site.rows("select error from experiments_attempt where status = 'failed'")
        assert len(errors) == 2
        assert all("emory" in error or "bad_alloc" in error for (error,) in errors), errors


def disturb(here: Cluster, workers: list[Process], *, seed: int, seconds: float) -> int:
    """Kill workers, engines and the broker at random moments; returns how many."""
    rng = random.Random(seed)
    killed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and here.site.iteration() == "running":
        time.sleep(rng.uniform(2.0, 8.0))
        victim = rng.choice(["worker", "worker", "engine", "broker"])
        if victim == "broker":
            here.broker.kill()
            time.sleep(rng.uniform(0.0, 2.0))
            here.broker.start()
        elif victim == "engine":
            for engine in here.engines()[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    engine.kill()
        else:
            index = rng.randrange(len(workers))
            here.kill_tree(workers[index])
            workers[index] = here.start_worker()
        killed += 1
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("seed, seconds", [(1, 30.0), (2, 240.0)])
def test_random_kills_of_workers_engines_and_broker_change_nothing(
    tmp_path: Path,
    running_broker: Broker,
    quiet: Site,
    seed: int,
    seconds: float,
) -> None:
    generous = {"META_REWARD_MAX_ATTEMPTS": "100"}
    with cluster(tmp_path / "site", running_broker, **generous) as here:
        workers = [here.start_worker(), here.start_worker()]
        here.start_reconciler()
        here.queue_iteration()
        assert disturb(here, workers, seed=seed, seconds=seconds) >= 3
        here.wait_finished()
        assert here.site.digests() == quiet.digests()
        check_rows(here.site)


@pytest.mark.slow
def test_a_small_experiment_does_not_wait_for_a_large_one(
    tmp_path: Path, running_broker: Broker
) -> None:
    """One worker; the small one comes when the large one has begun to judge, and ends before it."""
    with cluster(tmp_path / "site", running_broker, META_REWARD_TURN_SECONDS="1") as here:
        here.start_worker()
        here.queue_iteration("--set", "judge.samples=60", "--set", "prompts_per_shard=1")
        here.wait_until(lambda: here.site.running("judge"))
        options = ("--experiment", "small", "--recipe", str(here.site.recipe))
        here.start("manage.py", "run_iteration", *options, "--queue")
        small = "select i.status from experiments_iteration i join experiments_experiment e "
        small += "on e.id = i.experiment_id where e.name = 'small'"
        here.wait_until(lambda: here.site.rows(small) == [("finished",)])
        assert here.site.iteration() == "running"
        assert count(here.site, "judge", "finished") > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_experiments_at_once_both_progress_and_finish(site_with_workers: Cluster) -> None:
    """Neither waits until the other has ended: their shards end by turns."""
    here = site_with_workers
    for _ in range(2):
        here.start_worker()
    here.wait_until(lambda: len(here.site.rows("select 1 from experiments_worker")) == 2)
    for name in ("alice", "bob"):
        options = ("--experiment", name, "--recipe", str(here.site.recipe), "--queue")
        here.start("manage.py", "run_iteration", *options, "--set", "prompts_per_shard=1")
    here.wait_until(lambda: here.site.statuses("iteration") == {"finished": 2}, seconds=400)
    check_rows(here.site)
    owners = here.site.rows(
        "select i.experiment_id from experiments_attempt a "
        "join experiments_shard s on s.id = a.shard_id "
        "join experiments_stage t on t.id = s.stage_id "
        "join experiments_iteration i on i.id = t.iteration_id "
        "where a.status = 'finished' order by a.finished"
    )
    assert len(owners) == 2 * (5 + 3 * 12)
    assert sum(before != after for before, after in pairwise(owners)) >= 20
