"""Batches are made, read, exported and imported; the estimates are those of the core."""

import csv
import io
import json
import re
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import DjangoAssertNumQueries

from meta_reward_core.data.sft_dataset import read_sft_rows
from meta_reward_core.errors import InputError
from meta_reward_core.review.auditor_quality import AuditorAnswer, measure_auditors
from meta_reward_core.review.stratified_estimators import NO_ESTIMATE, Estimate
from tests.webapp.audit_fixtures import (
    artifacts,
    audited,
    batch,
    browser,
    carol,
    dave,
    draw,
    give,
    take,
)
from tests.webapp.conftest import make_person
from webapp.activity.models import Activity
from webapp.audit import annotation_queue
from webapp.audit.auditor_report import AuditorReport
from webapp.audit.batch_report import make_report
from webapp.audit.batch_sampling import hash_source_files
from webapp.audit.exports import FILE_CONTENTS, FORMATS
from webapp.audit.gate import explain_hold
from webapp.audit.models import Answer, Batch, Gate, GateOverride, Item
from webapp.audit.pooled_report import TrendPoint, compute_trend, pool_iteration
from webapp.audit.report_presenter import (
    make_accuracy_charts,
    make_auditor_lines,
    make_own_line,
    make_trend,
)
from webapp.audit.selectors import list_pending_batches
from webapp.experiments.models import Experiment, Job, Stage
from workers.jobs.runner import SLOW_HANDLERS, run_job, run_waiting_jobs

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]

pytestmark = pytest.mark.django_db

AUDITS = "/experiments/scripted/audits"
NEW: dict[str, Any] = {
    "iteration": 1, "kind": "judgments", "strategy": "certainty", "size": 10, "seed": 1,
    "same_share": 10, "other_share": 20, "hides_score_lines": "on", "reveals_at_once": "on",
    "guidelines": "", "adjudicated_items": 0, "min_accuracy": 70,
}  # fmt: skip


def answer_by_forward(batch: Batch, auditor: User) -> None:
    """Answer as the meta-judge did with the first judgment shown first."""
    for item in batch.items.select_related("hidden_verdict"):
        Answer.objects.create(
            item=item,
            auditor=auditor,
            auditor_name=auditor.username,
            choice=item.hidden_verdict.facts["forward"] or "tie",
            seconds=5,
        )
    batch.items.update(is_answered=True)


def test_an_operator_draws_a_batch(
    client: Client, audited: Experiment, carol: User, dave: User
) -> None:
    assert client.get("/experiments/scripted/audits/new").status_code == 200
    chosen = {"auditors": [carol.pk, dave.pk]}
    answer = client.post("/experiments/scripted/audits/new", NEW | chosen)
    assert answer["Location"] == AUDITS
    page = client.get(AUDITS).content.decode()
    assert "an audit of iteration 1, requested by alice" in page
    assert 'hx-trigger="every 2s"' in page
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    made = Batch.objects.get()
    job = Job.objects.get()
    assert (job.status, job.outcome) == ("done", {"batch": made.pk})
    assert client.get(AUDITS, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"
    assert "hx-trigger" not in client.get(AUDITS).content.decode()
    assert set(made.auditors.all()) == {carol, dave}
    assert made.items.filter(repeat_kind="").count() == 10
    assert made.items.filter(repeat_kind="same").count() == 1
    assert made.items.filter(repeat_kind="other").count() == 2
    assert sum(stratum["sampled"] for stratum in made.strata) == 10
    assert made.rubric
    page = client.get(f"/audits/{made.pk}").content.decode()
    assert "orders agree" in page
    assert "No answer compares" in page


def test_a_batch_that_is_asked_for_once_is_drawn_once(client: Client, audited: Experiment) -> None:
    client.post(f"{AUDITS}/new", NEW)
    job = Job.objects.get()
    run_job(job, SLOW_HANDLERS)
    Job.objects.update(status="waiting")  # as if whoever drew it had fallen silent at the end
    run_job(job, SLOW_HANDLERS)
    assert Batch.objects.count() == 1
    assert list_pending_batches(audited) == []


def test_what_is_being_read_is_said_while_a_batch_is_drawn(
    client: Client, audited: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def write(drawn: Any, **_: Any) -> Batch:
        page = client.get(AUDITS, headers={"HX-Request": "true"}).content.decode()
        seen.append("reading the texts of the sampled items" in page)
        raise InputError("no room")

    monkeypatch.setattr("workers.jobs.draw_audit_batch.save_batch", write)
    client.post(f"{AUDITS}/new", NEW)
    run_waiting_jobs(SLOW_HANDLERS)
    assert seen == [True]
    page = client.get(AUDITS).content.decode()
    assert "refused" in page
    assert "no room" in page
    assert not Batch.objects.exists()


def test_a_batch_of_an_experiment_that_went_meanwhile_is_refused(
    client: Client, audited: Experiment
) -> None:
    client.post(f"{AUDITS}/new", NEW)
    audited.delete()
    run_waiting_jobs(SLOW_HANDLERS)
    assert Job.objects.get().message == "experiment 'scripted' was deleted"


@pytest.mark.parametrize("strategy", ["uniform", "score_gap", "position", "length", "decided",
                                      "uncertain"])  # fmt: skip
def test_every_strategy_draws_from_real_files(
    strategy: str, audited: Experiment, alice: User
) -> None:
    made = draw(audited, by=alice, auditors=[], strategy=strategy, size=30)
    assert made.items.count() == 30
    by_name = {stratum["name"]: stratum for stratum in made.strata}
    for item in made.items.all():
        stratum = by_name[item.stratum]
        assert item.probability == pytest.approx(stratum["sampled"] / stratum["population"])


def test_the_same_seed_draws_the_same_items(audited: Experiment, alice: User) -> None:
    first, second = (draw(audited, by=alice, auditors=[], same_share=0.2) for _ in range(2))
    rows = [list(one.items.values_list("key", "number", "is_swapped")) for one in (first, second)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("changes, said", [
    ({"strategy": "score"}, "does not apply"),
    ({"size": 1}, "greater than or equal to 2"),
    ({"iteration": 7}, "not one of the available choices"),
])  # fmt: skip
def test_a_batch_that_cannot_be_drawn_is_sent_back(
    changes: dict[str, Any], said: str, client: Client, audited: Experiment
) -> None:
    answer = client.post("/experiments/scripted/audits/new", NEW | changes)
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert not Batch.objects.exists()


def test_the_form_computes_the_size_for_a_wanted_interval(
    client: Client, audited: Experiment
) -> None:
    """Wilson at one half, +- 8 points: (1.96 / 0.16)^2 - 1.96^2 = 146.2, and 30% repeats."""
    path = "/experiments/scripted/audits/new"
    page = client.get(path, {"points": "8"}).content.decode()
    assert "± 8 percentage points: 147 distinct items, 191 answers with repeats" in page
    assert 'name="size" value="147"' in page
    for wrong in ("0", "nan", "x", "60"):
        refused = client.get(path, {"points": wrong})
        assert refused.status_code == 422
        assert 'id="id_points_error"' in refused.content.decode()
    assert 'name="size" value="100"' in client.get(path).content.decode()


def test_an_unfinished_stage_is_not_drawn_from(client: Client, audited: Experiment) -> None:
    Stage.objects.filter(name="pair_judge").update(status="running")
    answer = client.post("/experiments/scripted/audits/new", NEW)
    top, _, form = answer.content.decode().partition('<section aria-labelledby="size">')
    assert re.search(r'<a href="#id_iteration">Iteration</a>: [^<]*has no finished stage', top)
    assert re.search(r'id="id_iteration_error"><li>[^<]*has no finished stage', form)
    assert 'aria-describedby="id_iteration_error"' in form
    assert not Batch.objects.exists()


def test_the_report_says_what_the_answers_say(client: Client, batch: Batch, carol: User) -> None:
    answer_by_forward(batch, carol)
    page = " ".join(client.get(f"/audits/{batch.pk}").content.decode().split())
    assert "Elo order agrees with human preference" in page
    assert re.search(
        r'data-label="Meta-judge: A">[\d.]+% <span class="facts">\([^;]+; \d+ items?', page
    )
    assert re.search(
        r'higher score wins</th><td data-label="Meta-judge">[\d.]+% .*?; \d+ item', page
    )
    assert "12 of 12 answers" in page
    assert "Meta-judge agrees with human preference, without ties" in page
    assert "The meta-judge beats chance: without ties, it agrees with human preference" in page
    assert "Answers only" not in page
    assert "the higher score wins" in page
    assert "carol" in page


def test_the_last_word_replaces_an_answer(client: Client, batch: Batch, carol: User) -> None:
    answer_by_forward(batch, carol)
    batch.items.update(adjudicated="tie")
    page = client.get(f"/audits/{batch.pk}").content.decode()
    assert "No answer compares" in page


def test_repeats_tell_how_consistent_auditors_are(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    again = draw(audited, by=alice, auditors=[carol], same_share=0.5, size=10)
    answer_by_forward(again, carol)
    page = re.sub(r"\s+", " ", client.get(f"/audits/{again.pk}").content.decode())
    assert re.search(r"same answer again</th><td[^>]*>100%</td>.*?<td[^>]*>5</td>", page)


def test_the_report_of_responses_compares_points(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    good = draw(audited, by=alice, auditors=[carol], kind="responses", strategy="length", size=40)
    for item in good.items.select_related("hidden_verdict"):
        points = min(5.0, item.hidden_verdict.facts["mean"] + 0.25)
        Answer.objects.create(item=item, auditor_name="carol", points=points)
    page = client.get(f"/audits/{good.pk}").content.decode()
    assert "Kendall" in page
    assert "Responses with higher human scores get higher scores" in page
    assert "too strict" in page


def test_a_batch_of_files_that_were_made_again_says_so(client: Client, batch: Batch) -> None:
    assert "was rerun" not in client.get(f"/audits/{batch.pk}").content.decode()
    Batch.objects.update(source_sha256="e" * 64)
    assert "was rerun after" in client.get(f"/audits/{batch.pk}").content.decode()


def test_a_batch_of_a_deleted_experiment_can_be_read(
    client: Client, batch: Batch, audited: Experiment, carol: User
) -> None:
    answer_by_forward(batch, carol)
    audited.delete()
    assert "The experiment was deleted" in client.get(f"/audits/{batch.pk}").content.decode()
    assert client.get(f"/audits/{batch.pk}/export/csv").status_code == 200
    answer = client.get(f"/audits/{batch.pk}/export/eft", follow=True)
    assert "the experiment and its judge prompt were deleted" in answer.content.decode()


def test_strangers_see_no_private_audits(client: Client, batch: Batch) -> None:
    Experiment.objects.update(is_private=True)
    bob = browser(make_person("bob", "operator"))
    for path in (f"/audits/{batch.pk}", f"/audits/{batch.pk}/export/csv",
                 "/experiments/scripted/audits", "/experiments/scripted/audits/new"):  # fmt: skip
        assert bob.get(path).status_code == 404
        assert Client().get(path).status_code == 302
    assert f"Batch {batch.pk}" not in bob.get("/audits").content.decode()


def test_viewers_read_and_change_nothing(batch: Batch) -> None:
    viewer = browser(make_person("bob", "viewer"))
    assert viewer.get(f"/audits/{batch.pk}").status_code == 200
    for what, of_get in {"close": 403, "auditors": 405, "import": 405}.items():
        assert viewer.post(f"/audits/{batch.pk}/{what}").status_code == 403
        assert viewer.get(f"/audits/{batch.pk}/{what}").status_code == of_get
    other = browser(make_person("charlie", "operator"))
    assert other.post(f"/audits/{batch.pk}/close").status_code == 403


def test_review_leads_close_and_assign_on_the_site_as_in_the_admin(
    batch: Batch, dave: User
) -> None:
    lead = browser(make_person("lena", "lead"))
    page = lead.get(f"/audits/{batch.pk}").content.decode()
    assert "Close batch" in page
    assert "Import answers" not in page
    lead.post(f"/audits/{batch.pk}/auditors", {"auditors": [dave.pk]})
    lead.post(f"/audits/{batch.pk}/close", {"status": "closed"})
    batch.refresh_from_db()
    assert (batch.status, list(batch.auditors.all())) == ("closed", [dave])
    acts = Activity.objects.filter(actor_name="lena").values_list("action", flat=True)
    assert set(acts) == {"assigned", "closed"}
    assert lead.post(f"/audits/{batch.pk}/import").status_code == 403
    Experiment.objects.update(is_private=True)
    assert lead.post(f"/audits/{batch.pk}/close").status_code == 404


def test_a_batch_is_closed_and_opened(client: Client, batch: Batch) -> None:
    client.post(f"/audits/{batch.pk}/close", {"status": "closed"})
    assert Batch.objects.get().status == "closed"
    client.post(f"/audits/{batch.pk}/close", {"status": "open"})
    assert Batch.objects.get().status == "open"


def test_only_auditors_are_assigned(client: Client, batch: Batch, alice: User, dave: User) -> None:
    client.post(f"/audits/{batch.pk}/auditors", {"auditors": [dave.pk]})
    assert list(batch.auditors.all()) == [dave]
    refused = client.post(f"/audits/{batch.pk}/auditors", {"auditors": [alice.pk]})
    assert refused.status_code == 422
    top, _, form = refused.content.decode().partition('<h2 id="assigned">')
    said = "Only active accounts with the role auditor can be chosen."
    assert f'<a href="#id_auditors">Auditors</a>: {said}' in top
    assert f'id="id_auditors_error"><li>{said}</li>' in form
    assert list(batch.auditors.all()) == [dave]


def test_a_report_asks_the_database_little(
    client: Client, batch: Batch, carol: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    answer_by_forward(batch, carol)
    with django_assert_max_num_queries(16):
        client.get(f"/audits/{batch.pk}")


def test_the_page_of_an_experiment_shows_the_trend(
    client: Client, batch: Batch, carol: User
) -> None:
    assert "Trend" not in client.get("/experiments/scripted/audits").content.decode()
    assert "Agreement of humans" not in client.get("/experiments/scripted").content.decode()
    answer_by_forward(batch, carol)
    for path in ("/experiments/scripted/audits", "/experiments/scripted"):
        assert "Agreement of humans and meta-judge" in client.get(path).content.decode()


def test_the_axis_of_agreement_ends_at_one() -> None:
    certain = Estimate(1.0, 1.0, 1.0, 9)
    point = TrendPoint(1, certain, NO_ESTIMATE, NO_ESTIMATE, NO_ESTIMATE, NO_ESTIMATE, NO_ESTIMATE)
    (agreement,) = make_trend([point]).charts
    assert agreement.y_ticks[-1].text == "1.0"


def test_a_gate_is_set_and_changed(client: Client, audited: Experiment) -> None:
    path = "/experiments/scripted/audits/gate"
    wanted = {
        "min_agreement": "60",
        "confidence": "90",
        "min_answers": "40",
        "on_failure": "actor_pairs",
    }
    client.post(path, wanted)
    client.post(path, wanted | {"min_agreement": "70"})
    assert (Gate.objects.get().min_agreement, Gate.objects.get().on_failure) == (0.7, "actor_pairs")
    page = client.get(AUDITS).content.decode()
    assert "the iteration trains on its actor pairs only" in page
    bad = client.post(path, wanted | {"min_agreement": "150"})
    assert bad.status_code == 422
    assert "below 100%" in bad.content.decode()


# Files.


def exported(client: Client, batch: Batch, form: str) -> bytes:
    answer = client.get(f"/audits/{batch.pk}/export/{form}")
    assert answer.status_code == 200
    assert answer["Content-Disposition"].startswith("attachment")
    content: bytes = answer.content
    return content


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().split("\n") if line]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_was_exported_can_be_imported(
    form: str, client: Client, batch: Batch, carol: User
) -> None:
    answer_by_forward(batch, carol)
    Answer.objects.filter(item__number=1).update(comment="=1+1", tags=["too long", "off topic"])
    before = list(Answer.objects.order_by("item").values("item", "choice", "tags", "comment"))
    content = exported(client, batch, form)
    Answer.objects.all().delete()
    Item.objects.update(is_answered=False)
    said = send(client, batch, f"a.{form}", content)
    assert "Imported 12 answers; 0 already imported" in said
    assert "Imported 0 answers; 12 already imported" in send(client, batch, f"a.{form}", content)
    after = list(Answer.objects.order_by("item").values("item", "choice", "tags", "comment"))
    assert after == before
    assert set(Answer.objects.values_list("auditor", flat=True)) == {carol.pk}
    assert Activity.objects.filter(action="imported", actor_name="alice").count() == 12


def send(client: Client, batch: Batch, name: str, content: bytes) -> str:
    file = SimpleUploadedFile(name, content)
    answer = client.post(f"/audits/{batch.pk}/import", {"file": file}, follow=True)
    return str(answer.content.decode())


def row(drawn: Batch, **changes: Any) -> dict[str, Any]:
    return {"batch": drawn.pk, "item": 1, "auditor": "carol", "answer": "tie"} | changes


def test_label_studio_tasks_hide_what_is_hidden_and_come_back(client: Client, batch: Batch) -> None:
    tasks = json.loads(exported(client, batch, "label-studio"))
    assert len(tasks) == 12
    data = tasks[0]["data"]
    assert set(data) == {"batch", "item", "instruction", "response", "judgment_a", "judgment_b"}
    assert "Score:" not in json.dumps(tasks)
    result = [{"from_name": "answer", "type": "choices", "value": {"choices": ["A"]}}]
    tasks[0]["annotations"] = [{"completed_by": 7, "result": result, "lead_time": 12.5}]
    said = send(client, batch, "done.json", json.dumps(tasks[:1]).encode())
    assert "Imported 1 answer; 0 already imported, 0 skipped." in said
    answer = Answer.objects.select_related("item").get()
    assert answer.item.number == data["item"]
    assert answer.choice == ("second" if answer.item.is_swapped else "first")
    assert (answer.auditor_name, answer.seconds) == ("label-studio 7", 12.5)


ALIKE = {"from_name": "answer", "type": "choices", "value": {"choices": ["tie"]}}


def by_two(tasks: list[dict[str, Any]], names: tuple[int, ...] = (7, 8)) -> bytes:
    """Label Studio's export of tasks that several people annotated."""
    for task in tasks:
        task["annotations"] = [{"completed_by": name, "result": [ALIKE]} for name in names]
    return json.dumps(tasks).encode()


@pytest.fixture
def repeated(audited: Experiment, alice: User) -> Batch:
    """A batch of which every item comes again to another auditor."""
    return draw(audited, by=alice, auditors=[], other_share=1.0)


def test_a_second_annotator_answers_the_items_repeat(client: Client, repeated: Batch) -> None:
    tasks = json.loads(exported(client, repeated, "label-studio"))
    assert len(tasks) == 12
    content = by_two(tasks)
    assert "Imported 24 answers; 0 already imported" in send(client, repeated, "done.json", content)
    for item in repeated.items.filter(repeat_kind="").select_related("answer"):
        repeat = item.repeats.get(repeat_kind="other")
        names = (item.answer.auditor_name, repeat.answer.auditor_name)
        assert names == ("label-studio 7", "label-studio 8")
    other_way_round = by_two(tasks, (8, 7))
    assert "Imported 0 answers; 24 already imported" in send(
        client, repeated, "done.json", other_way_round
    )
    report = make_report(repeated)
    assert (report.consistency.other.value, report.consistency.other.count) == (1, 12)


def test_two_files_of_two_annotators_are_taken_one_after_the_other(
    client: Client, repeated: Batch
) -> None:
    tasks = json.loads(exported(client, repeated, "label-studio"))
    for name in (7, 8):
        said = send(client, repeated, "done.json", by_two(tasks, (name,)))
        assert "Imported 12 answers" in said
    assert (
        Answer.objects.filter(item__repeat_kind="other", auditor_name="label-studio 8").count()
        == 12
    )


def test_a_second_argilla_response_answers_the_items_repeat(
    client: Client, repeated: Batch
) -> None:
    records = lines(exported(client, repeated, "argilla"))
    records[0]["responses"] = {
        "answer": [{"user_id": "u1", "value": "tie"}, {"user_id": "u2", "value": "neither"}],
        "comment": [{"user_id": "u2", "value": "both miss it"}],
    }
    send(client, repeated, "done.jsonl", json.dumps(records[0]).encode())
    found = Answer.objects.order_by("auditor_name").values_list(
        "auditor_name", "choice", "comment", "item__repeat_kind"
    )
    assert list(found) == [
        ("argilla u1", "tie", "", ""),
        ("argilla u2", "neither", "both miss it", "other"),
    ]


def test_argilla_records_hide_what_is_hidden_and_come_back(client: Client, batch: Batch) -> None:
    records = lines(exported(client, batch, "argilla"))
    assert set(records[0]["fields"]) == {"instruction", "response", "judgment_a", "judgment_b"}
    assert set(records[0]["metadata"]) == {"batch", "item"}
    given = {"user_id": "u1", "status": "submitted", "values": {"answer": {"value": "neither"}}}
    records[0]["responses"] = [given]
    records[1]["responses"] = {
        "answer": [{"value": "tie", "user_id": "u1"}],
        "comment": [{"value": "both miss it", "user_id": "u1"}],
    }
    content = "\n".join(map(json.dumps, records[:2])).encode()
    assert "Imported 2 answers" in send(client, batch, "records.jsonl", content)
    said = set(Answer.objects.values_list("choice", "comment"))
    assert said == {("neither", ""), ("tie", "both miss it")}


def test_training_rows_hold_what_people_preferred(
    client: Client, batch: Batch, carol: User, tmp_path: Any
) -> None:
    answer_by_forward(batch, carol)
    decided = batch.items.filter(answer__choice__in=("first", "second")).count()
    pairs = lines(exported(client, batch, "judge-pairs"))
    assert len(pairs) == decided > 0
    winner = batch.items.filter(answer__choice="second")[0]
    [pair] = [one for one in pairs if one["chosen"][0]["content"] == winner.second
              and one["rejected"][0]["content"] == winner.first
              and winner.instruction in one["prompt"][0]["content"]]  # fmt: skip
    assert pair["kind"] == "human"
    path = tmp_path / "eft.jsonl"
    path.write_bytes(exported(client, batch, "eft"))
    assert len(read_sft_rows(path).rows) == decided


def test_assessments_name_the_human_source(client: Client, batch: Batch, carol: User) -> None:
    answer_by_forward(batch, carol)
    [first, *_] = lines(exported(client, batch, "mlflow"))
    assert first["source"] == {"source_type": "HUMAN", "source_id": "carol"}
    assert first["feedback"]["value"] in ("first", "second", "tie")


def test_findings_are_a_file_of_every_figure_with_interval_and_items(
    client: Client, batch: Batch, carol: User
) -> None:
    answer_by_forward(batch, carol)
    rows = list(csv.DictReader(io.StringIO(exported(client, batch, "findings").decode())))
    by_name = {(row["part"], row["figure"]): row for row in rows}
    elo = by_name["Elo", "the Elo order agrees with human preference"]
    assert 0 < float(elo["low"]) < float(elo["estimate"]) <= float(elo["high"]) <= 1
    assert int(elo["items"]) > 0
    assert ("people against meta-judge", "people A, meta-judge B") in by_name
    assert ("bias of people", "the higher score wins") in by_name
    assert ("auditors", "Krippendorff's alpha") in by_name


def test_exported_answers_stand_beside_what_the_judges_said(
    client: Client, batch: Batch, carol: User
) -> None:
    answer_by_forward(batch, carol)
    for found in lines(exported(client, batch, "jsonl")):
        facts = batch.items.get(number=found["item"]).hidden_verdict.facts
        names = ("forward", "backward", "elo_first", "elo_second")
        assert {name: found[name] for name in names} == {name: facts[name] for name in names}


def test_parquet_holds_the_same_answers(client: Client, batch: Batch, carol: User) -> None:
    answer_by_forward(batch, carol)
    table = pq.read_table(io.BytesIO(exported(client, batch, "parquet")))
    assert table.num_rows == 12
    assert set(table["auditor"].to_pylist()) == {"carol"}


@pytest.mark.parametrize("text, cell", [
    ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
    ("x;=1+1", "'x;'=1+1"),
    ("\u200b=1+1", "'\u200b=1+1"),
])  # fmt: skip
def test_cells_of_a_csv_are_guarded(
    text: str, cell: str, client: Client, batch: Batch, carol: User
) -> None:
    answer_by_forward(batch, carol)
    Answer.objects.update(comment=text)
    cells = list(csv.DictReader(io.StringIO(exported(client, batch, "csv").decode())))
    assert {found["comment"] for found in cells} == {cell}


# Several batches of one iteration, and several iterations.


def test_the_batches_of_an_iteration_are_pooled(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    sizes = {"uniform": 12, "certainty": 8}
    for seed, (strategy, size) in enumerate(sizes.items()):
        made = draw(audited, by=alice, auditors=[carol], strategy=strategy, size=size, seed=seed)
        answer_by_forward(made, carol)
    unanswered = draw(audited, by=alice, auditors=[carol], strategy="length", size=5)
    [pooled] = pool_iteration(audited, 1)
    assert [batch.items.count() for batch in pooled.batches] == [12, 8]
    assert pooled.left_out == (unanswered,)
    assert pooled.report is not None
    assert pooled.report.answered == 20
    both = pooled.report.pairs
    alone = [make_report(batch).pairs for batch in pooled.batches]
    assert both is not None
    ends = sorted(one.agreement_decided.value or 0.0 for one in alone if one)
    assert ends[0] <= (both.agreement_decided.value or 0.0) <= ends[1]
    page = client.get(f"{AUDITS}/1").content.decode()
    assert "20 of 20 answers" in page
    assert "is weighted by its share of the answers" in page
    assert f"batch {pooled.batches[1].pk}: orders agree" in page
    Batch.objects.filter(pk=pooled.batches[0].pk).update(source_sha256="f" * 64)
    [rest] = pool_iteration(audited, 1)
    assert rest.batches == pooled.batches[1:]


def test_an_auditor_of_two_batches_and_another_one_agree_on_the_same_item(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    for auditor in (carol, dave):
        answer_by_forward(draw(audited, by=alice, auditors=[auditor]), auditor)
    [pooled] = pool_iteration(audited, 1)
    assert pooled.report is not None
    alpha = pooled.report.consistency.alpha
    assert (alpha.value, alpha.count) == (1, 12)
    assert alpha.low is None, "twelve that agree do not say how much they vary"


def test_the_trend_pools_each_iteration_and_says_what_changed(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    for number in (1, 2):
        made = draw(audited, by=alice, auditors=[carol], strategy="uniform", size=40, seed=number)
        for item in made.items.select_related("hidden_verdict"):
            item.hidden_verdict.facts |= {"forward": "first", "backward": "first"}
            item.hidden_verdict.save()
            Answer.objects.create(
                item=item, auditor_name="carol", choice="first" if number == 1 else "second"
            )
        Batch.objects.filter(pk=made.pk).update(iteration=number)
    Batch.objects.filter(iteration=2).update(
        source_sha256=hash_source_files(audited, 2, "judgments")
    )
    assert [point.iteration for point in compute_trend(audited)] == [1, 2]
    page = " ".join(client.get(AUDITS).content.decode().split())
    assert "Agreement fell by 100 points from iteration 1 to 2" in page
    assert 'href="/experiments/scripted/audits/2"' in page


# What is decided at the gate.


def decide(client: Client, **values: object) -> str:
    given = {"iteration": 1, "outcome": "actor_pairs", "reason": "it follows the score"}
    answer = client.post(f"{AUDITS}/override", given | values, follow=True)
    return " ".join(answer.content.decode().split())


def test_the_page_of_an_iteration_that_waits_leads_to_its_audits(
    client: Client, audited: Experiment
) -> None:
    path = "/experiments/scripted/iterations/1"
    assert "Create an audit or override the gate" not in client.get(path).content.decode()
    audited.iterations.update(status="running", message="waits before training: an audit")
    assert "Create an audit or override the gate" in client.get(path).content.decode()


def test_the_audits_page_states_the_gate_once_and_what_is_missing(
    client: Client, audited: Experiment
) -> None:
    Gate.objects.create(experiment=audited, min_agreement=0.575, confidence=0.9)
    iteration = audited.iterations.get()
    why = explain_hold(iteration)
    audited.iterations.update(status="needs_attention", message=why)
    page = client.get(AUDITS).content.decode()
    assert "Iteration 1 is held before training" in page
    assert ".</b> Iteration 1 has no audit yet; training waits until" in page
    assert "above 57.5% with 90% confidence" in page
    assert page.count("90% confidence") == 1
    assert "0.575" not in page
    assert 'name="min_agreement" value="57.5"' in page
    assert page.count("New audit batch for iteration 1</a>") == 1


def test_the_audits_page_says_what_a_passed_audit_takes(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    """Above 50% with 95% confidence: 25 items at 70%, 11 at 80%, but the gate requires 15."""
    Gate.objects.create(experiment=audited, min_answers=15)
    answer = client.get(AUDITS)
    efforts = answer.context["efforts"]
    assert [(one.percent, one.items, one.minutes, one.is_minimum) for one in efforts] == [
        (70, 25, None, False),
        (80, 15, None, True),
        (90, 15, None, True),
    ]
    assert "The gate requires at least 15 items" in answer.content.decode()
    answer_by_forward(draw(audited, by=alice, auditors=[carol]), carol)
    Answer.objects.update(seconds=60.0)
    efforts = client.get(AUDITS).context["efforts"]
    assert [one.minutes for one in efforts] == [33.0, 19.0, 19.0], "with 30% repeats, rounded"
    Gate.objects.update(min_agreement=0.75)
    assert [one.percent for one in client.get(AUDITS).context["efforts"]] == [80, 90]


def test_an_override_is_folded_and_has_no_default(client: Client, audited: Experiment) -> None:
    page = client.get(AUDITS).content.decode()
    folded = '<details class="audit-danger"><summary>Override the gate for iteration 1</summary>'
    assert folded in page
    assert '<input type="hidden" name="iteration" value="1"' in page
    form = page.partition("Override the gate for iteration 1")[2].partition("</form>")[0]
    assert " checked" not in form
    assert "This field is required." in decide(client, outcome="")
    assert not GateOverride.objects.exists()


def test_a_decision_is_recorded_and_shown(client: Client, audited: Experiment) -> None:
    page = decide(client)
    made = GateOverride.objects.get()
    assert (made.outcome, made.created_by_name) == ("actor_pairs", "alice")
    assert "the actor pairs only" in page
    iteration = client.get("/experiments/scripted/iterations/1").content.decode()
    assert "trains on the actor pairs only: it follows the score" in iteration
    assert "not one of the available choices" in decide(client, outcome="all"), "it stands"
    assert GateOverride.objects.count() == 1


@pytest.mark.parametrize("values, said", [
    ({"reason": "no"}, "at least 5 characters"),
    ({"iteration": 7}, "not one of the available choices"),
    ({"outcome": "nothing"}, "not one of the available choices"),
    ({}, "This iteration has no actor pairs"),
])  # fmt: skip
def test_a_decision_that_makes_no_sense_is_sent_back(
    values: dict[str, object], said: str, client: Client, audited: Experiment
) -> None:
    if not values:
        Stage.objects.filter(name="pair_actor").update(status="skipped")
    assert said in decide(client, **values)
    assert not GateOverride.objects.exists()


# Review.


def reviewer() -> Client:
    person = make_person("rita", "admin")
    person.is_staff = True
    person.save()
    return browser(person)


def test_reviewers_see_disagreements_first(batch: Batch, carol: User) -> None:
    answer_by_forward(batch, carol)
    for item in batch.items.select_related("hidden_verdict"):
        item.hidden_verdict.facts |= {"forward": "first", "backward": "first"}
        item.hidden_verdict.save()
    odd = batch.items.all()[7]
    Answer.objects.update(choice="first")
    Answer.objects.filter(item=odd).update(choice="second")
    page = reviewer().get(reverse("admin:audit_answer_changelist")).content.decode()
    assert page.index(f"Item {odd.number} of batch {batch.pk}<") == min(
        page.index(f"Item {item.number} of batch {batch.pk}<") for item in batch.items.all()
    )
    only = reviewer_again().get(reverse("admin:audit_answer_changelist") + "?agreement=0")
    assert f"Item {odd.number} of batch {batch.pk}<" in only.content.decode()


def reviewer_again() -> Client:
    return browser(User.objects.get(username="rita"))


def test_reviewers_find_items_on_which_auditors_differ(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    again = draw(audited, by=alice, auditors=[carol, dave], other_share=0.5, size=10)
    answer_by_forward(again, carol)
    path = reverse("admin:audit_item_changelist") + "?disagreement=auditors"
    client = reviewer()
    assert "0 items" in client.get(path).content.decode()
    repeat = again.items.filter(repeat_kind="other").select_related("original")[0]
    Answer.objects.filter(item=repeat).update(choice="neither")
    page = client.get(path).content.decode()
    assert "1 item" in page
    assert reverse("admin:audit_item_change", args=[repeat.original_id]) in page


def test_reviewers_find_unsettled_conflicts_at_the_top_of_all_items(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    again = draw(audited, by=alice, auditors=[carol, dave], other_share=0.5, size=10)
    answer_by_forward(again, carol)
    settled, open_one = again.items.filter(repeat_kind="other").order_by("-number")[:2]
    Answer.objects.filter(item__in=[settled, open_one]).update(choice="neither")
    Item.objects.filter(repeats=settled).update(adjudicated="tie")
    client = reviewer()
    page = client.get(reverse("admin:audit_item_changelist")).content.decode()
    links = re.findall(r"/audit/item/(\d+)/change/", page)
    assert list(dict.fromkeys(map(int, links)))[:2] == [open_one.original_id, settled.original_id]


def test_an_auditor_in_the_admin_sees_their_own_answers_alone(
    batch: Batch, carol: User, dave: User
) -> None:
    give(browser(carol), take(browser(carol), batch), comment="by carol")
    give(browser(dave), take(browser(dave), batch), comment="by dave")
    User.objects.update(is_staff=True)
    client = browser(carol)
    page = client.get(reverse("admin:audit_answer_changelist")).content.decode()
    assert "carol" in page
    assert ">dave<" not in page
    assert "agree" not in page
    other = Answer.objects.get(auditor=dave)
    path = reverse("admin:audit_answer_change", args=[other.pk])
    assert client.get(path).status_code == 302
    for model in ("item", "batch"):
        assert client.get(reverse(f"admin:audit_{model}_changelist")).status_code == 403


def test_batches_are_closed_and_assigned_in_the_admin(batch: Batch, dave: User) -> None:
    client = reviewer()
    path = reverse("admin:audit_batch_changelist")
    chosen = {"_selected_action": [batch.pk], "confirmed": "1"}
    client.post(path, chosen | {"action": "close_batches"})
    assert Batch.objects.get().status == "closed"
    client.post(path, chosen | {"action": "open_batches"})
    assert Batch.objects.get().status == "open"
    change = reverse("admin:audit_batch_change", args=[batch.pk])
    client.post(change, {"auditors": [dave.pk]})
    assert list(batch.auditors.all()) == [dave]


def test_several_batches_are_assigned_and_taken_away_at_once(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    made = [draw(audited, by=alice, auditors=[carol], seed=seed).pk for seed in (1, 2)]
    client = reviewer()
    path = reverse("admin:audit_batch_changelist")
    chosen = {"_selected_action": made}
    client.post(path, chosen | {"action": "assign", "auditor": dave.pk})
    assert all(set(batch.auditors.all()) == {carol, dave} for batch in Batch.objects.all())
    client.post(path, chosen | {"action": "unassign", "auditor": carol.pk})
    assert all(set(batch.auditors.all()) == {dave} for batch in Batch.objects.all())
    said = client.post(path, chosen | {"action": "assign"}, follow=True).content.decode()
    assert "Choose an auditor" in said
    client.post(path, chosen | {"action": "assign", "auditor": alice.pk})
    assert all(set(batch.auditors.all()) == {dave} for batch in Batch.objects.all())


def test_who_adjudicates_sees_all_answers_and_what_the_meta_judge_said(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol, dave], other_share=0.5, size=10)
    answer_by_forward(batch, carol)
    repeat = batch.items.filter(repeat_kind="other").select_related("original")[0]
    Answer.objects.filter(item=repeat).update(auditor_name="dave", comment="<b>both</b> miss it")
    path = reverse("admin:audit_item_change", args=[repeat.original_id])
    page = reviewer().get(path).content.decode()
    assert "<td>dave</td><td>repeat, item" in page
    assert "&lt;b&gt;both&lt;/b&gt; miss it" in page
    assert "Scores of A and B" in page


def test_a_lease_has_one_winner(batch: Batch, carol: User, dave: User) -> None:
    item = batch.items.all()[0]
    won = [annotation_queue._lease_item(item, person) for person in (carol, dave, carol)]
    assert won == [True, False, True]


def test_each_file_of_a_batch_is_described() -> None:
    assert list(FILE_CONTENTS) == list(FORMATS)


def test_the_report_says_whether_the_batch_passes_the_gate_and_counts_repeats(
    client: Client, audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], same_share=0.25, size=12)
    path = f"/audits/{batch.pk}"
    assert "Gate before training" not in client.get(path).content.decode()
    gate = Gate.objects.create(experiment=audited, min_answers=2)
    assert "neither fully answered nor closed" in client.get(path).content.decode()
    answer_by_forward(batch, carol)
    repeats = batch.items.exclude(repeat_kind="").count()
    assert repeats > 0
    page = " ".join(client.get(path).content.decode().split())
    assert f"Of {12 + repeats} answers, {repeats} repeat an item" in page
    assert "based on 12 distinct items, weighted" in page
    gate.min_answers = 500
    gate.save()
    said = "<b>Gate before training:</b> not passed: audit"
    assert said in client.get(path).content.decode()


def test_an_auditor_who_mostly_prefers_one_position_is_flagged() -> None:
    flags = {}
    for first in (8, 19):
        values = ["first"] * first + ["second"] * (20 - first)
        answers = [AuditorAnswer("carol", value, shown_first="first") for value in values]
        line = make_own_line(measure_auditors(answers, min_accuracy=0.5)[0])
        assert line is not None
        flags[first] = [share.flag for share in line.metrics if share.flag]
    assert flags == {8: [], 19: ["position bias"]}


def test_the_change_in_accuracy_is_that_of_the_chart_and_in_its_unit() -> None:
    graded = [AuditorAnswer("carol", said, "first") for said in ["first"] * 12 + ["second"] * 8]
    ungraded = [AuditorAnswer("carol", "tie")] * 15
    auditors = measure_auditors([*ungraded, *graded], min_accuracy=0.7)
    report = AuditorReport(tuple(auditors), 0, None)
    (line,) = make_auditor_lines(report)
    (chart,) = make_accuracy_charts(report, min_accuracy=0.7)
    assert [metric.name for metric in line.metrics] == ["Accuracy", "Change in accuracy"]
    change = line.metrics[1]
    assert (change.value, change.count) == ("-80 points", 20)
    assert chart.verdict == f"First half 100%, second half 20%: -80 points ({change.interval})."
    assert [row[1] for row in chart.table.rows] == ["100", "20"]
    assert chart.y_label == "accuracy in %"


def test_small_negative_numbers_have_no_sign() -> None:
    near = Estimate(-0.001, -0.2, 0.2, 30)
    point = TrendPoint(1, NO_ESTIMATE, NO_ESTIMATE, near, NO_ESTIMATE, NO_ESTIMATE, NO_ESTIMATE)
    kappa = make_trend([point]).lines[0].kappa
    assert (kappa.value, kappa.interval) == ("0.00", "-0.20 to 0.20")
