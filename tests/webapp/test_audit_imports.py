"""Files of answers from elsewhere: what can be read is imported, the rest is counted and named."""

import contextlib
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_reward_core.errors import InputError
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
from tests.webapp.test_audit_report import (
    answer_by_forward,
    by_two,
    exported,
    lines,
    repeated,
    row,
    send,
)
from webapp.activity.models import Activity
from webapp.audit import answer_files
from webapp.audit.answer_files import Entry, LeftOut, read_entries
from webapp.audit.imports import ImportResult, group_reasons, import_file
from webapp.audit.models import Answer, Batch, Item
from webapp.experiments.models import Experiment

__all__ = ["artifacts", "audited", "batch", "carol", "dave", "repeated"]

pytestmark = pytest.mark.django_db

ALIKE = {"from_name": "answer", "type": "choices", "value": {"choices": ["tie"]}}
HUGE = 10**400
DEEP: Any = "[" * 5_000 + "]" * 5_000


def load(drawn: Batch, alice: User, rows: list[Any], name: str = "answers.jsonl") -> ImportResult:
    """Import rows, each of them an object or the text of a line."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    text = "\n".join(texts) if name.endswith("jsonl") else f"[{','.join(texts)}]"
    return import_file(drawn, name, text.encode(), by=alice)


def only(done: ImportResult) -> LeftOut:
    (one,) = done.left_out
    return one


# One odd row does not refuse the others.


ODD_ROWS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "another batch": ({"batch": 10**6}, "belongs to batch 1000000"),
    "no such item": ({"item": 99}, "this batch has no such item"),
    "no number": ({"item": "one"}, "item is not a number"),
    "half an item": ({"item": 1.5}, "item is not a whole number"),
    "true as an item": ({"item": True}, "item is not a number"),
    "not a number at all": ({"item": float("nan")}, "item is not a finite number"),
    "an endless number": ({"item": float("inf")}, "item is not a finite number"),
    "a huge integer": ({"item": HUGE}, "item is not a finite number"),
    "a huge integer as text": ({"item": str(HUGE)}, "item is not a finite number"),
    "huge points": ({"points": HUGE}, "points is not a finite number"),
    "a list as an item": ({"item": [1]}, "item is not a number"),
    "an object as a batch": ({"batch": {"id": 1}}, "batch is not a number"),
    "unknown answer": ({"answer": "A"}, "answer 'A' is unknown; use first, second, tie, neither"),
    "no answer": ({"answer": ""}, "has no answer"),
    "an object as an answer": ({"answer": {"choice": "tie"}}, "answer is not text"),
    "our own word as what was shown": ({"shown": "first"}, "answer 'first' is unknown; use A, B"),
    "a list as what was shown": ({"shown": ["A"]}, "shown is neither a choice nor a number"),
    "unknown tag": ({"tags": ["rude"]}, "tags 'rude' is unknown"),
    "an object as tags": ({"tags": {"too long": 1}}, "tags is not a list"),
    "a list in tags": ({"tags": [["too long"]]}, "tags is not text"),
    "confidence": ({"confidence": 9}, "confidence 9 is unknown; use 1, 2 or 3"),
    "an object as an auditor": ({"auditor": {"name": "carol"}}, "auditor is not text"),
    "a list as an auditor": ({"auditor": ["carol"]}, "auditor is not text"),
    "a number as an auditor": ({"auditor": 7}, "auditor is not text"),
    "a long name": ({"auditor": "c" * 151}, "auditor is longer than 150 characters"),
    "a name of two lines": ({"auditor": "ca\nrol"}, "auditor contains unprintable"),
    "an object as a comment": ({"comment": {"text": "x"}}, "comment is not text"),
    "a long comment": ({"comment": "x" * 4001}, "comment is longer than 4000 characters"),
    "NUL in a comment": ({"comment": "a\0b"}, "comment contains the character NUL"),
    "NUL in a name": ({"auditor": "a\0b"}, "auditor contains the character NUL"),
    "half a surrogate pair": ({"comment": "\ud800"}, "comment contains half of a surrogate pair"),
    "half a name": ({"auditor": "\udfff"}, "auditor contains half of a surrogate pair"),
    "half an answer": ({"answer": "\ud800"}, "answer contains half of a surrogate pair"),
    "half a tag": ({"tags": ["\ud800"]}, "tags contains half of a surrogate pair"),
    "a list as seconds": ({"seconds": []}, "seconds is not a number"),
    "a negative time": ({"seconds": -1}, "seconds is below 0"),
    "annotations that are none": (
        {"annotations": 5, "data": {"batch": 3, "item": 1}},
        "has answers that are not a list",
    ),
    "data that is none": ({"annotations": [], "data": [1]}, "data is not an object"),
    "responses that are none": ({"responses": "x", "metadata": []}, "metadata is not an object"),
    "no place": ({"annotations": [{}]}, "batch is missing"),
    "not JSON": ('{"batch": }', "is not valid JSON"),
    "a list as a row": ("[1, 2]", "is not an object"),
    "a number as a row": ("7", "is not an object"),
    "an integer of 9,000 digits": (
        '{"batch": ' + "9" * 9_000 + "}",
        "batch is not a finite number",
    ),
    "nested lists": (DEEP, "is nested deeper than 32 levels"),
}


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.json"])
@pytest.mark.parametrize("changes, said", ODD_ROWS.values(), ids=ODD_ROWS)
def test_an_odd_row_is_left_out_with_its_reason_and_the_others_are_imported(
    changes: dict[str, Any] | str, said: str, name: str, batch: Batch, alice: User
) -> None:
    odd = changes if isinstance(changes, str) else row(batch, **changes)
    done = load(batch, alice, [row(batch, item=2), odd, row(batch, item=3)], name)
    assert (done.added, done.known) == (2, 0)
    assert said in only(done).reason
    assert only(done).where in ("line 2", "entry 2")
    assert set(Answer.objects.values_list("item__number", flat=True)) == {2, 3}


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.sampled_from(["\ud800", "\0", HUGE, "tie", "A", "draft"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "text", "value", "answer", "email", "\ud800"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    ),
    key=st.sampled_from(
        ["batch", "item", "auditor", "answer", "shown", "points", "confidence", "tags", "comment",
         "seconds", "annotations", "data", "responses", "metadata", "feedback", "source"]
    ),
    inside=st.sampled_from(["", "annotation", "result", "response", "question", "assessment"]),
)  # fmt: skip
@settings(max_examples=400)
def test_no_shape_of_an_entry_is_more_than_a_reason(value: Any, key: str, inside: str) -> None:
    place = {"batch": 3, "item": 1}
    shapes: dict[str, dict[str, Any]] = {
        "": {**place, "answer": "tie"},
        "annotation": {"data": place, "annotations": [{"result": [ALIKE], "completed_by": value}]},
        "result": {"data": place, "annotations": [{"result": [value, ALIKE]}, value]},
        "response": {"metadata": place, "responses": [{"values": {"answer": value}}, value]},
        "question": {"metadata": place, "responses": {"answer": [value], "comment": [value]}},
        "assessment": {"metadata": place, "feedback": {"value": value}, "source": {}},
    }
    content = json.dumps(shapes[inside] | {key: value}).encode()
    for one in read_entries("a.jsonl", content):
        assert isinstance(one, Entry | LeftOut)
        reasons = [one] if isinstance(one, LeftOut) else one.left_out
        for left in reasons:
            assert left.reason
            left.reason.encode()


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.csv", "a.json"]))
def test_no_bytes_are_more_than_a_refusal(content: bytes, name: str) -> None:
    with contextlib.suppress(InputError):
        assert all(isinstance(one, Entry | LeftOut) for one in read_entries(name, content))


@given(
    st.lists(
        st.recursive(
            st.text(',:"\\[]{}x', max_size=5) | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text("x]{", max_size=2), inner),
            max_leaves=8,
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
)  # fmt: skip
def test_an_array_is_cut_where_its_entries_end(entries: list[Any], indent: int | None) -> None:
    parts = answer_files._split_array(json.dumps(entries, indent=indent))
    assert [json.loads(part) for part in parts] == entries


def test_an_array_that_was_cut_off_gives_what_is_whole(batch: Batch, alice: User) -> None:
    text = json.dumps([row(batch, item=1), row(batch, item=2)])[:-10]
    done = import_file(batch, "a.json", text.encode(), by=alice)
    assert done.added == 1
    assert only(done) == LeftOut("entry 2", None, "is not valid JSON")


# Tasks and records that nobody has finished.


def label_studio(client: Client, drawn: Batch) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = json.loads(exported(client, drawn, "label-studio"))
    for task in tasks:
        task["annotations"] = [{"completed_by": 7, "result": [ALIKE]}]
    return tasks


def odd_annotation(change: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda task: task["annotations"][0].update(change)


def odd_value(value: Any) -> Callable[[dict[str, Any]], None]:
    return odd_annotation({"result": [{"from_name": "answer", "value": value}]})


ODD_TASKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "skipped": (odd_annotation({"was_cancelled": True}), "was skipped by the annotator"),
    "not annotated": (lambda task: task.update(annotations=[]), "has no submitted answer"),
    "annotations left out": (lambda task: task.pop("annotations"), "has no submitted answer"),
    "an empty annotation": (odd_annotation({"result": []}), "has no answer"),
    "a list as an annotation": (lambda t: t.update(annotations=[[1]]), "is not an object"),
    "a number as a result": (odd_annotation({"result": 5}), "result is not a list"),
    "numbers in a result": (odd_annotation({"result": [5]}), "result.0 is not an object"),
    "a list as a value": (odd_value(["tie"]), "is not an object"),
    "a number as choices": (odd_value({"choices": 5}), "choices is not a list"),
    "an object as a choice": (odd_value({"choices": [{}]}), "choices.0 is not text"),
    "two choices": (odd_value({"choices": ["A", "B"]}), "chooses several answers"),
    "an unknown choice": (odd_value({"choices": ["C"]}), "answer 'C' is unknown; use A, B, tie"),
    "an object as a person": (odd_annotation({"completed_by": {"x": 1}}), "neither email nor id"),
    "an object in a person": (odd_annotation({"completed_by": {"email": {}, "id": {}}}),
                              "completed_by is not text"),
    "a list as a person": (odd_annotation({"completed_by": [7]}), "completed_by is not text"),
    "an object as a time": (odd_annotation({"lead_time": {}}), "seconds is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("make_odd, said", ODD_TASKS.values(), ids=ODD_TASKS)
def test_an_odd_task_of_label_studio_is_left_out_alone(
    make_odd: Callable[[dict[str, Any]], Any],
    said: str,
    client: Client,
    batch: Batch,
    alice: User,
) -> None:
    tasks = label_studio(client, batch)
    make_odd(tasks[3])
    done = import_file(batch, "done.json", json.dumps(tasks).encode(), by=alice)
    assert (done.added, done.known) == (11, 0)
    assert (only(done).where, only(done).item) == ("entry 4", tasks[3]["data"]["item"])
    assert said in only(done).reason


def test_a_skipped_annotation_leaves_the_other_one_of_its_task(
    client: Client, repeated: Batch, alice: User
) -> None:
    tasks = json.loads(by_two(json.loads(exported(client, repeated, "label-studio"))))
    tasks[0]["annotations"][0]["was_cancelled"] = True
    done = import_file(repeated, "done.json", json.dumps(tasks).encode(), by=alice)
    assert (done.added, only(done).reason) == (23, "was skipped by the annotator")


@pytest.mark.parametrize("names, count, said", [
    ((7, 8, 9), 3, "has 3 answers, but its item can have 2"),
    ((7, 7), 2, "has several answers by one auditor"),
])  # fmt: skip
def test_a_task_with_more_answers_than_its_item_is_asked_for_is_left_out_alone(
    names: tuple[int, ...], count: int, said: str, client: Client, repeated: Batch, alice: User
) -> None:
    tasks = json.loads(exported(client, repeated, "label-studio"))
    odd = json.loads(by_two(tasks[:1], names))
    content = json.dumps(odd + json.loads(by_two(tasks[1:]))).encode()
    done = import_file(repeated, "done.json", content, by=alice)
    assert done.added == 22
    assert [said in one.reason for one in done.left_out] == [True] * count


def argilla(client: Client, drawn: Batch) -> list[dict[str, Any]]:
    records = lines(exported(client, drawn, "argilla"))
    for record in records:
        record["responses"] = {"answer": [{"value": "tie", "user_id": "u1"}]}
    return records


def submitted(**changes: Any) -> list[dict[str, Any]]:
    response = {"user_id": "u1", "status": "submitted", "values": {"answer": {"value": "tie"}}}
    return [response | changes]


ODD_RECORDS: dict[str, tuple[Any, str]] = {
    "pending": ([], "has no submitted answer"),
    "pending by question": ({}, "has no submitted answer"),
    "without responses": (None, "has no submitted answer"),
    "without answers": ({"answer": []}, "has no submitted answer"),
    "a draft": (submitted(status="draft"), "has not been submitted"),
    "a draft by question": ({"answer": [{"value": "A", "user_id": "u", "status": "draft"}]},
                            "has not been submitted"),
    "discarded": (submitted(status="discarded", values=None), "was discarded"),
    "a list as values": (submitted(values=[1]), "values is not an object"),
    "a list as a value": (submitted(values={"answer": {"value": ["A"]}}), "shown is neither"),
    "a number as a response": ([5], "is not an object"),
    "an object as answers": ({"answer": {"value": "A"}}, "has answers that are not a list"),
    "a number as an answer": ({"answer": [5]}, "is not an object"),
    "an object as a person": (submitted(user_id={"name": "u"}), "neither email nor id"),
    "half a person": (submitted(user_id="\ud800"), "user_id contains half of a surrogate pair"),
    "text as responses": ("tie", "has answers that are not a list"),
}  # fmt: skip


@pytest.mark.parametrize("responses, said", ODD_RECORDS.values(), ids=ODD_RECORDS)
def test_an_odd_record_of_argilla_is_left_out_alone(
    responses: Any, said: str, client: Client, batch: Batch, alice: User
) -> None:
    records = argilla(client, batch)
    records[3]["responses"] = responses
    done = load(batch, alice, records)
    assert (done.added, done.known) == (11, 0)
    assert (only(done).where, only(done).item) == ("line 4", records[3]["metadata"]["item"])
    assert said in only(done).reason


# MLflow and CSV.


@pytest.mark.parametrize(
    "form, name", [("mlflow", "a.jsonl"), ("csv", "a.csv"), ("jsonl", "a.jsonl")]
)
def test_our_exports_come_back(
    form: str, name: str, client: Client, batch: Batch, carol: User, alice: User
) -> None:
    columns = ("item", "auditor_name", "choice", "points", "confidence", "tags", "comment")
    answer_by_forward(batch, carol)
    texts = ["=1+1", "x;=1+1", "'tis", "a\t=b", "\u200b@x", "- a\n- b", '"=1"', "-1.5"]
    for item, comment in zip(batch.items.all(), texts, strict=False):
        Answer.objects.filter(item=item).update(comment=comment, tags=["too long", "off topic"])
    before = list(Answer.objects.order_by("item").values(*columns))
    content = exported(client, batch, form)
    assert import_file(batch, name, content, by=alice) == ImportResult(0, 12)
    Answer.objects.all().delete()
    Item.objects.update(is_answered=False)
    assert import_file(batch, name, content, by=alice) == ImportResult(12, 0)
    assert list(Answer.objects.order_by("item").values(*columns)) == before


def test_an_odd_assessment_of_mlflow_is_left_out_alone(
    client: Client, batch: Batch, carol: User, alice: User
) -> None:
    answer_by_forward(batch, carol)
    rows = lines(exported(client, batch, "mlflow"))
    odd: list[dict[str, Any]] = [
        {"feedback": None},
        {"metadata": []},
        {"source": {"source_id": {}}},
        {"rationale": {}},
    ]
    changed = [one | change for one, change in zip(rows, odd, strict=False)] + rows[len(odd) :]
    done = load(batch, alice, changed)
    assert (done.added, done.known) == (0, 12 - len(odd))
    assert [one.reason for one in done.left_out] == [
        "feedback is not an object",
        "metadata is not an object",
        "source.source_id has neither email nor id",
        "comment is not text",
    ]


def table(drawn: Batch, *rows: list[Any]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows([["batch", "item", "answer", "comment"], *rows])
    return sink.getvalue().encode()


def test_an_odd_line_of_csv_is_left_out_alone(batch: Batch, alice: User) -> None:
    rows: list[list[Any]] = [
        [batch.pk, 1, "tie", "two\nlines"],
        [batch.pk, 2, "tie", "a comment", "and a cell more"],
        [batch.pk, "x", "tie", ""],
        [batch.pk, 4, "tie"],
    ]
    done = import_file(batch, "a.csv", table(batch, *rows), by=alice)
    assert done.added == 2
    assert [(one.where, one.reason) for one in done.left_out] == [
        ("line 4", "has more cells than the header"),
        ("line 5", "item is not a number"),
    ]


def test_nothing_is_read_after_csv_that_is_not_well_formed(batch: Batch, alice: User) -> None:
    """A text behind a broken quotation may hold lines that look like answers."""
    good, hidden = table(batch, [batch.pk, 1, "tie", ""]), f"{batch.pk},2,first,\r\n"
    for broken in (f'{batch.pk},3,tie,"a" b\r\n{hidden}', f'{batch.pk},3,tie,"a\r\n{hidden}'):
        done = import_file(batch, "a.csv", good + broken.encode(), by=alice)
        assert done.added + done.known == 1
        assert only(done).where == "line 3"
        assert "nothing after it was read" in only(done).reason
    assert Answer.objects.get().item.number == 1


# What a file or a batch says twice.


def test_an_item_answered_twice_alike_counts_once(batch: Batch, alice: User) -> None:
    done = load(batch, alice, [row(batch), row(batch, seconds=5)])
    assert (done.added, only(done).reason) == (1, "it repeats an earlier answer")


def test_of_answers_that_contradict_each_other_none_is_imported(batch: Batch, alice: User) -> None:
    rows = [row(batch, item=1), row(batch, item=2), row(batch, item=1, answer="first")]
    done = load(batch, alice, rows)
    assert done.added == 1
    reason = "line 1 and line 3 give different answers to this item: keep one"
    assert {one.reason for one in done.left_out} == {reason}
    assert Answer.objects.get().item.number == 2


def test_an_answer_that_is_there_is_kept_and_the_rest_of_the_file_imported(
    batch: Batch, carol: User, alice: User
) -> None:
    item = take(browser(carol), batch)
    give(browser(carol), item, "A")
    kept = Answer.objects.get()
    others = [one for one in batch.items.all() if one.pk != item.pk]
    done = load(batch, alice, [row(batch, item=one.number) for one in [item, *others]])
    assert (done.added, only(done).item) == (11, item.number)
    assert only(done).reason == "its item already has a different answer"
    assert Answer.objects.get(item=item).choice == kept.choice
    assert Activity.objects.filter(action="imported").count() == 11


def test_an_item_that_somebody_looks_at_is_left_to_them(
    batch: Batch, carol: User, alice: User
) -> None:
    item = take(browser(carol), batch)
    rows = [row(batch, item=one.number) for one in batch.items.all()]
    done = load(batch, alice, rows)
    assert (done.added, only(done).item) == (11, item.number)
    assert "the item is being answered now" in only(done).reason


# What refuses the whole file.


@pytest.mark.parametrize("name, content, said", [
    ("a.csv", b"\xff\xfe", "is not UTF-8"),
    ("a.csv", b"batch,item\n", "contains no answers"),
    ("a.csv", b"title\nhello\n", "have one column &#x27;batch&#x27;"),
    ("a.csv", b"batch,item,item\n1,2,3\n", "have one column &#x27;item&#x27;"),
    ("a.csv", b"batch;item\n1;2\n", "comma-separated"),
    ("a.csv", b"", "contains no answers"),
    ("a.jsonl", b"\n", "contains no answers"),
    ("a.json", b"[]", "contains no answers"),
    ("a.jsonl", b'{"batch": 0, "item": 1}\n{', "belongs to batch 0, but this is batch"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_whole(
    name: str, content: bytes, said: str, client: Client, batch: Batch
) -> None:
    if not content:
        content, said = b"\n", "have one column"
    assert said in send(client, batch, name, content)
    assert not Answer.objects.exists()


def test_a_file_with_more_entries_than_any_batch_is_refused(
    batch: Batch, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "MAX_ENTRIES", 2)
    with pytest.raises(InputError, match="has more than 2 entries"):
        load(batch, alice, [row(batch, item=number) for number in (1, 2, 3)])
    assert not Answer.objects.exists()


def test_a_closed_batch_takes_no_file(batch: Batch, alice: User) -> None:
    batch.status = "closed"
    with pytest.raises(InputError, match="the batch is closed"):
        load(batch, alice, [row(batch)])


def test_responses_are_imported_with_their_points(audited: Experiment, alice: User) -> None:
    drawn = draw(audited, by=alice, auditors=[], kind="responses", strategy="uniform", size=4)
    rows = [
        {"batch": drawn.pk, "item": number, "points": points}
        for number, points in enumerate([0, "4.5", 5.5, None], start=1)
    ]
    done = load(drawn, alice, rows)
    assert [one.reason for one in done.left_out] == [
        "the score is not a number from 0 to 5",
        "has no score",
    ]
    assert set(Answer.objects.values_list("points", flat=True)) == {0, 4.5}


# What the page says.


def test_the_page_says_what_was_imported_and_what_was_left_out(
    client: Client, batch: Batch
) -> None:
    rows = [row(batch, item=1), row(batch, item=99), row(batch, item=98)]
    rows += [row(batch, item=2, auditor={"name": "<b>carol</b>"})]
    page = send(client, batch, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert "Imported 1 answer; 0 already imported, 3 skipped." in page
    assert "this batch has no such item</th><td>2</td>" in page
    assert "line 2 (item 99), line 3 (item 98)" in page
    assert "auditor is not text" in page
    assert "All other entries were imported; correct these" in page


def test_a_file_of_which_nothing_can_be_imported_is_refused_with_the_reasons(
    client: Client, batch: Batch
) -> None:
    page = send(client, batch, "a.jsonl", b'{"batch": "\\ud800"}\n[')
    assert "Imported 0 answers; 0 already imported, 2 skipped." in page
    assert "batch is not a number" in page
    assert "is not valid JSON" in page
    assert "No entry was imported. Correct these" in page


def test_many_reasons_are_gathered_and_cut() -> None:
    left_out = [LeftOut(f"line {n}", n, "a reason") for n in range(12)]
    left_out += [LeftOut(f"line {n}", None, f"reason {n}") for n in range(20, 50)]
    first, *others = group_reasons(left_out)
    assert (first.text, first.count) == ("a reason", 12)
    assert first.positions.startswith("line 0 (item 0), line 1 (item 1)")
    assert first.positions.endswith("and 2 more")
    assert len(others) == 20
    assert (others[-1].text, others[-1].count) == ("other reasons", 11)


def test_a_file_with_far_more_entries_than_items_is_refused_without_reading_it_all(
    client: Client, batch: Batch
) -> None:
    page = send(client, batch, "answers.json", b"[" + b"1," * 400_000 + b"1]")
    assert "too many for the items of this batch" in page
    assert not Answer.objects.exists()
