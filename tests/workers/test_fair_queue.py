"""Several experiments share the workers: which shard a message buys."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.sql import compiler
from django.utils import timezone
from pytest_django.fixtures import Settings

from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.schema import Recipe
from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage, Worker
from workers.pipeline import fair_queue, shard_claims

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_served", None)


def begin(name: str, *, shards: int, stage: str = "judge") -> Stage:
    """An experiment of which one stage runs, with so many waiting shards."""
    row = Experiment.objects.create(name=name, recipe={}, seed=1, status="running")
    iteration = Iteration.objects.create(
        experiment=row, number=1, status="running", driver="workers", started=timezone.now()
    )
    made = Stage.objects.create(
        iteration=iteration, name=stage, position=2, status="running", shard_count=shards
    )
    sent = timezone.now()
    Shard.objects.bulk_create(Shard(stage=made, index=index, sent=sent) for index in range(shards))
    return made


def take(named: Shard) -> Shard:
    claimed = fair_queue.claim_next_shard(named)
    assert claimed is not None
    return claimed[0]


def finish(shard: Shard) -> None:
    attempt = shard.attempts.get(status="running")
    assert shard_claims.finish_attempt(attempt, counts={}, seconds=1.0)


def names(shards: list[Shard]) -> list[str]:
    return [shard.stage.iteration.experiment.name for shard in shards]


def test_alone_an_experiment_gets_the_shard_that_the_message_names() -> None:
    stage = begin("alice", shards=5)
    named = stage.shards.get(index=3)
    assert take(named) == named


def test_a_message_about_a_shard_that_is_done_buys_one_that_waits() -> None:
    stage = begin("alice", shards=2)
    first = stage.shards.get(index=0)
    finish(take(first))
    assert take(first).index == 1
    assert fair_queue.claim_next_shard(first) is None


def test_two_workers_serve_two_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = begin("alice", shards=4), begin("bob", shards=4)
    first = take(alice.shards.get(index=0))
    monkeypatch.setattr(fair_queue, "_served", None)  # the other worker
    second = take(alice.shards.get(index=1))
    assert names([first, second]) == ["alice", "bob"]
    assert bob.shards.filter(status="running").count() == 1


def test_a_worker_stays_with_an_experiment_for_a_turn(settings: Settings) -> None:
    settings.META_REWARD_TURN_SECONDS = 1000.0
    alice = begin("alice", shards=3)
    served = [take(alice.shards.get(index=0))]
    finish(served[0])
    bob = begin("bob", shards=3)
    for index in (1, 2):
        served.append(take(bob.shards.get(index=index)))
        finish(served[-1])
    served.append(take(bob.shards.get(index=0)))
    assert names(served) == ["alice", "alice", "alice", "bob"]


def test_after_a_turn_the_one_that_waited_longest_comes(settings: Settings) -> None:
    settings.META_REWARD_TURN_SECONDS = 0.0
    alice, _ = begin("alice", shards=3), begin("bob", shards=3)
    served = []
    for index in (0, 1, 2, 0, 1, 2):
        served.append(take(alice.shards.get(index=index)))
        finish(served[-1])
    assert names(served) == ["alice", "bob", "alice", "bob", "alice", "bob"]


def test_a_message_of_one_queue_buys_nothing_of_another() -> None:
    cpu = begin("alice", shards=1, stage="pair_actor")
    begin("bob", shards=1, stage="judge")
    finish(take(cpu.shards.get()))
    assert fair_queue.claim_next_shard(cpu.shards.get()) is None


def test_shards_beyond_what_a_stage_has_now_are_left_alone() -> None:
    stage = begin("alice", shards=2)
    Stage.objects.update(shard_count=1)
    finish(take(stage.shards.get(index=0)))
    assert fair_queue.claim_next_shard(stage.shards.get(index=0)) is None


def test_a_claim_does_not_read_every_shard_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 15,625 of them a claim would take longer than some shards."""
    alice, _ = begin("alice", shards=100), begin("bob", shards=100)
    read = 0
    fetch = compiler.cursor_iter

    def fetch_and_count(*arguments: Any) -> Iterator[Sequence[Any]]:
        nonlocal read
        for rows in fetch(*arguments):
            read += len(rows)
            yield rows

    monkeypatch.setattr(compiler, "cursor_iter", fetch_and_count)
    take(alice.shards.get(index=0))
    assert 0 < read < 30


def finish_in(stage: Stage, seconds: float, *, shards: int, calls: str) -> None:
    """Finish the first shards of a stage, each after so many seconds."""
    now = timezone.now()
    stage.shards.filter(index__lt=shards).update(
        status="finished", counts={calls: 10, "tokens": 100}
    )
    for shard in stage.shards.filter(status="finished"):
        Attempt.objects.create(
            shard=shard, number=1, status="finished", started=now, seconds=seconds, pid=1,
            token=uuid4(),
        )  # fmt: skip


def test_engines_work_ahead_where_that_ends_the_stages_sooner() -> None:
    """20 shards on 8 engines. A prompt has 10 responses, 50 judgments and 20 battles of 10 tokens.

    At 100, 500 and 50 tokens a second these take 1 s, 1 s and 4 s.
    """
    values = {
        "name": "long", "prompts_per_shard": 1, "sample": {"prompts": 20},
        "actor": {"samples": 10}, "judge": {"samples": 5}, "meta_judge": {"max_judgments": 5},
    }  # fmt: skip
    judge = begin("alice", shards=20)
    Experiment.objects.update(recipe=canonicalize_recipe(Recipe.model_validate(values)))
    now = timezone.now()
    Worker.objects.bulk_create(
        Worker(name="w", host="h", pid=pid, queues="gpu,cpu", since=now, started=now, heartbeat=now)
        for pid in range(8)
    )
    stages = {"generate": judge, "judge": judge}
    for position, name in ((1, "generate"), (4, "meta_judge")):
        stages[name] = Stage.objects.create(
            iteration=judge.iteration, name=name, position=position, status="running",
            shard_count=20,
        )  # fmt: skip
        Shard.objects.bulk_create(Shard(stage=stages[name], index=k, sent=now) for k in range(20))
    finish_in(stages["generate"], 1.0, shards=20, calls="completions")
    finish_in(judge, 0.2, shards=12, calls="judgments")
    assert fair_queue._choose_engines_ahead(judge.iteration) == 0, "battles are not measured"
    finish_in(stages["meta_judge"], 2.0, shards=1, calls="battles")
    ahead = fair_queue._choose_engines_ahead(judge.iteration)
    assert ahead == 6
    served = [take(judge.shards.get(index=12)).stage.name for _ in range(8)]
    assert served == ["meta_judge"] * ahead + ["judge"] * (8 - ahead)
