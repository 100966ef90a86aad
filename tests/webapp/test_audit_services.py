"""What is done to gates and batches is written down with who, when, what and why."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from meta_reward_core.errors import InputError
from tests.webapp.audit_fixtures import artifacts, audited, batch, browser, carol, dave, draw
from tests.webapp.conftest import make_person
from webapp.activity.models import AUDIT_ACTIONS, Activity
from webapp.audit import services
from webapp.audit.batch_sampling import hash_source_files
from webapp.audit.gate import evaluate_gate, find_override, get_gate_terms
from webapp.audit.models import Batch, Gate, GateOverride
from webapp.audit.services import create_gate_from_recipe
from webapp.experiments.models import Experiment, Iteration

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]

pytestmark = pytest.mark.django_db

AUDITS = "/experiments/scripted/audits"
WANTED = {"min_agreement": "60", "confidence": "90", "min_answers": "40", "on_failure": "wait"}


def said(client: Client, path: str, **values: Any) -> str:
    answer = client.post(path, values, follow=True)
    return " ".join(answer.content.decode().split())


def actions() -> list[tuple[str, str]]:
    rows = Activity.objects.filter(action__in=AUDIT_ACTIONS).order_by("pk")
    return list(rows.values_list("action", "actor_name"))


@pytest.fixture
def gated(client: Client, audited: Experiment) -> Experiment:
    client.post(f"{AUDITS}/gate", WANTED)
    return audited


def test_a_gate_that_is_set_and_tightened_is_written_down(
    client: Client, gated: Experiment
) -> None:
    client.post(f"{AUDITS}/gate", WANTED | {"min_agreement": "70"})
    client.post(f"{AUDITS}/gate", WANTED | {"min_agreement": "70"})
    assert actions() == [("gate_set", "alice"), ("gate_changed", "alice")], "the same is no change"
    changed = Activity.objects.get(action="gate_changed")
    assert (changed.before["min_agreement"], changed.after["min_agreement"]) == (0.6, 0.7)
    page = client.get(AUDITS).content.decode()
    assert "above 60% with 90% confidence, from at least 40 answers" in page, "in the history"
    assert "if not passed: wait for a decision" in page
    assert "above 70% with 90% confidence, from at least 40 answers" in page


@pytest.mark.parametrize("looser", [
    {"min_agreement": "50"}, {"confidence": "80"}, {"min_answers": "39"},
    {"on_failure": "actor_pairs"},
    {"min_agreement": "90", "min_answers": "10"},
])  # fmt: skip
def test_a_gate_is_loosened_only_with_a_reason(
    looser: dict[str, str], client: Client, gated: Experiment
) -> None:
    for reason in ("", "  no  "):
        page = said(client, f"{AUDITS}/gate", **WANTED | looser, reason=reason)
        assert "for loosening or removing the gate" in page
    assert get_gate_terms(Gate.objects.get())["min_agreement"] == 0.6
    assert actions() == [("gate_set", "alice")]
    page = said(client, f"{AUDITS}/gate", **WANTED | looser, reason="the pilot showed enough")
    assert "loosened the gate" in page
    assert "the pilot showed enough" in page
    assert actions()[-1] == ("gate_loosened", "alice")


def test_a_gate_is_removed_only_with_a_reason(client: Client, gated: Experiment) -> None:
    assert "This field is required" in said(client, f"{AUDITS}/gate/remove")
    assert "at least 5 characters" in said(client, f"{AUDITS}/gate/remove", reason="so")
    assert Gate.objects.exists()
    page = said(client, f"{AUDITS}/gate/remove", reason="the audit is done by hand")
    assert not Gate.objects.exists()
    assert "removed the gate" in page
    assert "the audit is done by hand" in page
    said(client, f"{AUDITS}/gate/remove", reason="once more")
    assert Activity.objects.filter(action="gate_removed").count() == 1


def test_neither_code_nor_database_takes_a_loosening_without_a_reason(gated: Experiment) -> None:
    gate = Gate.objects.get()
    before = get_gate_terms(gate)
    gate.min_agreement = 0.1
    alice = User.objects.get(username="alice")
    with pytest.raises(InputError, match="Give a reason"):
        services.write_gate(gate, before=before, by=alice)
    with pytest.raises(InputError, match="Give a reason"):
        services.remove_gate(gated, by=alice, reason="")
    with pytest.raises(IntegrityError), transaction.atomic():
        Activity.objects.create(experiment=gated, action="gate_removed", source="ui")


def test_a_gate_of_the_recipe_is_written_down(audited: Experiment) -> None:
    audited.recipe |= {"audit": {"required": True, "min_agreement": 0.5, "confidence": 0.95,
                                 "answers": 50, "otherwise": "wait"}}  # fmt: skip
    for _ in range(2):
        create_gate_from_recipe(audited)
    assert actions() == [("gate_set", "the recipe")]


def test_closing_and_opening_a_batch_are_written_down(client: Client, batch: Batch) -> None:
    for status in ("closed", "open"):
        client.post(f"/audits/{batch.pk}/close", {"status": status})
    assert actions()[1:] == [("closed", "alice"), ("reopened", "alice")]
    page = client.get(AUDITS).content.decode()
    assert f"reopened a batch: batch {batch.pk}" in page


def test_who_answers_a_batch_is_written_down(client: Client, batch: Batch, dave: User) -> None:
    client.post(f"/audits/{batch.pk}/auditors", {"auditors": [dave.pk]})
    made, changed = Activity.objects.filter(action="assigned").order_by("pk")
    assert (made.before, made.after) == ({"auditors": []}, {"auditors": ["carol", "dave"]})
    assert changed.after == {"auditors": ["dave"]}
    assert "carol, dave" in client.get(AUDITS).content.decode()


def test_the_admin_writes_down_what_is_done_there(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol])
    client = reviewer()
    path = reverse("admin:audit_batch_changelist")
    chosen = {"_selected_action": [batch.pk]}
    client.post(path, chosen | {"action": "assign", "auditor": dave.pk})
    client.post(path, chosen | {"action": "unassign", "auditor": carol.pk})
    for _ in range(2):
        client.post(path, chosen | {"action": "close_batches", "confirmed": "1"})
    client.post(path, chosen | {"action": "open_batches", "confirmed": "1"})
    change = reverse("admin:audit_batch_change", args=[batch.pk])
    client.post(change, {"auditors": [carol.pk]})
    names = [action for action, by in actions() if by == "rita"]
    assert names == ["assigned", "assigned", "closed", "reopened", "assigned"]
    assert Activity.objects.filter(action="assigned").first().after == {"auditors": ["carol"]}  # type: ignore[union-attr]


def test_the_admin_asks_before_it_closes_or_reopens_a_batch(
    audited: Experiment, alice: User, carol: User
) -> None:
    first, second = (draw(audited, by=alice, auditors=[carol], seed=seed) for seed in (1, 2))
    client = reviewer()
    path = reverse("admin:audit_batch_changelist")
    chosen: dict[str, Any] = {"action": "close_batches", "_selected_action": [first.pk, second.pk]}
    asked = client.post(path, chosen).content.decode()
    assert f"Close batches {first.pk} and {second.pk}?" in asked
    assert "12 of 12 answers are missing" in asked
    assert "The results are final." in asked
    change = reverse("admin:audit_batch_change", args=[first.pk])
    assert f"Close batch {first.pk}…" in client.get(change).content.decode()
    from_form = client.post(change, {"_status": "1"}).content.decode()
    assert f"Close batch {first.pk}?" in from_form
    assert 'class="review-danger"' in from_form
    client.post(change, {"status": "closed", "auditors": [carol.pk]})
    assert not Batch.objects.filter(status="closed").exists(), "nothing closes without being asked"
    one = {"action": "close_batches", "_selected_action": [first.pk], "confirmed": "1"}
    assert f"Batch {first.pk} was closed." in said(client, path, **one)
    both = said(client, path, **(chosen | {"confirmed": "1"}))
    assert f"Batch {second.pk} was closed." in both
    assert f"Already closed: batch {first.pk}." in both
    again = client.post(change, {"_status": "1"}).content.decode()
    assert f"Reopen batch {first.pk}?" in again
    assert "The audit gate counts the batch again" in again
    assert Batch.objects.filter(status="closed").count() == 2
    assert f"Already closed: batch {first.pk}." in said(client, path, **one)


def test_the_site_says_what_closing_does(client: Client, batch: Batch) -> None:
    report, path = f"/audits/{batch.pk}", f"/audits/{batch.pk}/close"
    page = client.get(report).content.decode()
    assert f'class="button danger" href="{path}">Close batch {batch.pk}…</a>' in page
    asked = client.get(path).content.decode()
    assert f"Close batch {batch.pk}?" in asked
    assert "12 of 12 answers are missing" in asked
    assert f'class="danger filled">Close batch {batch.pk}</button>' in asked
    assert client.post(path, {}).status_code == 422
    assert Batch.objects.get().status == "open", "nothing closes without a named status"
    done = client.post(path, {"status": "closed"}, follow=True).content.decode()
    assert f"Batch {batch.pk} was closed." in done
    assert f'class="button quiet" href="{path}">Reopen batch {batch.pk}…</a>' in done
    assert "The audit gate counts the batch again" in client.get(path).content.decode()


def test_a_batch_that_two_leads_close_is_not_reopened(client: Client, batch: Batch) -> None:
    path = f"/audits/{batch.pk}/close"
    pages = [client.get(path).content.decode() for _ in range(2)]
    assert all('name="status" value="closed"' in page for page in pages)
    client.post(path, {"status": "closed"})
    second = client.post(path, {"status": "closed"}, follow=True).content.decode()
    assert f"Batch {batch.pk} is already closed." in second
    assert Batch.objects.get().status == "closed"
    assert actions()[1:] == [("closed", "alice")]


def test_auditors_of_a_closed_batch_cannot_be_changed(
    client: Client, batch: Batch, carol: User, dave: User
) -> None:
    client.post(f"/audits/{batch.pk}/auditors", {"auditors": [carol.pk]})
    client.post(f"/audits/{batch.pk}/close", {"status": "closed"})
    refusal = f"Batch {batch.pk} is closed. Reopen it to change its auditors."
    page = client.get(f"/audits/{batch.pk}").content.decode()
    assert f"carol. {refusal}" in page
    assert 'name="auditors"' not in page
    admin = reviewer()
    path = reverse("admin:audit_batch_changelist")
    change = reverse("admin:audit_batch_change", args=[batch.pk])
    fixed = admin.get(change).content.decode()
    assert refusal in fixed
    assert 'name="auditors"' not in fixed
    chosen = {"_selected_action": [batch.pk], "auditor": dave.pk}
    for page in (
        said(client, f"/audits/{batch.pk}/auditors", auditors=[dave.pk]),
        said(admin, path, action="assign", **chosen),
        said(admin, path, action="unassign", **(chosen | {"auditor": carol.pk})),
        said(admin, change, auditors=[dave.pk]),
    ):
        assert refusal in page
        assert "was assigned" not in page
        assert "changed successfully" not in page
    assert list(batch.auditors.all()) == [carol]
    assert not Activity.objects.filter(action="assigned", actor_name="rita").exists()


def reviewer() -> Client:
    person = make_person("rita", "admin")
    person.is_staff = True
    person.save()
    return browser(person)


def test_nobody_changes_or_deletes_what_was_written_down(client: Client, gated: Experiment) -> None:
    act = Activity.objects.get(action="gate_set")
    rita = reviewer()
    User.objects.filter(username="rita").update(is_superuser=True)
    assert "alice" in rita.get(reverse("admin:activity_activity_changelist")).content.decode()
    change = reverse("admin:activity_activity_change", args=[act.pk])
    assert "_save" not in rita.get(change).content.decode()
    assert rita.post(change, {"actor_name": "nobody"}).status_code == 403
    assert rita.post(reverse("admin:activity_activity_delete", args=[act.pk])).status_code == 403
    assert rita.get(reverse("admin:activity_activity_add")).status_code == 403


def test_acts_and_decisions_outlive_experiment_and_person(
    client: Client, gated: Experiment, alice: User
) -> None:
    decide(client)
    gated.delete()
    alice.delete()
    act, made = Activity.objects.get(action="gate_set"), GateOverride.objects.get()
    assert (act.experiment, act.experiment_name, act.actor, act.actor_name) == (
        None,
        "scripted",
        None,
        "alice",
    )
    assert (made.experiment, made.experiment_name, made.created_by_name) == (
        None,
        "scripted",
        "alice",
    )
    rita = reviewer()
    for name in ("activity_activity", "audit_gateoverride"):
        page = rita.get(reverse(f"admin:{name}_changelist")).content.decode()
        assert "scripted" in page
        assert "alice" in page


# Decisions belong to the battles that they were made for.


def decide(client: Client) -> None:
    given = {"iteration": 1, "outcome": "all", "reason": "a trial of the pipeline"}
    assert client.post(f"{AUDITS}/override", given).status_code == 302


def test_battles_that_are_made_again_want_a_decision_of_their_own(
    client: Client, gated: Experiment
) -> None:
    iteration = Iteration.objects.get()
    assert evaluate_gate(iteration).waits
    decide(client)
    made = GateOverride.objects.get()
    assert made.source_sha256 == hash_source_files(gated, 1, "judgments")
    assert not evaluate_gate(iteration).waits
    GateOverride.objects.update(source_sha256="f" * 64)  # as if other battles lay there now
    assert find_override(iteration) is None
    assert "no audit of these battles" in evaluate_gate(iteration).waits
    decide(client)
    assert not evaluate_gate(iteration).waits
    assert GateOverride.objects.count() == 2


def test_nothing_is_decided_about_battles_that_are_not_there(
    client: Client, gated: Experiment
) -> None:
    gated.iterations.get().stages.filter(name="pair_judge").update(status="running")
    answer = client.post(f"{AUDITS}/override", {"iteration": 1, "outcome": "all", "reason": "soon"})
    assert answer.status_code == 422
    assert not GateOverride.objects.exists()


# Who answers blind should not be able to look it up.


def test_whoever_assigns_somebody_who_may_see_results_is_warned(
    client: Client, batch: Batch, carol: User, dave: User
) -> None:
    assert "not guaranteed to be blind" not in client.get(f"/audits/{batch.pk}").content.decode()
    erin = make_person("erin", "auditor")
    erin.groups.add(*make_person("bob", "viewer").groups.all())
    path = f"/audits/{batch.pk}/auditors"
    page = said(client, path, auditors=[carol.pk, erin.pk])
    assert "the meta-judge&#x27;s verdicts: erin." in page
    assert "not guaranteed to be blind" not in said(client, path, auditors=[carol.pk, dave.pk])
    new = {"iteration": 1, "kind": "judgments", "strategy": "certainty", "size": 10, "seed": 1,
           "same_share": 0, "other_share": 0, "adjudicated_items": 0, "min_accuracy": 70,
           "auditors": [erin.pk]}  # fmt: skip
    assert "the meta-judge&#x27;s verdicts: erin." in said(client, f"{AUDITS}/new", **new)
    rita = reviewer()
    chosen = {"_selected_action": [batch.pk], "action": "assign", "auditor": erin.pk}
    page = said(rita, reverse("admin:audit_batch_changelist"), **chosen)
    assert "the meta-judge&#x27;s verdicts: erin." in page
