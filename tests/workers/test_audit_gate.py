"""The audit's gate: an iteration waits between pairing and training, and so does the next one."""

import json
import random
import shutil
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError

from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.context import StageResources
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.errors import AuditWaitsError, InputError
from meta_reward_core.planning import engine_loading
from meta_reward_core.runner import run_iteration
from meta_reward_core.tasks.toy import task
from tests.core.review.miniature_battles import NOISE
from tests.webapp.audit_fixtures import answer_by_oracle
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation, UseScript
from tests.workers.miniature_script import RECIPE, MiniatureScript
from tests.workers.test_run_iteration import table_bytes
from tests.workers.test_scheduling import HostHere, Queue, do_nothing, host, queue, queue_iteration
from webapp.audit.batch_report import is_stale, make_report
from webapp.audit.batch_sampling import BatchPlan
from webapp.audit.human_preference_pairs import build_human_pairs
from webapp.audit.models import Answer, Batch, Gate, GateOverride, Item
from webapp.audit.services import create_batch
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Experiment, Iteration
from webapp.notifications.models import Channel, EventType, Notification, Recipient, Subscription
from webapp.notifications.outbox import write_notifications
from workers.engine.client import ShardFailedError, ShardRequest
from workers.pipeline import control, scheduling
from workers.pipeline.open_experiment import open_row
from workers.reconciler import reconcile

__all__ = ["HostHere", "host", "queue"]


@pytest.fixture
def held(installation: Installation, queue: Queue) -> Iteration:
    """An iteration that workers have run as far as the gate lets them."""
    iteration = queue_iteration(installation, target_iteration=2)
    Gate.objects.create(
        experiment=iteration.experiment, min_agreement=0.5, confidence=0.95, min_answers=10
    )
    queue.work()
    iteration.refresh_from_db()
    return iteration


def audit(iteration: Iteration, **changes: Any) -> Batch:
    plan = BatchPlan("judgments", "uniform", 60, 1, 0, 0, True, True, "")
    return create_batch(iteration.experiment, iteration.number, plan, by=None)


def answer(item: Item, choice: str) -> None:
    Answer.objects.create(item=item, auditor_name="carol", choice=choice)
    Item.objects.filter(pk=item.pk).update(is_answered=True)


def agree(batch: Batch) -> None:
    for item in batch.items.select_related("hidden_verdict"):
        answer(item, item.hidden_verdict.facts["forward"] or "tie")


def toss_coins(batch: Batch) -> None:
    """To whom a meta-judge's verdicts are a coin's, they are one."""
    rng = random.Random(1)
    for item in batch.items.all():
        answer(item, rng.choice(("first", "second")))


def test_whoever_wants_to_know_is_told_once_that_it_waits(held: Iteration) -> None:
    owner = User.objects.create_user("olga", email="olga@example.org", is_superuser=True)
    recipient = Recipient.objects.create(user=owner, only_own=False)
    choice = Subscription.objects.create(
        recipient=recipient, event=EventType.WAITS, channel=Channel.EMAIL
    )
    assert write_notifications() == 0, "it waited already when she asked"
    Subscription.objects.filter(pk=choice.pk).update(since=held.started)
    assert write_notifications() == 1
    notice = Notification.objects.get()
    assert "needs attention: iteration 1 needs an audit" in notice.subject
    assert "there is no audit of these battles yet" in notice.text
    assert "Resume it" not in notice.text
    Iteration.objects.filter(pk=held.pk).update(message="waits before training: other words")
    assert write_notifications() == 0


def stage_statuses(iteration: Iteration) -> dict[str, str]:
    return {stage.name: stage.status for stage in iteration.stages.all()}


def test_without_an_audit_nothing_trains_and_the_page_says_why(held: Iteration) -> None:
    assert stage_statuses(held)["pair_judge"] == "finished"
    assert stage_statuses(held)["train"] == "waiting"
    assert (held.status, held.experiment.status) == ("needs_attention", "needs_attention")
    assert "waits before training" in held.message
    assert "there is no audit of these battles yet" in held.message
    assert Iteration.objects.count() == 1


def test_a_meta_judge_that_is_a_coin_stays_before_the_gate(held: Iteration, queue: Queue) -> None:
    toss_coins(audit(held))
    reconcile()
    queue.work()
    held.refresh_from_db()
    assert stage_statuses(held)["train"] == "waiting"
    assert "shows" in held.message
    assert Iteration.objects.count() == 1


def test_a_passed_audit_opens_the_gate_for_its_iteration_alone(
    held: Iteration, queue: Queue
) -> None:
    batch = audit(held)
    for item in batch.items.select_related("hidden_verdict"):
        facts = item.hidden_verdict.facts
        item.hidden_verdict.facts = facts | {"backward": facts["forward"]}
        item.hidden_verdict.save()
    agree(batch)
    reconcile()
    queue.work()
    held.refresh_from_db()
    assert (held.status, held.message) == ("finished", "")
    following = Iteration.objects.get(number=2)
    assert following.status == "needs_attention"
    assert "audit of iteration 2" in following.message


def test_too_few_answers_do_not_open_it(held: Iteration, queue: Queue) -> None:
    Gate.objects.update(min_answers=1000)
    agree(audit(held))
    reconcile()
    held.refresh_from_db()
    assert "of the 1000 required answers" in held.message


def test_an_audit_that_is_still_being_answered_does_not_open_it(
    held: Iteration, queue: Queue
) -> None:
    Gate.objects.update(min_agreement=0.0, min_answers=1)
    batch = audit(held)
    first, *rest = batch.items.select_related("hidden_verdict")
    for item in rest:
        answer(item, item.hidden_verdict.facts["forward"] or "tie")
    reconcile()
    held.refresh_from_db()
    assert "neither fully answered nor closed" in held.message
    Batch.objects.update(status="closed")
    reconcile()
    assert stage_statuses(held)["train"] != "waiting"
    assert not first.is_answered


def test_the_newest_audit_decides(held: Iteration, queue: Queue) -> None:
    good, bad = audit(held), audit(held)
    for batch in (good, bad):
        for item in batch.items.select_related("hidden_verdict"):
            item.hidden_verdict.facts |= {"forward": "first", "backward": "first"}
            item.hidden_verdict.save()
            answer(item, "first" if batch == good else "second")
    reconcile()
    held.refresh_from_db()
    assert f"audit {bad.pk} shows 0%" in held.message


def test_an_audit_of_other_files_does_not_open_it(held: Iteration, queue: Queue) -> None:
    batch = audit(held)
    agree(batch)
    Gate.objects.update(min_agreement=0.0)
    Batch.objects.update(source_sha256="f" * 64)
    reconcile()
    held.refresh_from_db()
    assert "no audit of these battles" in held.message
    assert stage_statuses(held)["train"] == "waiting"


def test_an_override_lets_one_iteration_through(held: Iteration, queue: Queue) -> None:
    GateOverride.objects.create(
        experiment=held.experiment, iteration=1, reason="a trial", created_by_name="alice"
    )
    scheduling.advance_iteration(held)
    queue.work()
    held.refresh_from_db()
    assert held.status == "finished"
    assert Iteration.objects.get(number=2).status == "needs_attention"


def test_without_a_gate_nothing_is_asked_for(installation: Installation, queue: Queue) -> None:
    iteration = queue_iteration(installation)
    queue.work()
    iteration.refresh_from_db()
    assert iteration.status == "finished"


def test_a_command_cannot_go_round_the_gate(held: Iteration, installation: Installation) -> None:
    assert Experiment.objects.count() == 1
    with pytest.raises(CommandError, match="is being run by the workers"):
        installation.run_iteration()


def table(iteration: Iteration, name: str) -> list[dict[str, Any]]:
    files = open_iteration_files(iteration.experiment, iteration.number)
    found: list[dict[str, Any]] = files.read(name).to_pylist()
    return found


def trained(iteration: Iteration) -> dict[str, int]:
    """What the training's manifest counts."""
    manifest = open_iteration_files(iteration.experiment, iteration.number).find_manifest("train")
    assert manifest is not None
    return manifest.counts


def alone(iteration: Iteration) -> None:
    GateOverride.objects.create(
        experiment=iteration.experiment,
        iteration=iteration.number,
        outcome="actor_pairs",
        reason="the meta-judge follows the score",
        created_by_name="alice",
    )


def check_actor_pairs_alone(iteration: Iteration, *, why: str) -> None:
    """The files, the manifest and the summary say that judge pairs stayed out."""
    iteration.refresh_from_db()
    judge, actor = (len(table(iteration, f"{kind}_pairs")) for kind in ("judge", "actor"))
    assert iteration.status == "finished"
    assert judge > 0
    assert (trained(iteration)["rows"], trained(iteration)["withheld"]) == (actor, judge)
    [withheld] = table(iteration, "withheld")
    assert withheld["kind"] == "judge"
    assert why in withheld["reason"]
    files = open_iteration_files(iteration.experiment, iteration.number)
    manifest = json.loads(files.store.read(f"{files.folder}/manifest.json"))
    assert manifest["counts"]["audit"]["withheld_kinds"] == 1
    assert "withheld/part-00000.parquet" in manifest["parts"]
    assert iteration.metrics["audit"]["withheld_pairs"] == judge


def test_a_person_lets_one_iteration_train_on_its_actor_pairs_alone(
    held: Iteration, queue: Queue
) -> None:
    alone(held)
    scheduling.advance_iteration(held)
    queue.work()
    check_actor_pairs_alone(held, why="follows the score (decided by alice)")
    assert Iteration.objects.get(number=2).status == "needs_attention"
    assert "audit of iteration 2" in Iteration.objects.get(number=2).message


def test_a_gate_may_go_on_with_actor_pairs_by_itself_once_an_audit_has_failed(
    held: Iteration, queue: Queue
) -> None:
    Gate.objects.update(on_failure="actor_pairs")
    reconcile()
    assert stage_statuses(held)["train"] == "waiting", "nobody has audited it yet"
    toss_coins(audit(held))
    reconcile()
    queue.work()
    check_actor_pairs_alone(held, why="(decided by the gate)")
    decided = GateOverride.objects.get(iteration=1)
    assert (decided.outcome, decided.created_by_name, decided.created_by) == (
        "actor_pairs",
        "the gate",
        None,
    )
    assert "must show agreement above 50%" in decided.reason


def test_what_was_decided_stands_when_the_training_is_tried_again(
    held: Iteration, queue: Queue, host: HostHere
) -> None:
    def fail_once(request: ShardRequest) -> None:
        if request.stage == "train":
            host.before = do_nothing
            raise ShardFailedError("no memory", kind="TrainingError", retryable=False)

    host.before = fail_once
    alone(held)
    scheduling.advance_iteration(held)
    queue.work()
    held.refresh_from_db()
    assert held.status == "failed"
    Gate.objects.all().delete()
    control.resume_iteration(held.experiment)
    queue.work()
    check_actor_pairs_alone(held, why="follows the score")


GATED = ("--set", "audit.required=true", "--set", "audit.min_answers=10")


def test_a_command_stops_before_training_and_goes_on_when_the_audit_has_passed(
    installation: Installation,
) -> None:
    with pytest.raises(CommandError, match="there is no audit of these battles yet") as caught:
        installation.run_iteration(*GATED)
    assert caught.value.returncode == AuditWaitsError.exit_code == 6
    iteration = Iteration.objects.get()
    assert (iteration.status, stage_statuses(iteration)["train"]) == ("needs_attention", "waiting")
    assert iteration.message.startswith("waits before training: ")
    gate = Gate.objects.get()
    assert (gate.min_answers, gate.on_failure) == (10, "wait")
    batch = audit(iteration)
    for item in batch.items.select_related("hidden_verdict"):
        item.hidden_verdict.facts |= {"forward": "first", "backward": "first"}
        item.hidden_verdict.save()
        answer(item, "first")
    installation.run_iteration(*GATED)
    iteration.refresh_from_db()
    assert (iteration.status, iteration.message) == ("finished", "")
    assert "withheld" not in trained(iteration)
    assert not installation.artifacts.joinpath("mine/iteration-1/withheld").exists()


def test_a_command_trains_on_actor_pairs_alone_and_says_so(installation: Installation) -> None:
    with pytest.raises(CommandError):
        installation.run_iteration(*GATED)
    alone(Iteration.objects.get())
    shown = " ".join(installation.run_iteration(*GATED).split())
    check_actor_pairs_alone(Iteration.objects.get(), why="follows the score")
    assert "judge pairs were withheld from training: the meta-judge follows the score" in shown


def test_the_workers_go_on_with_what_a_command_left_at_the_gate(
    installation: Installation, queue: Queue
) -> None:
    with pytest.raises(CommandError):
        installation.run_iteration(*GATED)
    iteration = Iteration.objects.get()
    alone(iteration)
    control.resume_iteration(iteration.experiment)
    queue.work()
    check_actor_pairs_alone(iteration, why="follows the score")


def test_without_a_database_a_recipe_that_asks_for_an_audit_is_refused(
    installation: Installation,
) -> None:
    with pytest.raises(CommandError):
        installation.run_iteration(*GATED)
    experiment = open_row(Experiment.objects.get())
    resources = StageResources(load_engine=engine_loading.load_engine, scratch=installation.root)
    with pytest.raises(InputError, match="the core alone does not support audits"):
        run_iteration(experiment.build_context(1), resources, CallbackList())


def test_an_iteration_that_is_tried_again_keeps_its_open_batch_and_every_answer(
    installation: Installation, use_script: UseScript
) -> None:
    with pytest.raises(CommandError):
        installation.run_iteration(*GATED)
    iteration = Iteration.objects.get()
    batch = audit(iteration)
    for item in batch.items.all()[:30]:
        answer(item, "first")
    folder = installation.artifacts / "mine/iteration-1"
    (folder / "battles/part-00000.parquet").unlink()
    with pytest.raises(CommandError, match=f"audit {batch.pk} is neither fully answered nor"):
        installation.run_iteration(*GATED)
    assert not is_stale(batch), "the same battles were made again"

    for path in folder.glob("manifests/meta_judge-*.json"):
        path.unlink()
    use_script(lambda conversation, sample, seed: make_fake_reply(conversation, sample, seed + 1))
    with pytest.raises(CommandError, match="there is no audit of these battles yet"):
        installation.run_iteration(*GATED)
    assert is_stale(batch), "other battles were made"
    assert Answer.objects.filter(item__batch=batch).count() == 30
    assert Batch.objects.get().items.count() == 60
    for item in batch.items.all()[30:]:
        answer(item, "first")
    assert make_report(batch).answered == 60, "it can still be answered and read"
    with pytest.raises(CommandError, match="there is no audit of these battles yet"):
        installation.run_iteration(*GATED)


# A whole run in the miniature, before a gate that an oracle keeps.


@pytest.mark.parametrize("level", ["coin", "good"])
def test_an_oracle_at_the_desk_stops_the_run_whose_meta_judge_is_a_coin(
    level: str, installation: Installation, use_script: UseScript
) -> None:
    use_script(MiniatureScript(NOISE[level]))
    installation.recipe.write_text(RECIPE)
    prompts = [{"text": text} for text in task.sample_pool_prompts(40, seed=1)]
    installation.prompts.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, prompts)))
    command = (*GATED, "--prompts", installation.prompts.with_suffix(".jsonl"))
    with pytest.raises(CommandError, match="there is no audit of these battles yet") as caught:
        installation.run_iteration(*command)
    assert caught.value.returncode == AuditWaitsError.exit_code
    iteration = Iteration.objects.get()
    carol = make_person("carol", "auditor")
    plan = BatchPlan("judgments", "certainty", 120, 1, 0, 0, True, True, "")
    batch = create_batch(iteration.experiment, 1, plan, by=None, auditors=[carol])
    answer_by_oracle(batch, carol)
    if level == "good":
        installation.run_iteration(*command)
        assert Iteration.objects.get().status == "finished"
        return
    with pytest.raises(CommandError, match=f"audit {batch.pk} shows") as caught:
        installation.run_iteration(*command)
    assert caught.value.returncode == 6
    iteration.refresh_from_db()
    assert (iteration.status, stage_statuses(iteration)["train"]) == ("needs_attention", "waiting")
    assert iteration.message.startswith("waits before training: ")
    assert not installation.artifacts.joinpath("mine/iteration-1/train").exists()


# Pairs that people preferred, mixed into the next iteration's training.

SHARE = ("--set", "audit.human_pairs_share=0.2")


@pytest.fixture
def preferred(installation: Installation) -> Batch:
    """An audit of the first iteration in which people always preferred the second judgment."""
    installation.run_iteration(*SHARE)
    batch = audit(Iteration.objects.get())
    for item in batch.items.all():
        answer(item, "second")
    return batch


def check_mixed(iteration: Iteration) -> None:
    counts = trained(iteration)
    own = len(table(iteration, "actor_pairs")) + len(table(iteration, "judge_pairs"))
    assert counts["human_offered"] == 60
    assert counts["human"] == int(own * 0.25) > 0, "a fifth of all"
    assert counts["rows"] == own + counts["human"]
    assert iteration.metrics["audit"]["human_share"] == counts["human"] / counts["rows"] <= 0.2


def test_the_next_iteration_mixes_in_what_people_preferred(
    installation: Installation, preferred: Batch
) -> None:
    assert trained(Iteration.objects.get())["human_offered"] == 0
    shown = " ".join(installation.run_iteration(*SHARE).split())
    following = Iteration.objects.get(number=2)
    check_mixed(following)
    assert "are human-preferred judgments from audits of earlier iterations" in shown
    rows = table(following, "human_pairs")
    assert {(row["kind"], row["iteration"]) for row in rows} == {("human", 1)}
    item = preferred.items.select_related("hidden_verdict")[0]
    facts = item.hidden_verdict.facts
    [row] = [row for row in rows
             if row["chosen_judgment_id"] == facts["second_judgment_id"]
             and row["rejected_judgment_id"] == facts["first_judgment_id"]]  # fmt: skip
    assert row["chosen"] == [{"role": "assistant", "content": item.second}]
    assert item.instruction in row["prompt"][0]["content"]


def test_workers_and_a_command_mix_the_same_bytes(
    installation: Installation, preferred: Batch, queue: Queue
) -> None:
    first = Iteration.objects.get().experiment
    files = installation.artifacts / "mine"
    kept = installation.root / "kept"
    shutil.copytree(files, kept)
    control.submit_to_workers(open_row(first), first, target_iteration=2)
    queue.work()
    by_workers = table_bytes(files)
    check_mixed(Iteration.objects.get(number=2))
    Iteration.objects.get(number=2).delete()
    shutil.rmtree(files)
    shutil.copytree(kept, files)
    installation.run_iteration(*SHARE)
    check_mixed(Iteration.objects.get(number=2))
    assert table_bytes(files) == by_workers


def test_answers_that_come_later_change_no_training_that_was_prepared(
    installation: Installation, preferred: Batch, queue: Queue, host: HostHere
) -> None:
    def fail_once(request: ShardRequest) -> None:
        if request.stage == "train":
            host.before = do_nothing
            raise ShardFailedError("no memory", kind="TrainingError", retryable=False)

    host.before = fail_once
    row = preferred.experiment
    assert row is not None
    control.submit_to_workers(open_row(row), row, target_iteration=2)
    queue.work()
    Answer.objects.filter(item__batch=preferred).update(choice="tie")
    control.resume_iteration(row)
    queue.work()
    check_mixed(Iteration.objects.get(number=2))


def test_a_damaged_file_of_human_pairs_is_written_again(
    installation: Installation, preferred: Batch, queue: Queue, host: HostHere
) -> None:
    row = preferred.experiment
    assert row is not None
    path = installation.artifacts / "mine/iteration-2/human_pairs/part-00000.parquet"

    def damage(request: ShardRequest) -> None:
        if request.stage == "train":
            host.before = do_nothing
            path.write_bytes(b"something else")

    host.before = damage
    control.submit_to_workers(open_row(row), row, target_iteration=2)
    queue.work()
    check_mixed(Iteration.objects.get(number=2))


def test_only_what_everybody_prefers_in_complete_audits_is_offered(
    installation: Installation, preferred: Batch
) -> None:
    row = preferred.experiment
    assert row is not None
    first, second, third = preferred.items.all()[:3]
    Answer.objects.filter(item=first).update(choice="tie")
    second.adjudicated = "neither"
    second.save()
    Item.objects.create(batch=preferred, number=61, key=third.key, stratum=third.stratum,
                        probability=1, instruction="", response="", is_swapped=False,
                        original=third, repeat_kind="other")  # fmt: skip
    answer(Item.objects.get(number=61), "first")
    assert len(build_human_pairs(row, before=2)) == 57
    assert build_human_pairs(row, before=1) == []
    cut_off = preferred.items.select_related("hidden_verdict").all()[5].hidden_verdict
    cut_off.facts |= {"cut_off_first": False, "cut_off_second": True}
    cut_off.save()
    assert len(build_human_pairs(row, before=2)) == 56, "the preferred one was cut off"
    cut_off.facts |= {"cut_off_first": True, "cut_off_second": False}
    cut_off.save()
    assert len(build_human_pairs(row, before=2)) == 57, "the other one was"
    other = audit(Iteration.objects.get())
    for item in other.items.all()[:59]:
        answer(item, "first")
    assert len(build_human_pairs(row, before=2)) == 57, "the other one is not complete"
    Batch.objects.filter(pk=other.pk).update(status="closed")
    assert len(build_human_pairs(row, before=2)) <= 4, "two batches contradict each other"
    Batch.objects.update(source_sha256="f" * 64)
    assert build_human_pairs(row, before=2) == []
