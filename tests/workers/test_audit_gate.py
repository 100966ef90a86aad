"""The audit's gate: an iteration waits between pairing and training, and so does the next one."""

import random
from typing import Any

import pytest
from django.core.management import CommandError

from tests.workers.installation import Installation
from tests.workers.test_scheduling import HostHere, Queue, hand_over, host, queue
from webapp.audit.making import BatchPlan, make_batch
from webapp.audit.models import Answer, Batch, Gate, Item, Override
from webapp.experiments.models import Experiment, Iteration
from workers import scheduling
from workers.reconciler import reconcile

__all__ = ["HostHere", "host", "queue"]


@pytest.fixture
def held(installation: Installation, queue: Queue) -> Iteration:
    """An iteration that workers have run as far as the gate lets them."""
    iteration = hand_over(installation, until=2)
    Gate.objects.create(experiment=iteration.experiment, least=0.5, confidence=0.95, answers=10)
    queue.work()
    iteration.refresh_from_db()
    return iteration


def audit(iteration: Iteration, **changes: Any) -> Batch:
    plan = BatchPlan("judgments", "uniform", 60, 1, 0, 0, True, True, "")
    return make_batch(iteration.experiment, iteration.number, plan, by=None)


def answer(item: Item, choice: str) -> None:
    Answer.objects.create(item=item, auditor_name="carol", choice=choice)
    Item.objects.filter(pk=item.pk).update(is_answered=True)


def agree(batch: Batch) -> None:
    for item in batch.items.select_related("truth"):
        answer(item, item.truth.facts["forward"] or "tie")


def toss_coins(batch: Batch) -> None:
    """To whom a meta-judge's verdicts are a coin's, they are one."""
    rng = random.Random(1)
    for item in batch.items.all():
        answer(item, rng.choice(("first", "second")))


def stage_statuses(iteration: Iteration) -> dict[str, str]:
    return {stage.name: stage.status for stage in iteration.stages.all()}


def test_without_an_audit_nothing_trains_and_the_page_says_why(held: Iteration) -> None:
    assert stage_statuses(held)["pair_judge"] == "finished"
    assert stage_statuses(held)["train"] == "waiting"
    assert held.status == "running"
    assert "waits before training" in held.finding
    assert "there is no audit of these battles yet" in held.finding
    assert Iteration.objects.count() == 1


def test_a_meta_judge_that_is_a_coin_stays_before_the_gate(held: Iteration, queue: Queue) -> None:
    toss_coins(audit(held))
    reconcile()
    queue.work()
    held.refresh_from_db()
    assert stage_statuses(held)["train"] == "waiting"
    assert "shows" in held.finding
    assert Iteration.objects.count() == 1


def test_a_passed_audit_opens_the_gate_for_its_iteration_alone(
    held: Iteration, queue: Queue
) -> None:
    batch = audit(held)
    for item in batch.items.select_related("truth"):
        facts = item.truth.facts
        item.truth.facts = facts | {"backward": facts["forward"]}
        item.truth.save()
    agree(batch)
    reconcile()
    queue.work()
    held.refresh_from_db()
    assert (held.status, held.finding) == ("finished", "")
    following = Iteration.objects.get(number=2)
    assert following.status == "running"
    assert "audit of iteration 2" in following.finding


def test_too_few_answers_do_not_open_it(held: Iteration, queue: Queue) -> None:
    Gate.objects.update(answers=1000)
    agree(audit(held))
    reconcile()
    held.refresh_from_db()
    assert "of 1000 answers" in held.finding


def test_an_audit_that_is_still_being_answered_does_not_open_it(
    held: Iteration, queue: Queue
) -> None:
    Gate.objects.update(least=0.0, answers=1)
    batch = audit(held)
    first, *rest = batch.items.select_related("truth")
    for item in rest:
        answer(item, item.truth.facts["forward"] or "tie")
    reconcile()
    held.refresh_from_db()
    assert "neither answered whole nor closed" in held.finding
    Batch.objects.update(status="closed")
    reconcile()
    assert stage_statuses(held)["train"] != "waiting"
    assert not first.is_answered


def test_the_newest_audit_decides(held: Iteration, queue: Queue) -> None:
    good, bad = audit(held), audit(held)
    for batch in (good, bad):
        for item in batch.items.select_related("truth"):
            item.truth.facts |= {"forward": "first", "backward": "first"}
            item.truth.save()
            answer(item, "first" if batch == good else "second")
    reconcile()
    held.refresh_from_db()
    assert f"audit {bad.pk} shows 0%" in held.finding


def test_an_audit_of_other_files_does_not_open_it(held: Iteration, queue: Queue) -> None:
    batch = audit(held)
    agree(batch)
    Gate.objects.update(least=0.0)
    Batch.objects.update(source_sha256="f" * 64)
    reconcile()
    held.refresh_from_db()
    assert "no audit of these battles" in held.finding
    assert stage_statuses(held)["train"] == "waiting"


def test_an_override_lets_one_iteration_through(held: Iteration, queue: Queue) -> None:
    Override.objects.create(
        experiment=held.experiment, iteration=1, reason="a trial", by_name="alice"
    )
    scheduling.advance(held)
    queue.work()
    held.refresh_from_db()
    assert held.status == "finished"
    assert Iteration.objects.get(number=2).status == "running"


def test_without_a_gate_nothing_is_asked_for(installation: Installation, queue: Queue) -> None:
    iteration = hand_over(installation)
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "finished"


def test_a_command_cannot_go_round_the_gate(held: Iteration, installation: Installation) -> None:
    assert Experiment.objects.count() == 1
    with pytest.raises(CommandError, match="asks for a passed audit"):
        installation.run_iteration()
