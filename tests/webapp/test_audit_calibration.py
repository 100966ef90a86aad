"""Items with known answers, repeats that somebody can answer, and items that a user picks."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from meta_reward_core.errors import ArtifactError, InputError
from tests.webapp.audit_fixtures import (
    artifacts,
    audited,
    batch,
    browser,
    carol,
    dave,
    draw,
    record,
)
from tests.webapp.conftest import make_person
from webapp.audit import annotation_queue
from webapp.audit.adjudication import Decision, adjudicate_item
from webapp.audit.annotation_queue import AnswerInput, count_stranded_repeats
from webapp.audit.auditor_report import find_own_quality, make_auditor_report
from webapp.audit.batch_report import make_report
from webapp.audit.batch_sampling import BatchPlan, KnownAnswer, pick_items
from webapp.audit.exports import export_batch
from webapp.audit.gate import evaluate_gate
from webapp.audit.human_preference_pairs import build_human_pairs
from webapp.audit.known_items import read_known_answers
from webapp.audit.models import Answer, Batch, Gate, HiddenVerdict, Item, RepeatKind
from webapp.audit.pooled_report import pool_iteration
from webapp.audit.services import add_picked_items, assign_auditors, request_batch, set_status
from webapp.experiments.models import Experiment, Job
from workers.jobs.draw_audit_batch import create_audit_batch

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]

pytestmark = pytest.mark.django_db

KNOWN = tuple(
    KnownAnswer(
        f"Known prompt {n}", "An answer.", f"Good {n}. Score: 5", f"Poor {n}. Score: 1", "first"
    )
    for n in range(6)
)


def give(item: Item, person: User, choice: str) -> None:
    given = AnswerInput(choice, None, 2, (), "", 4.0)
    assert annotation_queue.submit_answer(item, person, given)


def answer_all(batch: Batch, person: User, *, known: str, others: str = "tie") -> list[str]:
    """Answer everything that is put before a person; return the kinds of items in order."""
    kinds = []
    while (item := annotation_queue.lease_next_item(batch, person)) is not None:
        kinds.append(item.repeat_kind)
        give(item, person, known if item.repeat_kind == RepeatKind.KNOWN else others)
    return kinds


def test_each_auditor_answers_the_known_items_first_and_is_measured_by_them(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], known_answers=KNOWN, shows_quality=True)
    assign_auditors(batch, [carol, dave], by=alice)
    assign_auditors(batch, [carol, dave], by=alice)
    kinds = answer_all(batch, carol, known="first")
    assert kinds[:6] == ["known"] * 6
    assert "known" not in kinds[6:]
    progress = annotation_queue.compute_progress(batch, dave)
    assert (progress.total, progress.others) == (18, 12), "carol's known items are her own"
    assert answer_all(batch, dave, known="second") == ["known"] * 6
    found = {one.name: one for one in make_auditor_report(batch).auditors}
    assert (found["carol"].known_accuracy.value, found["carol"].known_accuracy.count) == (1.0, 6)
    assert found["dave"].known_accuracy.value == 0.0
    assert (found["carol"].is_flagged, found["dave"].is_flagged) == (False, True)
    Answer.objects.update(revealed=timezone.now())
    own = find_own_quality(batch, carol)
    assert own is not None
    assert own.known_accuracy.count == 6
    assert own == found["carol"]
    report = make_report(batch)
    assert (report.items, report.answered, report.conflicts) == (12, 12, 0)
    page = browser(carol).get(f"/audits/{batch.pk}/annotate").content.decode()
    assert "Known items correct" in page
    assert "6 items)" in page
    assert browser(alice).get(f"/audits/{batch.pk}").content.decode().count("Known items correct")


def test_what_is_revealed_of_a_known_item_is_its_answer(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], known_answers=KNOWN[:1])
    item = annotation_queue.lease_next_item(batch, carol)
    assert item is not None
    give(item, carol, "second")
    client = browser(carol)
    client.post(f"/audits/{batch.pk}/items/{item.number}/reveal")
    page = client.get(f"/audits/{batch.pk}/items/{item.number}").content.decode()
    right = "B" if item.is_swapped else "A"
    assert "Known answer" in page
    assert f"judgment {right} is better" in page


def test_adjudicated_items_of_earlier_batches_become_known_ones(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    first = draw(audited, by=alice, auditors=[carol], seed=1)
    lead = make_person("lena", "lead")
    for item in first.items.order_by("number")[:3]:
        assert adjudicate_item(item, Decision("second", "Names the error.", 0), by=lead)
    second = draw(audited, by=alice, auditors=[dave], seed=2, adjudicated_items=2)
    known = list(second.known_items.all())
    drawn = set(second.items.filter(repeat_kind="").values_list("key", flat=True))
    assert 0 < len(known) <= 2
    assert {one.answer for one in known} == {"second"}
    assert not {one.source.key for one in known if one.source} & drawn


def test_a_file_of_known_answers_is_read_row_by_row(batch: Batch, carol: User, alice: User) -> None:
    for item in list(batch.items.all())[:2]:
        annotation_queue.lease_next_item(batch, carol)
        Item.objects.filter(pk=item.pk).update(holder=carol)
        give(item, carol, "first")
    exported = export_batch(batch, "csv").content
    found, left_out = read_known_answers("answers.csv", exported, "judgments")
    assert ([one.answer for one in found], left_out) == (["first", "first"], [])
    row = {"instruction": "Say hi", "response": "Hi", "first": "a", "second": "b"}
    rows: list[Any] = [
        row | {"answer": "A"}, row | {"answer": "A"}, row | {"answer": "C"}, row, [1],
        row | {"answer": "tie", "first": " "}, row | {"answer": 4}, {"instruction": "x"},
    ]  # fmt: skip
    lines = "\n".join(map(json.dumps, rows)) + "\n{"
    found, left_out = read_known_answers("known.jsonl", lines.encode(), "judgments")
    assert [one.answer for one in found] == ["first"]
    assert [one.where for one in left_out] == [f"line {n}" for n in (3, 4, 5, 6, 7, 8, 9)]
    assert "use first, second, tie, neither" in left_out[0].reason
    scores = [{"instruction": "Say hi", "response": "Hi", "points": n} for n in (0, 4.5, 6, None)]
    found, left_out = read_known_answers("k.json", json.dumps(scores).encode(), "responses")
    assert [one.answer for one in found] == ["0", "4.5"]
    assert len(left_out) == 2
    with pytest.raises(InputError, match="column 'response'"):
        read_known_answers("k.csv", b"instruction,first\na,b\n", "judgments")


def test_the_form_names_all_bad_rows_and_sends_good_ones_with_the_job(
    client: Client, audited: Experiment, carol: User, alice: User
) -> None:
    address = "/experiments/scripted/audits/new"
    page = client.get(address).content.decode()
    assert "± 10 percentage points" in page
    assert "No answers have been timed yet" in page
    assert "By whether" not in page
    values = {
        "iteration": "1", "kind": "judgments", "strategy": "uniform", "size": "4", "seed": "1",
        "same_share": "0", "other_share": "50", "adjudicated_items": "0", "min_accuracy": "80",
        "auditors": [carol.pk], "shows_quality": "on",
    }  # fmt: skip
    rows = [
        {"instruction": "Say hi", "response": "Hi", "first": "a", "second": "b", "answer": said}
        for said in ("A", "nonsense", "first")
    ]
    text = "\n".join(map(json.dumps, rows)).encode()
    bad = client.post(address, values | {"known_file": SimpleUploadedFile("known.jsonl", text)})
    assert bad.status_code == 422
    assert "line 2: answer &#x27;nonsense&#x27; is unknown" in bad.content.decode()
    good = json.dumps(rows[0]).encode()
    sent = client.post(
        address, values | {"known_file": SimpleUploadedFile("known.jsonl", good)}, follow=True
    )
    assert "Only one auditor is assigned" in sent.content.decode()
    job = Job.objects.get()
    outcome = create_audit_batch(job)
    batch = Batch.objects.get(pk=outcome["batch"])
    assert (batch.min_accuracy, batch.shows_quality, batch.other_share) == (0.8, True, 0.0)
    assert batch.known_items.get().answer == "first"
    assert not batch.items.filter(repeat_kind=RepeatKind.OTHER).exists()
    assert batch.items.get(repeat_kind=RepeatKind.KNOWN).reserved_for == carol


def test_repeats_that_nobody_could_answer_are_not_drawn_or_are_named(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    alone = draw(audited, by=alice, auditors=[carol], same_share=0.5, other_share=0.5)
    kinds = set(alone.items.values_list("repeat_kind", flat=True))
    assert kinds == {"", "same"}
    both = draw(audited, by=alice, auditors=[carol, dave], other_share=0.5)
    assert count_stranded_repeats(both) == 0
    notes = assign_auditors(both, [carol], by=alice)
    assert any("6 repeat items need a second auditor" in said for said in notes)
    assert not any(
        "second auditor" in said for said in assign_auditors(both, [carol, dave], by=alice)
    )


def test_a_picked_battle_goes_to_one_open_batch_that_is_no_sample(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    sampled = draw(audited, by=alice, auditors=[carol])
    item = sampled.items.get(number=1)
    first, second = item.key.split(" ")
    prompt = item.hidden_verdict.facts["prompt_id"]
    address = f"/experiments/scripted/iterations/1/prompts/{prompt}/audit"
    page = client.get(f"{address}?judgment={first}").content.decode()
    assert page.count('type="radio"') > 1, "one judgment fought several battles"
    query = f"{address}?judgment={first}&other={second}"
    assert client.post(query, {"item": "other thing"}).status_code == 422
    sent = client.post(query, {"item": item.key}, follow=True)
    assert "will be added to the batch of hand-picked items" in sent.content.decode()
    picked = Batch.objects.get(pk=create_audit_batch(Job.objects.get())["batch"])
    assert (picked.is_hand_picked, picked.items.get().key) == (True, item.key)
    other = sampled.items.exclude(key=item.key).first()
    assert other is not None
    for keys in ([other.key], [item.key, other.key]):
        again = add_picked_items(pick_items(audited, 1, "judgments", keys), by=alice)
        assert again.pk == picked.pk
    picked.refresh_from_db()
    assert picked.items.count() == 2
    assert picked.strata == [{"name": "hand_picked", "population": 2, "sampled": 2}]
    for one in picked.items.all():
        assign_auditors(picked, [carol], by=alice)
        Item.objects.filter(pk=one.pk).update(holder=carol)
        give(one, carol, "first")
    page = client.get(f"/audits/{picked.pk}").content.decode()
    assert "these items only" in page
    assert "whole iteration" not in page
    assert [pooled.batches for pooled in pool_iteration(audited, 1)] == [()]
    assert build_human_pairs(audited, before=2) == []
    Gate.objects.create(experiment=audited, min_answers=1)
    iteration = audited.iterations.get()
    assert (
        f"audit {sampled.pk} is neither fully answered nor closed" in evaluate_gate(iteration).waits
    )
    with pytest.raises(InputError, match="has no item"):
        pick_items(audited, 1, "judgments", ["no such pair"])


def test_a_scored_response_can_be_picked_and_an_operator_of_others_cannot_pick(
    client: Client, audited: Experiment, alice: User
) -> None:
    item = draw(audited, by=alice, auditors=[], kind="responses", strategy="uniform").items.get(
        number=1
    )
    prompt = item.hidden_verdict.facts["prompt_id"]
    address = f"/experiments/scripted/iterations/1/prompts/{prompt}/audit?response={item.key}"
    assert (
        "Send this response to an audit"
        in client.get(f"/experiments/scripted/iterations/1/prompts/{prompt}").content.decode()
    )
    client.post(address, {"item": item.key})
    batch = Batch.objects.get(pk=create_audit_batch(Job.objects.get())["batch"])
    assert (batch.kind, batch.items.get().response) == ("responses", item.response)
    other = browser(make_person("oscar", "operator"))
    assert other.post(address, {"item": item.key}).status_code == 403
    assert (
        "Send this response"
        not in other.get(f"/experiments/scripted/iterations/1/prompts/{prompt}").content.decode()
    )


def test_the_own_quality_is_that_of_the_report_and_needs_no_answers_to_other_items(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(
        audited, by=alice, auditors=[carol, dave], other_share=0.5, same_share=0.3,
        shows_quality=True,
    )  # fmt: skip
    turns = [carol, dave]
    while turns:
        item = annotation_queue.lease_next_item(batch, turns[0])
        if item is None:
            turns.pop(0)
            continue
        give(item, turns[0], "first")
        turns = [*turns[1:], turns[0]]
    report = {one.name: one for one in make_auditor_report(batch).auditors}
    assert report["carol"].accuracy.count > 0
    Answer.objects.update(revealed=timezone.now())
    assert find_own_quality(batch, carol) == report["carol"]
    only_dave = batch.items.exclude(answer__auditor=carol).filter(original=None)
    elsewhere = only_dave.exclude(repeats__answer__auditor=carol)
    assert elsewhere.exists()
    HiddenVerdict.objects.filter(item__in=elsewhere).delete()
    assert find_own_quality(batch, carol) == report["carol"]


def test_an_answer_that_can_still_change_tells_nothing_about_its_item(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], known_answers=KNOWN, shows_quality=True)
    item = annotation_queue.lease_next_item(batch, carol)
    assert item is not None
    give(item, carol, "first")
    for other in batch.items.exclude(pk=item.pk):
        other.skipped_by.add(carol)
    address = f"/audits/{batch.pk}/annotate"
    client = browser(carol)
    page = client.get(address).content.decode()
    assert "Undo your last answer" in page
    assert "Prefers the higher score" not in page
    assert find_own_quality(batch, carol) is None
    client.post(f"/audits/{batch.pk}/items/{item.number}/reveal")
    page = client.get(address).content.decode()
    assert "Undo your last answer" not in page
    assert "Prefers the higher score" in page


def test_all_answers_of_a_closed_batch_are_final(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], shows_quality=True, reveals_at_once=False)
    answer_all(batch, carol, known="first")
    assert find_own_quality(batch, carol) is None
    set_status(batch, "closed", by=alice)
    batch.refresh_from_db()
    own = find_own_quality(batch, carol)
    assert own is not None
    assert own.answers == Answer.objects.filter(auditor=carol).count()


def test_the_own_quality_is_not_that_of_an_earlier_account_with_the_name(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], shows_quality=True)
    answer_all(batch, carol, known="first")
    Answer.objects.update(revealed=timezone.now())
    assert find_own_quality(batch, carol) is not None
    carol.delete()
    assert find_own_quality(batch, make_person("carol", "auditor")) is None


def test_a_later_account_with_the_name_of_a_requested_auditor_is_not_assigned(
    audited: Experiment, alice: User, carol: User
) -> None:
    plan = BatchPlan(
        kind="judgments", strategy="uniform", size=3, seed=1, same_share=0.0, other_share=0.0,
        hides_score_lines=True, reveals_at_once=True, guidelines="",
    )  # fmt: skip
    job = request_batch(audited, 1, plan, by=alice, auditors=[carol])
    carol.delete()
    make_person("carol", "auditor")
    batch = Batch.objects.get(pk=create_audit_batch(job)["batch"])
    assert not batch.auditors.exists()


def test_a_picked_item_is_read_from_its_own_partition(
    artifacts: Path, tmp_path: Path, alice: User
) -> None:
    shutil.copytree(artifacts, tmp_path, dirs_exist_ok=True)
    audited = record(tmp_path, owner=alice)
    folder = tmp_path / "scripted" / "iteration-1"
    parts = sorted(path.name for path in (folder / "battles").glob("*.parquet"))
    assert len(parts) > 1
    battle = pq.read_table(folder / "battles" / parts[0]).to_pylist()[0]
    key = " ".join(sorted((battle["first_judgment_id"], battle["second_judgment_id"])))
    with pytest.raises(InputError, match="has no item"):
        pick_items(audited, 1, "judgments", [key], part=1)
    for table in ("prompts", "responses", "judgments", "battles"):
        for name in parts[1:]:
            damaged = folder / table / name
            damaged.write_bytes(b"x" * damaged.stat().st_size)
    with pytest.raises(ArtifactError):
        pick_items(audited, 1, "judgments", [key])
    picked = pick_items(audited, 1, "judgments", [key], part=0)
    facts = picked.facts[key]
    assert picked.texts.prompts[facts["prompt_id"]]
    assert picked.texts.judgments[battle["first_judgment_id"]]
    assert facts["elo_first"] is not None
    assert set(facts["groups"]) == {"score_gap", "certainty", "position", "decided"}
