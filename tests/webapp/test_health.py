"""What the installation says of itself: health that tells the truth, figures for Prometheus."""

import re
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from tests.services import Broker
from tests.webapp.conftest import make_person
from webapp import health
from webapp.experiments.models import Attempt, Driver, Iteration, Shard, Stage, Worker
from workers.ops.host import get_machine_name
from workers.pipeline.dispatch import list_empty_queues

pytestmark = pytest.mark.django_db
WATCHER = {"Authorization": "Bearer watch me"}


@pytest.fixture(autouse=True)
def _watched(settings: Settings) -> None:
    settings.META_REWARD_METRICS_TOKEN = "watch me"


@pytest.fixture
def broker(running_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(current_app.conf, "broker_url", running_broker.url)
    monkeypatch.setattr(current_app.conf, "broker_read_url", running_broker.url)
    monkeypatch.setattr(current_app.conf, "broker_write_url", running_broker.url)
    return running_broker


@pytest.fixture
def running(iteration: Iteration) -> Shard:
    """A shard that a worker has held for ten seconds."""
    Iteration.objects.update(status="running", driver=Driver.WORKERS)
    stage = Stage.objects.create(
        iteration=iteration,
        name="judge",
        title="Judge",
        position=2,
        status="running",
        shard_count=2,
    )
    token = "0" * 32
    shard = Shard.objects.create(
        stage=stage, index=0, status="running", token=token, tokens=500,
        lease_until=timezone.now() + timedelta(seconds=30),
    )  # fmt: skip
    Shard.objects.create(stage=stage, index=1)
    began = timezone.now() - timedelta(seconds=10)
    Attempt.objects.create(shard=shard, number=1, token=token, started=began, worker="gpu-1", pid=1)
    return shard


def make_worker(*, silent: float = 0.0, host: str = "gpu-1") -> Worker:
    now = timezone.now()
    return Worker.objects.create(
        name='w"1\\', host=host, pid=1, queues="gpu", since=now, started=now,
        heartbeat=now - timedelta(seconds=silent),
    )  # fmt: skip


def report() -> tuple[int, Any]:
    answer = Client().get("/healthz/report", headers=WATCHER)
    return answer.status_code, answer.json()


def metrics() -> dict[str, float]:
    text = Client().get("/metrics", headers=WATCHER).content.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("path", ["/metrics", "/healthz/report"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic watch me", "Bearer ünd"])
def test_only_who_shows_the_token_may_watch(path: str, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    answer = Client().get(path, headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "watch me" not in answer.content.decode()


def test_without_a_token_nobody_but_admins_may_watch(settings: Settings, broker: Broker) -> None:
    settings.META_REWARD_METRICS_TOKEN = ""
    assert Client().get("/metrics", headers={"Authorization": "Bearer "}).status_code == 401
    client = Client()
    client.force_login(make_person("ada", "admin"))
    assert client.get("/metrics").status_code == 200


def test_all_is_well_while_nothing_is_asked_for(broker: Broker) -> None:
    status, found = report()
    assert (status, found["problems"]) == (200, [])
    assert found["queues"] == {"gpu": 0, "cpu": 0}


@pytest.mark.parametrize(
    "embedded, way", [(True, "manage.py serve`"), (False, "at CELERY_BROKER_URL")]
)
def test_a_broker_that_died_is_told(
    broker: Broker, settings: Settings, *, embedded: bool, way: str
) -> None:
    settings.META_REWARD_BROKER_EMBEDDED = embedded
    assert report()[0] == 200
    broker.kill()
    status, found = report()
    assert (status, found["broker"]) == (503, False)
    [problem] = found["problems"]
    assert problem.startswith("the broker does not respond: ")
    assert way in problem
    assert metrics()["meta_reward_broker_up"] == 0
    assert Client().get("/healthz").status_code == 200


def test_a_database_that_died_or_lacks_tables_is_told(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_migrated", [])
    MigrationRecorder.Migration.objects.filter(app="people").delete()
    answer = Client().get("/healthz")
    assert (answer.status_code, b"migrate" in answer.content) == (503, True)

    class Gone:
        def cursor(self) -> None:
            raise DatabaseError("gone")

    monkeypatch.setattr(health, "connection", Gone())
    assert Client().get("/healthz").status_code == 503
    status, found = report()
    assert (status, found["database"]) == (503, False)
    assert Client().get("/livez").status_code == 200


def test_work_without_workers_and_silent_workers_are_told(broker: Broker, running: Shard) -> None:
    assert "without a worker" in report()[1]["problems"][0]
    worker = make_worker()
    assert report() == (200, report()[1])
    Worker.objects.filter(pk=worker.pk).update(heartbeat=timezone.now() - timedelta(seconds=40))
    assert report()[1]["problems"][0] == "1 worker(s) stopped sending heartbeats"


def test_work_that_nobody_takes_is_told(broker: Broker, running: Shard) -> None:
    make_worker()
    Shard.objects.filter(index=1).update(sent=timezone.now() - timedelta(minutes=3))
    assert report()[0] == 200, "a busy worker is no fault"
    Shard.objects.filter(index=0).update(lease_until=timezone.now() - timedelta(minutes=3))
    assert "not being processed" in report()[1]["problems"][0]


def test_the_figures_count_what_the_rows_say(broker: Broker, running: Shard, alice: User) -> None:
    make_worker(silent=7)
    Attempt.objects.create(
        shard=Shard.objects.get(index=1), number=1, token="1" * 32, status="lost", worker="gpu-2",
        started=timezone.now(), pid=1,
    )  # fmt: skip
    with current_app.connection_for_write() as connection:
        current_app.send_task("workers.advance", args=[0], queue="cpu", connection=connection)
    found = metrics()
    of = 'experiment="first",iteration="1",stage="judge"'
    assert found['meta_reward_queue_messages{queue="cpu"}'] == 1
    shards = {name: value for name, value in found.items() if "stage_shards{" in name}
    assert sum(shards.values()) == 2
    assert all(set(of.split(",")) <= set(re.split(r"[{},]", name)) for name in shards)
    assert found['meta_reward_attempts_total{stage="judge",status="lost"}'] == 1
    assert found['meta_reward_tokens_per_second{stage="judge"}'] == pytest.approx(50, rel=0.2)
    silent = found['meta_reward_worker_silent_seconds{host="gpu-1",worker="w\\"1\\\\"}']
    assert silent == pytest.approx(7, abs=3)
    assert found['meta_reward_account_events_total{kind="account_made"}'] == 1


def test_the_memory_of_a_gpu_is_told_and_a_cpu_has_none(broker: Broker) -> None:
    make_worker()
    name = 'meta_reward_worker_device_memory_bytes{host="gpu-1",worker="w\\"1\\\\"}'
    assert name not in metrics()
    Worker.objects.update(device_bytes=70_000_000_000)
    assert metrics()[name] == 70_000_000_000


def test_every_line_has_the_form_that_prometheus_reads(broker: Broker, running: Shard) -> None:
    make_worker()
    text = Client().get("/metrics", headers=WATCHER).content.decode()
    label = r'[a-z_]+="(\\.|[^"\\\n])*"'
    line = re.compile(
        rf"# (HELP|TYPE) meta_reward_\w+ .+|meta_reward_\w+(\{{{label}(,{label})*\}})? [-+.e\d]+"
    )
    assert text.endswith("\n")
    assert [one for one in text.splitlines() if not line.fullmatch(one)] == []


def test_the_command_says_the_same_by_its_exit_code(
    broker: Broker, running: Shard, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="without a worker"):
        call_command("health")
    with pytest.raises(CommandError, match="no worker of"):
        call_command("health", "--worker")
    make_worker(host=get_machine_name())
    call_command("health")
    call_command("health", "--worker")
    assert capsys.readouterr().out.endswith("ok\n")


def test_a_queue_with_messages_is_not_empty(broker: Broker) -> None:
    assert list_empty_queues() == {"gpu", "cpu"}
    with current_app.connection_for_write() as connection:
        current_app.send_task("workers.advance", args=[0], queue="cpu", connection=connection)
    assert list_empty_queues() == {"gpu"}
    broker.kill()
    assert list_empty_queues() == frozenset()
