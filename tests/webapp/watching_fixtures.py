"""Rows as they stand while an iteration runs, and after it, for the pages that watch."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage, Worker

HTMX = {"HX-Request": "true"}
RESTORE = HTMX | {"HX-History-Restore-Request": "true"}
HOSTILE = (
    "</pre></title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7|add:7 }}\u202e\u200b"
)


def run_judging(iteration: Iteration) -> Stage:
    """A judge stage of four shards by the workers: two finished, one that runs, one that waits."""
    Experiment.objects.filter(pk=iteration.experiment_id).update(status="running")
    Iteration.objects.filter(pk=iteration.pk).update(
        status="running", driver="workers", started=timezone.now()
    )
    stage = add_stage(iteration)
    for index in range(2):
        made = Shard.objects.create(
            stage=stage, index=index, status="finished", counts={"tokens": 700}
        )
        add_attempt(made, status="finished", seconds=100.0, finished=timezone.now())
    begun = Shard.objects.create(
        stage=stage, index=2, status="running", token=uuid4(), tokens=12_000
    )
    add_attempt(begun, status="running", seconds_ago=10)
    Shard.objects.create(stage=stage, index=3)
    return stage


def add_stage(iteration: Iteration, **values: Any) -> Stage:
    given = {"name": "judge", "title": "Judge", "position": 2, "status": "running"}
    return Stage.objects.create(iteration=iteration, **(given | {"shard_count": 4} | values))


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


def finish(iteration: Iteration, **metrics: Any) -> None:
    """Finish an iteration with a summary; its experiment waits for the next."""
    Iteration.objects.filter(pk=iteration.pk).update(
        status="finished", model_out="c" * 64, metrics=summary(iteration.number) | metrics
    )
    Experiment.objects.filter(pk=iteration.experiment_id).update(status="waiting")


def summary(number: int) -> dict[str, Any]:
    return {
        "judge": {"mean": 3.0 + number / 10, "entropy_bits": 2.0, "parse_rate": 1.0},
        "meta_judge": None,
        "pairs": [
            {
                "kind": "actor",
                "pairs": 30,
                "dropped": {"equal_scores": 6},
                "chosen_chars": 80.0,
                "rejected_chars": None,
            }
        ],
        "response_chars": 71.5,
        "score_length_correlation": None,
        "training": {"loss": {"first": 0.69, "last": 0.31}},
        "truth": [
            {
                "subject": "actor",
                "metric": "true_quality",
                "before": 2.0 + number,
                "after": 3.0 + number,
            }
        ],
        "alarms": [],
    }


def get(client: Client, path: str = "/", **headers: str) -> str:
    return client.get(path, headers=headers).content.decode()


def count_queries(client: Client, path: str, **headers: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(path, headers=headers).status_code == 200
    return len(asked)


def make_private(experiment: Experiment, owner: User) -> None:
    Experiment.objects.filter(pk=experiment.pk).update(owner=owner, is_private=True)
