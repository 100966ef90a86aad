"""The list of experiments and the workers: whole, as a region, while something runs and after."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from meta_reward_core.system.command_hint import format_command
from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import (
    HOSTILE,
    HTMX,
    RESTORE,
    add_attempt,
    add_worker,
    count_queries,
    finish,
    get,
    make_private,
    run_judging,
)
from webapp.dashboard import queues
from webapp.experiments.models import Experiment, Iteration, Job, Shard, Stage

pytestmark = pytest.mark.django_db


@pytest.fixture
def running(iteration: Iteration) -> Stage:
    return run_judging(iteration)


def test_a_running_experiment_shows_stage_shards_and_speed(client: Client, running: Stage) -> None:
    """13,400 tokens in 210 seconds: completed shards count, as in the summary."""
    page = get(client)
    assert '<progress value="0.500" max="1"' in page
    assert "1/1 Judge" in page
    assert "2 of 4 shards" in page
    page = get(client, "/experiments/first")
    assert any(f"{speed:,} tokens/s" in page for speed in range(50, 65))


@pytest.mark.parametrize("path", ["/", "/workers"])
@pytest.mark.parametrize(
    "headers, is_whole",
    [({}, True), (HTMX, False), (RESTORE, True), (HTMX | {"HX-Boosted": "true"}, True)],
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
    Experiment.objects.update(status="waiting", target_iteration=2)
    assert "hx-get" in get(client, **HTMX)
    Experiment.objects.update(target_iteration=1)
    assert "hx-get" not in get(client, **HTMX)


def test_an_experiment_at_rest_says_what_it_waits_for(client: Client, iteration: Iteration) -> None:
    Iteration.objects.update(status="finished")
    Experiment.objects.update(status="waiting", target_iteration=1)
    for page in ("/", "/experiments/first"):
        assert "iteration 2 has not been started" in client.get(page).content.decode().lower()
    Experiment.objects.update(target_iteration=2)
    for page in ("/", "/experiments/first"):
        assert "has not been started" not in client.get(page).content.decode()


def test_a_finished_experiment_shows_its_last_figure(client: Client, iteration: Iteration) -> None:
    finish(iteration)
    page = get(client)
    assert "True quality</a>" in page
    assert '<span class="facts of">M1</span> 4.00<span class="facts">+1.00</span>' in page
    finish(iteration, truth=[])
    page = get(client)
    assert "Mean judge score</a>" in page
    assert '<span class="facts of">M0</span> 3.10</td>' in page


def test_names_and_status_narrow_the_list(client: Client, alice: User) -> None:
    for name, status in (("red-1", "failed"), ("red-2", "finished"), ("blue", "failed")):
        Experiment.objects.create(name=name, recipe={}, seed=1, status=status)

    def shown(query: str) -> list[str]:
        page = get(client, f"/?{query}")
        return [name for name in ("red-1", "red-2", "blue") if f"/experiments/{name}" in page]

    assert shown("q=RED") == ["red-1", "red-2"]
    assert shown("status=failed") == ["red-1", "blue"]
    assert shown("q=red&status=failed") == ["red-1"]
    assert shown("status=dreaming") == ["red-1", "red-2", "blue"]
    assert "No experiments match these filters" in get(client, "/?q=green")


def test_pages_keep_the_filter(client: Client, alice: User) -> None:
    for number in range(25):
        Experiment.objects.create(name=f"run-{number:02}", recipe={}, seed=1)
    first, second = get(client, "/?q=run"), get(client, "/?q=run&page=2")
    assert "run-24" in first
    assert "run-00" not in first
    assert "run-00" in second
    assert 'href="?q=run&amp;page=2"' in first
    assert 'href="?q=run&amp;page=1"' in second
    assert "run-24" in get(client, "/?page=nonsense")


def test_a_stranger_does_not_see_a_private_experiment(
    client: Client, experiment: Experiment
) -> None:
    make_private(experiment, make_person("bob", "operator"))
    assert "/experiments/first" not in get(client)


def test_text_of_others_is_never_html(client: Client, running: Stage) -> None:
    Iteration.objects.update(message=HOSTILE)
    Stage.objects.update(title=HOSTILE)
    Experiment.objects.update(recipe={"name": HOSTILE})
    add_worker(name=HOSTILE, host=HOSTILE, queues=HOSTILE, device=HOSTILE)
    for path in (f"/?q={HOSTILE}", "/", "/workers"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in get(client)


def test_the_pages_ask_the_database_as_often_for_many(
    client: Client, running: Stage, alice: User
) -> None:
    add_worker(shard=running.shards.get(index=2))
    get(client)  # a process reads each recipe once
    before = {path: count_queries(client, path) for path in ("/", "/workers")}
    assert before["/"] <= 18
    assert before["/workers"] <= 9
    for number in range(2, 9):
        mine = Experiment.objects.create(
            name=f"more-{number}", owner=alice, recipe={}, seed=1, status="running"
        )
        for turn in range(1, 4):
            stage = run_judging(Iteration.objects.create(experiment=mine, number=turn))
            add_attempt(stage.shards.get(index=3), error="no")
        add_worker(pid=number + 100, shard=stage.shards.get(index=2))
    get(client)
    assert {path: count_queries(client, path) for path in before} == before


def test_a_waiting_experiment_says_that_no_worker_is_up(client: Client, running: Stage) -> None:
    assert "No workers are running" in get(client)
    silent = add_worker(heartbeat=timezone.now() - timedelta(minutes=2))
    assert "No workers are running" in get(client)
    type(silent).objects.filter(pk=silent.pk).update(heartbeat=timezone.now())
    assert "No workers are running" not in get(client)


def test_an_experiment_that_a_command_runs_needs_no_worker(client: Client, running: Stage) -> None:
    Iteration.objects.update(driver="command")
    assert "No workers are running" not in get(client)


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
    assert "hx-get" in get(client, "/workers")  # a shard waits, and will be taken
    Shard.objects.update(status="finished", token=None)
    page = get(client, "/workers")
    assert ">idle<" in page
    assert "No pending work." in page
    assert "hx-get" not in page


def test_a_silent_worker_is_called_silent(client: Client, running: Stage) -> None:
    heard = timezone.now() - timedelta(seconds=100)
    add_worker(shard=Shard.objects.get(index=2), heartbeat=heard)
    page = get(client, "/workers")
    assert ">silent<" in page
    assert "1\u00a0min\u00a040\u00a0s ago" in page
    assert "hx-get" not in page


def waiting_rows(client: Client) -> dict[str, tuple[int, int, int, int]]:
    return {
        row.name: (row.shards, row.running, row.chats, row.jobs)
        for row in client.get("/workers").context["waiting"]
    }


def test_the_workers_page_says_what_waits(
    client: Client, running: Stage, alice: User, experiment: Experiment
) -> None:
    assert waiting_rows(client) == {"first": (1, 1, 0, 0)}
    for kind, status in (("chat", "waiting"), ("chat", "running"), ("chat", "done")):
        token = uuid4() if status == "running" else None
        place(kind, experiment, alice, status=status, token=token)
    place("pause", experiment, alice)
    place("launch", None, alice, experiment_name="second")
    assert waiting_rows(client) == {"first": (1, 1, 2, 1), "second": (0, 0, 0, 1)}
    page = get(client, "/workers")
    assert 'href="/experiments/first"' in page
    assert 'href="/experiments/second"' not in page
    Iteration.objects.update(driver="command")
    assert waiting_rows(client)["first"] == (0, 0, 2, 1)


def place(kind: str, experiment: Experiment | None, by: User, **values: Any) -> Job:
    given = {"experiment_name": str(experiment)} | values
    return Job.objects.create(kind=kind, created_by=by, experiment=experiment, **given)


def test_what_waits_of_a_strangers_private_experiment_is_not_told(
    client: Client, running: Stage, experiment: Experiment
) -> None:
    bob = make_person("bob", "operator")
    make_private(experiment, bob)
    place("launch", None, bob, experiment_name="secret-plan")
    assert waiting_rows(client) == {}


def test_the_workers_page_counts_messages_and_says_when_the_broker_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "read_queue_lengths", lambda: {"gpu": 1234, "cpu": 0})
    assert "1,234" in get(client, "/workers")
    assert "1,234" in get(client, "/workers")
    queues._count_messages_at.cache_clear()
    monkeypatch.setattr(queues, "read_queue_lengths", lambda: None)
    assert "The broker is not responding" in get(client, "/workers")


def test_the_workers_page_says_how_to_begin(client: Client) -> None:
    assert format_command("worker") in get(client, "/workers")


def test_the_script_of_htmx_is_served_from_here(client: Client) -> None:
    assert '<script src="/static/django_htmx/htmx-2.min.js" defer></script>' in get(client)
    answer = client.get("/static/django_htmx/htmx-2.min.js")
    assert answer.status_code == 200
    answer.close()
