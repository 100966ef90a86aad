"""The pages that show progress: whole, as a region, while something runs and afterwards."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage, Worker

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def running(iteration: Iteration) -> Stage:
    """A judge stage of four shards: two finished, one that runs, one that waits."""
    Experiment.objects.update(status="running")
    Iteration.objects.update(status="running", driver="workers", started=timezone.now())
    return add_stage(iteration)


def add_stage(iteration: Iteration) -> Stage:
    stage = Stage.objects.create(
        iteration=iteration,
        name="judge",
        title="Judge",
        position=2,
        status="running",
        shard_count=4,
    )
    for index in range(2):
        Shard.objects.create(stage=stage, index=index, status="finished", counts={"tokens": 700})
    begun = Shard.objects.create(
        stage=stage, index=2, status="running", token=uuid4(), tokens=12_000
    )
    add_attempt(begun, status="running", seconds_ago=10)
    Shard.objects.create(stage=stage, index=3)
    return stage


def add_attempt(shard: Shard, number: int = 1, seconds_ago: float = 60, **values: Any) -> Attempt:
    started = timezone.now() - timedelta(seconds=seconds_ago)
    given = {"status": "failed", "worker": "host-1", "pid": 71} | values
    return Attempt.objects.create(
        shard=shard, number=number, token=uuid4(), started=started, **given
    )


def add_worker(**values: Any) -> Worker:
    now = timezone.now()
    given = {"name": "worker-7@host-1", "host": "host-1", "pid": 7, "queues": "cpu,gpu"}
    times = {"since": now, "started": now, "heartbeat": now}
    return Worker.objects.create(**(given | times | values))


def get(client: Client, path: str = "/", **headers: str) -> str:
    return client.get(path, headers=headers).content.decode()


def test_a_running_stage_shows_shards_tokens_and_speed(client: Client, running: Stage) -> None:
    """Two finished shards of 700 tokens; 12,000 tokens in 10 seconds are 1,200 a second."""
    page = get(client)
    assert '<progress value="2" max="4"' in page
    assert "2 of 4 shards" in page
    assert "1,400 tokens" in page
    assert any(f"{speed:,} tokens/s" in page for speed in range(1100, 1201))


@pytest.mark.parametrize("path", ["/", "/workers"])
@pytest.mark.parametrize(
    "headers, is_whole",
    [
        ({}, True),
        (HTMX, False),
        (HTMX | {"HX-History-Restore-Request": "true"}, True),
        (HTMX | {"HX-Boosted": "true"}, True),
    ],
)
def test_htmx_gets_the_region_alone_and_others_the_page(
    client: Client, running: Stage, path: str, headers: dict[str, str], is_whole: bool
) -> None:
    answer = client.get(path, headers=headers)
    page = answer.content.decode()
    assert ("<html" in page) == is_whole
    assert page.count('-list"') == 1
    assert "HX-Request" in answer.headers["Vary"]
    assert "HX-History-Restore-Request" in answer.headers["Vary"]


def test_the_region_asks_again_while_something_runs(client: Client, running: Stage) -> None:
    region = get(client, "/?page=1", **HTMX)
    assert 'hx-get="/?page=1" hx-trigger="every 2s"' in region
    assert 'http-equiv="refresh"' in get(client)  # and without JavaScript the page does


@pytest.mark.parametrize("status", ["waiting", "finished", "failed", "no_pairs", "cancelled"])
def test_the_region_stops_asking_by_itself(client: Client, running: Stage, status: str) -> None:
    Experiment.objects.update(status=status)
    assert "hx-get" not in get(client, **HTMX)
    assert 'http-equiv="refresh"' not in get(client)


def test_it_goes_on_asking_between_two_iterations_of_the_workers(
    client: Client, iteration: Iteration
) -> None:
    Iteration.objects.update(status="finished")
    Experiment.objects.update(status="waiting", until=2)
    assert "hx-get" in get(client, **HTMX)
    Experiment.objects.update(until=1)
    assert "hx-get" not in get(client, **HTMX)


def test_a_failure_shows_the_end_of_what_was_said(client: Client, running: Stage) -> None:
    error = "\n".join(f"line {number}" for number in range(1000))
    shard = running.shards.get(index=3)
    add_attempt(shard, error=error, finished=timezone.now())
    page = get(client)
    assert "Judge, shard 3, attempt 1: failed on host-1 (process 71)" in page
    assert "line 999</pre>" in page
    assert "line 991" not in page


def test_the_last_three_failures_of_each_iteration_are_shown(
    client: Client, running: Stage, experiment: Experiment
) -> None:
    other = add_stage(Iteration.objects.create(experiment=experiment, number=2))
    for number in range(1, 8):
        add_attempt(running.shards.get(index=3), number, error=f"first {number}")
    add_attempt(other.shards.get(index=3), error="second")
    page = get(client)
    assert [f"first {number}" in page for number in range(1, 8)] == [False] * 4 + [True] * 3
    assert "second" in page


def test_a_finished_iteration_keeps_quiet_about_its_stages_once_there_is_a_later_one(
    client: Client, running: Stage, experiment: Experiment
) -> None:
    Iteration.objects.update(status="finished")
    assert "2 of 4 shards" in get(client)
    Iteration.objects.create(experiment=experiment, number=2)
    assert "2 of 4 shards" not in get(client)


def test_text_of_others_is_never_html(client: Client, running: Stage) -> None:
    Iteration.objects.update(finding=HOSTILE)
    Stage.objects.update(title=HOSTILE)
    add_attempt(running.shards.get(index=3), error=HOSTILE, worker=HOSTILE)
    add_worker(name=HOSTILE, host=HOSTILE, queues=HOSTILE, device=HOSTILE)
    for path in ("/", "/workers"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_the_pages_ask_the_database_as_often_for_many(
    client: Client, running: Stage, alice: User
) -> None:
    add_worker(shard=running.shards.get(index=2))
    before = {path: count_queries(client, path) for path in ("/", "/workers")}
    assert before["/"] <= 11
    assert before["/workers"] <= 1
    for number in range(2, 9):
        mine = Experiment.objects.create(
            name=f"more-{number}", owner=alice, recipe={}, seed=1, status="running"
        )
        for turn in range(1, 4):
            stage = add_stage(Iteration.objects.create(experiment=mine, number=turn))
            add_attempt(stage.shards.get(index=3), error="no")
        add_worker(pid=number + 100, shard=stage.shards.get(index=2))
    assert {path: count_queries(client, path) for path in before} == before


def count_queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        client.get(path)
    return len(asked)


def test_experiments_come_ten_to_a_page(client: Client, alice: User) -> None:
    for number in range(12):
        Experiment.objects.create(name=f"run-{number:02}", recipe={}, seed=1)
    first, second = get(client), get(client, "/?page=2")
    assert "run-11" in first
    assert "run-01" not in first
    assert "run-01" in second
    assert 'href="?page=2"' in first
    assert 'href="?page=1"' in second
    assert "run-11" in get(client, "/?page=nonsense")


def test_a_waiting_experiment_says_that_no_worker_is_up(client: Client, running: Stage) -> None:
    assert "No worker is up" in get(client)
    silent = add_worker(heartbeat=timezone.now() - timedelta(minutes=2))
    assert "No worker is up" in get(client)
    Worker.objects.filter(pk=silent.pk).update(heartbeat=timezone.now())
    assert "No worker is up" not in get(client)


def test_an_experiment_that_a_command_runs_needs_no_worker(client: Client, running: Stage) -> None:
    Iteration.objects.update(driver="command")
    assert "No worker is up" not in get(client)


def test_the_workers_page_says_what_each_does(client: Client, running: Stage) -> None:
    add_worker(shard=running.shards.get(index=2), device="cuda:0")
    page = get(client, "/workers")
    assert "worker-7@host-1" in page
    assert "host-1, process 7" in page
    assert "cpu, gpu" in page
    assert "cuda:0" in page
    assert "first iteration 1 judge shard 2" in page
    assert "hx-get" in page


def test_the_workers_page_rests_when_none_works(client: Client, running: Stage) -> None:
    add_worker()
    page = get(client, "/workers")
    assert ">nothing<" in page
    assert "hx-get" not in page


def test_a_silent_worker_is_called_silent(client: Client, running: Stage) -> None:
    heard = timezone.now() - timedelta(seconds=100)
    add_worker(shard=running.shards.get(index=2), heartbeat=heard)
    page = get(client, "/workers")
    assert ">silent<" in page
    assert "100 s ago" in page
    assert "hx-get" not in page


def test_the_workers_page_says_how_to_begin(client: Client) -> None:
    assert "make worker" in get(client, "/workers")


def test_the_script_of_htmx_is_served_from_here(client: Client) -> None:
    assert '<script src="/static/django_htmx/htmx-2.min.js" defer></script>' in get(client)
    answer = client.get("/static/django_htmx/htmx-2.min.js")
    assert answer.status_code == 200
    answer.close()
