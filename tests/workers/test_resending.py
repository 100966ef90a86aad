"""Messages about shards that wait: which the reconciler takes for lost."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from meta_reward_core.recipes.dataflow import STAGE_SPECS
from tests.workers.test_fair_queue import begin
from webapp.experiments.models import Shard, Stage
from workers import reconciler
from workers.pipeline import dispatch

pytestmark = pytest.mark.django_db


class Broker:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send_task(self, name: str, *, args: list[int], queue: str) -> None:
        assert (name, queue) == ("workers.run_shard", "gpu")
        self.sent += args


def begin_judging(*, shards: int) -> None:
    """An iteration whose judge stage runs, with so many waiting shards."""
    iteration = begin("alice", shards=shards).iteration
    for position, spec in enumerate(STAGE_SPECS):
        if spec.name != "judge":
            status = "finished" if spec.name in ("sample", "generate") else "skipped"
            Stage.objects.create(
                iteration=iteration, name=spec.name, position=position, status=status
            )


def sent_again(
    monkeypatch: pytest.MonkeyPatch, capture: Any, lengths: dict[str, int] | None
) -> int:
    """How many messages a pass sends about shards whose messages are an hour old."""
    broker = Broker()
    monkeypatch.setattr(dispatch, "app", broker)
    monkeypatch.setattr(reconciler, "read_queue_lengths", lambda: lengths)
    Shard.objects.update(sent=timezone.now() - timedelta(hours=1))
    with capture(execute=True):
        reconciler.reconcile()
    return len(broker.sent)


@pytest.mark.parametrize(
    "waiting, length, again",
    [
        pytest.param(300, 300, 0, id="all are in the queue"),
        pytest.param(300, 180, 0, id="workers hold some"),
        pytest.param(300, 140, 300, id="most are missing"),
        pytest.param(300, 0, 300, id="the broker has lost them"),
        pytest.param(1, 50, 1, id="the queue is full of other work"),
    ],
)
def test_old_messages_are_sent_again_unless_they_are_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
    waiting: int,
    length: int,
    again: int,
) -> None:
    """A large stage waits for hours: each of its shards must not be sent every quarter of one."""
    begin_judging(shards=waiting)
    lengths = {"gpu": length, "cpu": 0}
    assert sent_again(monkeypatch, django_capture_on_commit_callbacks, lengths) == again


def test_a_broker_that_does_not_say_is_sent_them_again(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    begin_judging(shards=300)
    assert sent_again(monkeypatch, django_capture_on_commit_callbacks, None) == 300


def test_shards_that_a_stage_has_no_more_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    begin_judging(shards=500)
    Stage.objects.filter(name="judge").update(shard_count=150)
    lengths = {"gpu": 150, "cpu": 0}
    assert sent_again(monkeypatch, django_capture_on_commit_callbacks, lengths) == 0
