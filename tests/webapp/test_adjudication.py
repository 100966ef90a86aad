"""Review leads decide between answers: on the site and in the admin, by one rule and one log."""

import csv
import html
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.db.models import Model, Q
from django.test import Client
from django.urls import reverse

from meta_reward_core.errors import InputError
from tests.webapp.audit_fixtures import artifacts, audited, browser, carol, dave, draw
from tests.webapp.conftest import make_person
from webapp.activity.models import Activity
from webapp.audit import annotation_queue
from webapp.audit.adjudication import Decision, adjudicate_item, save_draft
from webapp.audit.auditor_report import make_auditor_report
from webapp.audit.batch_report import get_final_value, make_report
from webapp.audit.forms import to_item_choice, to_shown_letter
from webapp.audit.human_preference_pairs import iter_preferred
from webapp.audit.models import (
    AdjudicationDraft,
    Answer,
    Batch,
    Gate,
    GateOverride,
    HiddenVerdict,
    Item,
    KnownItem,
)
from webapp.audit.review_items import (
    annotate_disagreements,
    count_progress,
    get_reviewable_items,
    select_items,
)
from webapp.audit.services import override_gate, write_gate
from webapp.experiments.models import Experiment

__all__ = ["artifacts", "audited", "carol", "dave"]
pytestmark = pytest.mark.django_db
HOSTILE = "</textarea><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def lead(db: None) -> User:
    return make_person("lena", "lead")


@pytest.fixture
def second(db: None) -> User:
    return make_person("liam", "lead")


def answer_all(batch: Batch, *people: User) -> None:
    """Each takes turns and answers as the meta-judge's forward verdict, or a tie."""
    left = True
    while left:
        left = False
        for person in people:
            item = annotation_queue.lease_next_item(batch, person)
            if item is None:
                continue
            left = True
            said = item.hidden_verdict.facts["forward"] or "tie"
            given = annotation_queue.AnswerInput(said, None, 2, (), "", 3.0)
            assert annotation_queue.submit_answer(item, person, given)


@pytest.fixture
def answered(audited: Experiment, alice: User, carol: User, dave: User) -> Batch:
    """Ten items, five of them answered by both; on two of these they differ."""
    batch = draw(
        audited, by=alice, auditors=[carol, dave], size=10, other_share=0.5, same_share=0.2
    )
    answer_all(batch, carol, dave)
    repeats = batch.items.filter(repeat_kind="other").select_related("answer", "original__answer")
    for repeat in repeats[:2]:
        assert repeat.original is not None
        unlike = "neither" if repeat.original.answer.choice != "neither" else "tie"
        Answer.objects.filter(item=repeat).update(choice=unlike, comment="see the rubric")
    return batch


def conflicts(batch: Batch) -> list[Item]:
    rows = annotate_disagreements(batch.items.filter(repeat_kind=""))
    return [row for row in rows.order_by("number") if row.differs]


def where(item: Item, what: str = "") -> str:
    return f"/audits/{item.batch_id}/items/{item.number}/review{what}"


def decide(client: Client, item: Item, letter: str = "A", **values: Any) -> Any:
    item.refresh_from_db()
    given = {"choice": letter, "reason": "the rubric decides", "version": item.adjudication_version}
    return client.post(where(item), given | values)


def test_the_queue_shows_items_on_which_auditors_differ_first(answered: Batch, lead: User) -> None:
    page = browser(lead).get("/audits/items").content.decode()
    links = re.findall(r'<th scope="row"><a href="/audits/\d+/items/(\d+)/review', page)
    first = [item.number for item in conflicts(answered)]
    assert len(first) == 2
    assert [int(number) for number in links[:2]] == first
    assert "auditors differ" in page


def test_a_lead_decides_and_is_led_to_the_next_item(answered: Batch, lead: User) -> None:
    client = browser(lead)
    first, following = conflicts(answered)
    page = client.get(where(first)).content.decode()
    for text in ("carol", "dave", "Elo of A and B", "Meta-judge, A shown first", "see the rubric"):
        assert text in page
    assert decide(client, first)["Location"] == where(following)
    first.refresh_from_db()
    assert first.adjudicated == to_item_choice("A", first)
    assert (first.adjudicated_by, first.adjudication) == (lead, "the rubric decides")
    row = Activity.objects.get(action="adjudicated")
    assert (row.actor, row.object_id, row.reason) == (lead, first.pk, "the rubric decides")
    assert row.before == {"adjudicated": ""}
    assert row.experiment == answered.experiment


@pytest.mark.parametrize("reason", ["", "   ", "no", "x" * 2001])
def test_a_decision_without_a_reason_is_refused(answered: Batch, lead: User, reason: str) -> None:
    item = conflicts(answered)[0]
    answer = decide(browser(lead), item, reason=reason)
    assert answer.status_code == 422
    assert 'class="errorlist"' in answer.content.decode()
    item.refresh_from_db()
    assert not item.adjudicated
    assert not Activity.objects.filter(action="adjudicated").exists()


@pytest.mark.parametrize("choice", ["", "first", "both", "a", HOSTILE, "5"])
def test_a_decision_that_no_auditor_could_give_is_refused(
    answered: Batch, lead: User, choice: str
) -> None:
    item = conflicts(answered)[0]
    assert decide(browser(lead), item, choice).status_code == 422
    item.refresh_from_db()
    assert not item.adjudicated


def test_of_two_leads_on_one_item_the_second_is_told_and_loses_nothing(
    answered: Batch, lead: User, second: User
) -> None:
    item = conflicts(answered)[0]
    lena, liam = browser(lead), browser(second)
    lena.get(where(item))
    assert "lena is adjudicating this item now" in liam.get(where(item)).content.decode()
    decide(lena, item, "A")
    late = decide(liam, item, "B", version=0, reason="B quotes the source")
    assert late.status_code == 409
    page = late.content.decode()
    assert "Your decision was not saved, because lena changed this item" in page
    assert "B quotes the source" in page
    item.refresh_from_db()
    assert item.adjudicated == to_item_choice("A", item)
    again = liam.get(where(item)).content.decode()
    assert "B quotes the source" in again
    assert re.search(r'value="B"[^>]* checked', again)
    assert decide(liam, item, "B", reason="B quotes the source").status_code == 302
    item.refresh_from_db()
    assert (item.adjudicated, item.adjudicated_by) == (to_item_choice("B", item), second)
    log = Activity.objects.filter(action="adjudicated").order_by("pk")
    assert [row.actor for row in log] == [lead, second]
    assert log[1].before["adjudicated_by"] == "lena"


def test_a_claim_keeps_other_leads_from_being_sent_to_the_same_item(
    answered: Batch, lead: User, second: User
) -> None:
    first, following = conflicts(answered)
    browser(lead).get(where(following))
    assert decide(browser(second), first)["Location"] != where(following)


def test_an_item_that_a_lead_leaves_is_free_unless_there_is_a_draft(
    answered: Batch, lead: User, second: User
) -> None:
    first, following = conflicts(answered)
    lena, liam = browser(lead), browser(second)
    said = "lena is adjudicating this item now"
    lena.get(where(first))
    assert said in liam.get(where(first)).content.decode()
    lena.get(where(following))
    assert said not in liam.get(where(first)).content.decode()
    lena.post(where(following, "/draft"), {"choice": "B", "reason": "", "version": "0"})
    lena.get(where(first))
    liam.get(where(first))
    assert said in liam.get(where(following)).content.decode()


def test_a_draft_survives_a_reload_and_belongs_to_its_lead(
    answered: Batch, lead: User, second: User
) -> None:
    item = conflicts(answered)[0]
    client = browser(lead)
    sent = client.post(where(item, "/draft"), {"choice": "B", "reason": "hm", "version": "0"})
    assert re.fullmatch(r"Draft saved \d\d:\d\d:\d\d\.", sent.content.decode())
    page = client.get(where(item)).content.decode()
    assert 'hx-trigger="change from:#answer, input changed' in page, "pasted text is sent, too"
    assert ">\nhm</textarea>" in page
    assert re.search(r'value="B"[^>]* checked', page)
    assert ">\nhm</textarea>" not in browser(second).get(where(item)).content.decode()
    decide(client, item)
    assert not AdjudicationDraft.objects.exists()


def test_a_lead_who_leaves_without_filling_in_anything_leaves_no_draft(
    answered: Batch, lead: User
) -> None:
    client = browser(lead)
    item = conflicts(answered)[0]
    nothing = {"choice": "", "reason": " ", "version": "0"}
    assert client.post(where(item, "/draft"), nothing).content == b""
    assert not AdjudicationDraft.objects.exists()
    client.post(where(item, "/draft"), nothing | {"choice": "B"})
    assert AdjudicationDraft.objects.get().choice == to_item_choice("B", item)
    client.post(where(item, "/draft"), nothing)
    assert not AdjudicationDraft.objects.exists(), "what was taken back is not kept"


def test_a_draft_that_comes_behind_its_decision_is_not_kept(answered: Batch, lead: User) -> None:
    item = conflicts(answered)[0]
    client = browser(lead)
    decide(client, item)
    client.post(where(item, "/draft"), {"choice": "B", "reason": "late", "version": "0"})
    assert not AdjudicationDraft.objects.exists()


def test_a_draft_that_arrives_after_two_decisions_is_not_kept(answered: Batch, lead: User) -> None:
    first, second = conflicts(answered)
    client = browser(lead)
    decide(client, first)
    decide(client, second)
    late = {"choice": "A", "reason": "the rubric", "version": "0"}
    assert client.post(where(first, "/draft"), late).content == b""
    assert not AdjudicationDraft.objects.exists()
    assert "Draft restored" not in client.get(where(first)).content.decode()
    client.post(where(first, "/draft"), late | {"version": "1"})
    assert AdjudicationDraft.objects.get().item == first, "input that is newer than the decision"


def test_a_late_draft_does_not_replace_what_an_undone_decision_left(
    answered: Batch, lead: User
) -> None:
    item = conflicts(answered)[0]
    client = browser(lead)
    decide(client, item, "tie", reason="both miss it")
    client.post(where(item, "/undo"))
    client.post(where(item, "/draft"), {"choice": "tie", "reason": "", "version": "1"})
    draft = AdjudicationDraft.objects.get()
    assert (draft.choice, draft.reason) == ("tie", "both miss it")


def test_a_draft_of_a_lead_whose_item_another_lead_decided_is_kept(
    answered: Batch, lead: User, second: User
) -> None:
    item = conflicts(answered)[0]
    decide(browser(second), item)
    browser(lead).post(where(item, "/draft"), {"choice": "B", "reason": "mine", "version": "0"})
    assert AdjudicationDraft.objects.get().lead == lead


def test_a_closed_batch_shows_its_items_without_a_decision(answered: Batch, lead: User) -> None:
    client = browser(lead)
    shown = client.get(f"/audits/{answered.pk}").content.decode()
    count = re.search(r"Adjudicate: (\d+) items without a decision", shown)
    assert count
    close = f"/audits/{answered.pk}/close"
    closed = client.post(close, {"status": "closed"}, follow=True).content.decode()
    assert f"Batch {answered.pk} was closed." in closed
    said = f"closed, {count[1]} items without a decision"
    assert said in closed
    assert "Adjudicate:" not in closed
    assert said in client.get("/audits").content.decode()
    listed = client.get(f"/audits/items?batch={answered.pk}&state=undecided")
    assert f"{count[1]} items in this list" in listed.content.decode()
    User.objects.update(is_staff=True)
    for path in ("/admin/audit/batch/", f"/admin/audit/batch/{answered.pk}/change/"):
        page = client.get(path).content.decode()
        assert said in page
        assert "adjudicate batch" not in page
    reopened = client.post(close, {"status": "open"}, follow=True).content.decode()
    assert f"Batch {answered.pk} was reopened." in reopened


def test_every_answer_is_compared_with_the_meta_judge(answered: Batch, lead: User) -> None:
    item = conflicts(answered)[0]
    facts = item.hidden_verdict.facts | {"forward": "first", "backward": "first"}
    HiddenVerdict.objects.filter(item=item).update(facts=facts)
    Answer.objects.filter(item=item).update(choice="first")
    other = Answer.objects.filter(item__original=item, item__repeat_kind="other")
    other.update(choice="second")
    found = annotate_disagreements(Item.objects.filter(pk=item.pk)).get()
    assert found.against
    other.update(choice="first")
    assert not annotate_disagreements(Item.objects.filter(pk=item.pk)).get().against


def test_the_admin_asks_for_a_reason_of_its_own_for_a_new_decision(
    answered: Batch, lead: User, second: User
) -> None:
    item = conflicts(answered)[0]
    decide(browser(lead), item, reason="the reason of lena")
    User.objects.update(is_staff=True)
    page = browser(second).get(f"/admin/audit/item/{item.pk}/change/").content.decode()
    field = re.search(r'<textarea[^>]*name="adjudication"[^>]*>([^<]*)<', page)
    assert field
    assert not field[1].strip()
    assert "the reason of lena" in page, "as the current decision"


def test_undo_of_older_decisions_asks_first(answered: Batch, lead: User) -> None:
    first, second = conflicts(answered)
    client = browser(lead)
    decide(client, first)
    decide(client, second)
    direct = f"Undo your last decision: item {second.number} of batch {answered.pk}"
    assert direct in client.get("/audits/items").content.decode()
    assert direct not in browser(lead).get("/audits/items").content.decode(), "another session"
    client.post(where(second, "/undo"))
    asked = f"Undo the decision on item {first.number} of batch {answered.pk}"
    User.objects.update(is_staff=True)
    for path in ("/audits/items", where(second), f"/admin/audit/item/{second.pk}/change/"):
        page = client.get(path).content.decode()
        assert "Undo your last decision" not in page
        assert asked in page
        assert re.search(r'<summary data-key="u">Undo an earlier decision', page)


def test_lists_show_own_drafts(answered: Batch, lead: User, second: User) -> None:
    item = conflicts(answered)[0]
    save_draft(item, lead, choice="first", reason="half a reason")
    User.objects.update(is_staff=True)
    for path in ("/audits/items", "/admin/audit/item/"):
        own = browser(lead).get(path, {"state": "drafts"}).content.decode()
        assert f"Item {item.number} of batch {answered.pk}" in own
        assert re.search(r">draft</(span|div)>", own)
        other = browser(second).get(path, {"state": "drafts"}).content.decode()
        assert f"Item {item.number} of batch {answered.pk}" not in other
        every = browser(second).get(path).content.decode()
        assert f"Item {item.number} of batch {answered.pk}" in every
        assert not re.search(r">draft</(span|div)>", every)


def test_item_pages_show_the_progress_and_a_summary(answered: Batch, lead: User) -> None:
    first, second = conflicts(answered)
    client = browser(lead)
    left = count_progress(select_items(lead, {"state": "all"})).left
    decide(client, first)
    User.objects.update(is_staff=True)
    for path in (where(second), f"/admin/audit/item/{second.pk}/change/"):
        assert f"1 decided, {left - 1} left" in client.get(path).content.decode()
    page = client.get(where(second)).content.decode()
    summary = re.search(r'class="audit-summary">([^<]*)<', page)
    assert summary
    assert re.fullmatch(r"carol: .*, dave: .*; meta-judge: .*, .*|dave: .*, carol: .*", summary[1])
    assert page.index("audit-summary") > page.index("Judgment B"), "above the form"


def test_undo_returns_to_what_counted_before(answered: Batch, lead: User, second: User) -> None:
    item = conflicts(answered)[0]
    decide(browser(lead), item, "tie", reason="both miss it")
    decide(browser(second), item, "neither", reason="both are wrong")
    assert browser(lead).post(where(item, "/undo")).status_code == 302, "not theirs anymore"
    item.refresh_from_db()
    assert item.adjudicated == "neither"
    undone = browser(second).post(where(item, "/undo"), follow=True).content.decode()
    said = f"Undone: item {item.number} of batch {item.batch_id}, neither"
    assert said in undone
    assert "The decision of lena applies again: tie." in undone
    assert re.search(r'value="neither"[^>]* checked', undone), "the choice is kept as a draft"
    first = Activity.objects.filter(action="adjudicated").earliest("pk")
    item.refresh_from_db()
    is_original = item.adjudicated_at == first.created
    assert is_original, "the time of the decision that applies again"
    assert (item.adjudicated, item.adjudicated_by, item.adjudication) == (
        "tie", lead, "both miss it"
    )  # fmt: skip
    assert "both are wrong" in browser(second).get(where(item)).content.decode()
    browser(lead).post(where(item, "/undo"))
    item.refresh_from_db()
    assert (item.adjudicated, item.adjudicated_by_name, item.adjudicated_at) == ("", "", None)
    assert Activity.objects.filter(action="adjudication_undone").count() == 2


def test_undo_gives_a_decision_back_to_no_later_account_of_its_name(
    answered: Batch, lead: User, second: User
) -> None:
    item = conflicts(answered)[0]
    decide(browser(lead), item, "tie", reason="both miss it")
    decide(browser(second), item, "neither", reason="both are wrong")
    name = lead.username
    lead.delete()
    later = make_person(name, "lead")
    browser(second).post(where(item, "/undo"))
    item.refresh_from_db()
    assert (item.adjudicated, item.adjudicated_by_name, item.adjudicated_by) == ("tie", name, None)
    browser(later).post(where(item, "/undo"))
    item.refresh_from_db()
    assert item.adjudicated == "tie"


def test_results_of_a_closed_batch_are_final(answered: Batch, lead: User) -> None:
    item = conflicts(answered)[0]
    client = browser(lead)
    decide(client, item)
    Batch.objects.update(status="closed")
    assert decide(client, item, "B").status_code == 422
    client.post(where(item, "/undo"))
    page = client.get(where(item)).content.decode()
    assert "Reopen the batch to adjudicate" in page
    User.objects.update(is_staff=True)
    change = reverse("admin:audit_item_change", args=[item.pk])
    given = {"adjudicated": "tie", "adjudication": "because I say so", "version": 1}
    assert client.post(change, given).status_code == 403
    item.refresh_from_db()
    assert item.adjudicated == to_item_choice("A", item)
    assert item.adjudication_version == 1


def test_a_repeat_is_reviewed_as_the_item_that_it_repeats(answered: Batch, lead: User) -> None:
    repeat = answered.items.filter(repeat_kind="other")[0]
    page = browser(lead).get(where(repeat)).content.decode()
    assert repeat.original is not None
    assert f"<h1>Item {repeat.original.number} of batch {answered.pk}</h1>" in page
    with pytest.raises(InputError, match="repeat"):
        adjudicate_item(repeat, Decision("tie", "long enough", 0), by=lead)


def test_who_may_still_be_asked_to_answer_sees_no_answers(
    audited: Experiment, alice: User, carol: User, lead: User
) -> None:
    lead.groups.add(*carol.groups.all())
    batch = draw(audited, by=alice, auditors=[carol, lead], size=10, other_share=0.5)
    item = annotation_queue.lease_next_item(batch, carol)
    assert item is not None
    given = annotation_queue.AnswerInput("tie", None, 2, (), "", 3.0)
    annotation_queue.submit_answer(item, carol, given)
    client = browser(lead)
    unanswered = batch.items.filter(is_answered=False, repeat_kind="")
    with_repeat = batch.items.filter(repeats__isnull=False)
    assert unanswered.exists()
    for hidden in [*unanswered[:2], *with_repeat[:2]]:
        assert client.get(where(hidden)).status_code == 404
    answer_all(batch, lead, carol)
    assert get_reviewable_items(lead).count() == 10
    page = client.get(where(batch.items.filter(answer__auditor=lead)[0])).content.decode()
    assert "(you)" in page


@pytest.mark.parametrize("roles", [(), ("auditor",), ("viewer",), ("operator",)])
def test_nobody_else_decides(answered: Batch, roles: tuple[str, ...]) -> None:
    client = browser(make_person("nora", *roles))
    item = conflicts(answered)[0]
    for path in (where(item), where(item, "/draft"), where(item, "/undo")):
        given = {"choice": "A", "reason": "long enough", "version": 0}
        assert client.post(path, given).status_code in (403, 404)
    item.refresh_from_db()
    assert not item.adjudicated
    may_read = client.get(where(item)).status_code == 200
    assert may_read == bool({"viewer", "operator"} & set(roles))


def test_items_of_a_private_experiment_are_hidden_from_leads(answered: Batch, lead: User) -> None:
    Experiment.objects.update(is_private=True)
    client = browser(lead)
    item = conflicts(answered)[0]
    assert client.get(where(item)).status_code == 404
    assert decide(client, item).status_code == 404
    assert "0 items" in client.get("/audits/items?state=all&disagreement=all").content.decode()
    User.objects.update(is_staff=True)
    change = reverse("admin:audit_item_change", args=[item.pk])
    assert client.get(change).status_code == 302


FILTERS: Final[Mapping[str, Callable[[Item], dict[str, Any]]]] = {
    "batch": lambda item: {"batch": item.batch_id},
    "stratum": lambda item: {"stratum": item.stratum},
    "auditor": lambda item: {"auditor": item.answer.auditor_name},
    "tag": lambda _: {"tag": "too long"},
    "confidence": lambda _: {"confidence": "1"},
    "decided": lambda item: {
        "decided": "yes" if item.hidden_verdict.facts["decided_pair"] else "no"
    },
    "text": lambda item: {"q": item.instruction[:12]},
    "comment": lambda _: {"q": "quite 100% odd_"},
    "comments": lambda _: {"comments": "yes"},
    "experiment": lambda item: {"experiment": item.batch.experiment_name, "iteration": 1},
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_keeps_what_it_names_and_leaves_out_others(
    answered: Batch, lead: User, name: str
) -> None:
    item = answered.items.filter(repeat_kind="").select_related("answer", "hidden_verdict")[3]
    Answer.objects.filter(item=item).update(
        tags=["wrong fact", "too long"], confidence=1, comment="is quite 100% odd_ here"
    )
    item.refresh_from_db()
    client = browser(lead)
    everything = {"state": "all", "disagreement": "all"}
    found = list_numbers(client, everything | FILTERS[name](item))
    assert item.number in found
    if name in ("tag", "confidence", "comment"):
        assert found == [item.number]
    nothing = {"tag": "off topic", "confidence": "3", "text": "zz zz",
               "comment": "zz zz"}.get(name)  # fmt: skip
    if nothing is not None:
        field = {"text": "q", "comment": "q"}.get(name, name)
        assert list_numbers(client, everything | {field: nothing}) == []


def test_headings_sort_the_list_and_keep_its_filter(answered: Batch, lead: User) -> None:
    client = browser(lead)
    everything = {"state": "all", "disagreement": "all"}
    page = client.get("/audits/items", everything).content.decode()
    found = re.findall(r'<th scope="col"( aria-sort="other")?><a href="([^"]*)" title="', page)
    assert [bool(current) for current, _ in found] == [False, True, False, False]
    orders = {}
    for _, link in found:
        path = html.unescape(link)
        listed = client.get(path).content.decode()
        assert listed.count('aria-sort="other"') == 1
        orders[path.partition("sort=")[2]] = re.findall(r"/items/(\d+)/review", listed)[1:]
    by_number = list(dict.fromkeys(orders["number"]))
    assert by_number == sorted(by_number, key=int)
    assert len(by_number) == answered.items.filter(repeat_kind="").count(), "the filter is kept"
    assert orders[""] != orders["number"], "disagreements come first"


def test_items_are_listed_with_or_without_comments(answered: Batch, lead: User) -> None:
    """Comments on repeats count, as the list shows them."""
    client = browser(lead)
    everything = {"state": "all", "disagreement": "all"}
    commented = [item.number for item in conflicts(answered)]
    assert list_numbers(client, everything | {"comments": "yes"}) == commented
    others = list_numbers(client, everything | {"comments": "no"})
    assert sorted(others + commented) == sorted(list_numbers(client, everything))
    User.objects.update(is_staff=True)
    listed = client.get(f"{reverse('admin:audit_item_changelist')}?comments=yes")
    assert f"{len(commented)} items" in listed.content.decode()
    answers = reverse("admin:audit_answer_changelist")
    for wanted, count in (("yes", 2), ("no", Answer.objects.count() - 2)):
        page = client.get(f"{answers}?comments={wanted}").content.decode()
        assert f"{count} answers" in page


def test_the_start_page_counts_what_is_to_adjudicate_in_each_batch(
    answered: Batch, lead: User
) -> None:
    client = browser(lead)
    every = len(list_numbers(client, {}))
    for path in ("/audits", "/experiments/scripted/audits"):
        page = client.get(path).content.decode()
        assert f'aria-label="Batch {answered.pk}: {every} items without a decision"' in page
        assert '<td data-label="Auditors">carol, dave</td>' in page
    assert f"Adjudicate: {every} with a disagreement" in client.get("/audits").content.decode()
    Batch.objects.update(status="closed")
    assert f"closed, {every} items without a decision" in client.get("/audits").content.decode()


def test_the_queue_has_one_count_and_its_active_filters_can_be_removed(
    answered: Batch, lead: User
) -> None:
    client = browser(lead)
    every = len(list_numbers(client, {}))
    page = client.get("/audits/items").content.decode()
    assert f"<strong>{every} items to adjudicate</strong>" in page
    assert re.search(r"<details[^>]*><summary>Filter</summary>", page), "folded"
    assert "Remove the filter" not in page
    query: dict[str, Any] = {"batch": answered.pk, "disagreement": "auditors", "q": ""}
    page = client.get("/audits/items", query).content.decode()
    assert f"<strong>2 of {every} items to adjudicate</strong>" in page
    chips = re.findall(r'class="audit-flag" href="([^"]+)"[^>]*>([^<]+)<', page)
    assert chips == [
        (f"/audits/items?batch={answered.pk}", "Disagreement: auditors differ ×"),
        ("/audits/items?disagreement=auditors",
         f"Batch: {answered.pk}: scripted, iteration 1 ×"),
    ]  # fmt: skip
    assert "10 items in this list" in client.get(
        "/audits/items", {"state": "all", "disagreement": "all"}
    ).content.decode()  # fmt: skip


def list_numbers(client: Client, query: dict[str, Any]) -> list[int]:
    page = client.get("/audits/items", query)
    assert page.status_code == 200
    found = re.findall(r'<th scope="row"><a href="/audits/\d+/items/(\d+)/', page.content.decode())
    return [int(number) for number in found]


def test_each_kind_of_disagreement_is_found(answered: Batch, lead: User) -> None:
    client = browser(lead)
    assert list_numbers(client, {"disagreement": "auditors"}) == [
        item.number for item in conflicts(answered)
    ]
    assert list_numbers(client, {"disagreement": "repeat"}) == []
    repeat = answered.items.filter(repeat_kind="same").select_related("original__answer")[0]
    original = repeat.original
    assert original is not None
    unlike = "tie" if original.answer.choice != "tie" else "first"
    Answer.objects.filter(item=repeat).update(choice=unlike)
    assert list_numbers(client, {"disagreement": "repeat"}) == [original.number]
    sure = answered.items.filter(
        repeat_kind="", hidden_verdict__facts__forward="first",
        hidden_verdict__facts__backward="first",
    )  # fmt: skip
    one = sure[0]
    Answer.objects.filter(Q(item=one) | Q(item__original=one)).update(choice="first")
    assert one.number not in list_numbers(client, {"disagreement": "meta"})
    Answer.objects.filter(item=one).update(choice="second")
    assert one.number in list_numbers(client, {"disagreement": "meta"})
    Answer.objects.filter(item=one).update(choice="neither")
    assert one.number in list_numbers(client, {"disagreement": "meta"})


@pytest.mark.parametrize(
    "query", [{"batch": "x"}, {"batch": "-1"}, {"iteration": "9" * 30}, {"state": HOSTILE},
              {"tag": HOSTILE}, {"sort": "-pk; --"}, {"confidence": "9"}, {"batch": "999"},
              {"stratum": "zz"}, {"auditor": "zz"}, {"experiment": "zz"}],
)  # fmt: skip
def test_a_filter_that_cannot_be_read_is_named_beside_its_field(
    answered: Batch, lead: User, query: dict[str, str]
) -> None:
    page = browser(lead).get("/audits/items", query)
    assert page.status_code == 422
    assert 'class="errorlist"' in page.content.decode()
    assert "<script>alert" not in page.content.decode()


@pytest.mark.parametrize("field", ["q", "experiment", "stratum", "auditor"])
def test_hostile_text_in_a_filter_stays_text(answered: Batch, lead: User, field: str) -> None:
    page = browser(lead).get("/audits/items", {field: HOSTILE})
    assert page.status_code in (200, 422)
    assert "<script>alert" not in page.content.decode()


def test_hostile_text_in_every_field_stays_text(answered: Batch, lead: User, alice: User) -> None:
    client = browser(lead)
    item = conflicts(answered)[0]
    Answer.objects.filter(item=item).update(
        comment=HOSTILE, auditor_name=HOSTILE, tags=[HOSTILE], source=HOSTILE
    )
    texts = dict.fromkeys(("instruction", "response", "first", "second"), HOSTILE)
    Item.objects.filter(pk=item.pk).update(**texts)
    Batch.objects.update(guidelines=HOSTILE, rubric=HOSTILE)
    assert decide(client, item, reason=HOSTILE).status_code == 302
    save_draft(item, lead, choice="first", reason=HOSTILE)
    KnownItem.objects.create(
        batch=answered, number=1, answer="first",
        instruction=HOSTILE, response=HOSTILE, first=HOSTILE, second=HOSTILE,
    )  # fmt: skip
    assert answered.experiment is not None
    write_gate(Gate(experiment=answered.experiment), before=None, by=alice)
    override_gate(answered.experiment, 1, source_sha256="", outcome="all", reason=HOSTILE, by=alice)
    User.objects.update(is_staff=True)
    models = (Answer, Batch, Item, HiddenVerdict, KnownItem, AdjudicationDraft, Gate, GateOverride)
    hostile: dict[type[Model], Model] = {Answer: item.answer, Item: item}
    pages = [where(item), "/audits/items?state=all&disagreement=all", f"/audits/{item.batch_id}"]
    for model in models:
        name = f"admin:audit_{model._meta.model_name}"
        row = hostile.get(model) or model._default_manager.first()
        assert row is not None
        pages += [reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[row.pk])]
    for path in pages:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.content.decode(), path
        assert "<img src=x" not in answer.content.decode(), path


def test_the_list_as_csv_has_the_rows_of_the_list(answered: Batch, lead: User) -> None:
    client = browser(lead)
    item = conflicts(answered)[0]
    decide(client, item, "tie", reason="=1+1 is a formula")
    query = {"state": "adjudicated", "disagreement": "all"}
    text = client.get("/audits/items.csv", query).content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["item"], row["adjudicated"], row["adjudicated_by"]) for row in rows] == [
        (str(item.number), "tie", "lena")
    ]
    assert rows[0]["reason"].startswith("'=")
    assert "carol" in rows[0]["answers"]


def test_answers_join_the_items_by_ids_and_codes(answered: Batch, lead: User) -> None:
    """A program can join both files, and a reader needs no code book."""
    client = browser(lead)
    item = conflicts(answered)[0]
    decide(client, item, "B")
    query = {"state": "all", "disagreement": "all"}
    files = [
        list(csv.DictReader(io.StringIO(client.get(path, query).content.decode())))
        for path in ("/audits/items.csv", "/audits/answers.csv")
    ]
    items = {row["item_id"]: row for row in files[0]}
    assert len(items) == len(files[0]) == answered.items.filter(repeat_kind="").count()
    assert len(files[1]) == Answer.objects.count()
    assert {row["reviewed_item_id"] for row in files[1]} <= items.keys()
    found = items[str(item.pk)]
    answers = [row for row in files[1] if row["reviewed_item_id"] == found["item_id"]]
    assert {row["auditor"] for row in answers} == {"carol", "dave"}
    accounts = User.objects.filter(username__in=("carol", "dave"))
    assert {row["auditor_id"] for row in answers} == {str(one.pk) for one in accounts}
    for name in ("batch", "key", "stratum", "forward", "backward", "judge_mean"):
        assert {row[name] for row in answers} == {found[name]}, name
    (own,) = (row for row in answers if row["item_id"] == found["item_id"])
    assert (own["item"], own["adjudicated"]) == (found["item"], found["adjudicated"])
    assert found["adjudicated"] == to_item_choice("B", item)
    assert found["adjudicated_label"] == "judgment B is better"
    assert found["adjudicated_by_id"] == str(lead.pk)
    assert found["disagreement"].split("; ")[0] == "auditors"
    assert found["disagreement_label"].split("; ")[0] == "auditors differ"
    assert found["path"] == where(item)
    assert own["answer_label"] in {
        "judgment A is better", "judgment B is better", "tie", "neither is acceptable"
    }  # fmt: skip
    assert (own["confidence"], own["confidence_label"]) == ("2", "fairly sure")
    alone = client.get("/audits/answers.csv", {"disagreement": "auditors"}).content.decode()
    rows = list(csv.DictReader(io.StringIO(alone)))
    assert {row["reviewed_item_id"] for row in rows} == {str(conflicts(answered)[1].pk)}


def test_a_decision_counts_in_results_and_training_pairs_and_both_figures_are_shown(
    answered: Batch, lead: User
) -> None:
    client = browser(lead)
    before = make_report(answered)
    assert before.answers_only is None
    item = answered.items.filter(
        repeat_kind="", hidden_verdict__facts__forward="first",
        hidden_verdict__facts__backward="first", answer__choice="first",
    )[0]  # fmt: skip
    decide(client, item, to_shown_letter("second", item))
    after = make_report(Batch.objects.get(pk=answered.pk))
    assert before.pairs is not None
    assert after.pairs is not None
    assert after.adjudicated == 1
    assert after.answers_only == before.pairs
    shares = [made.pairs.agreement_decided.value or 0.0 for made in (after, before) if made.pairs]
    assert shares[0] < shares[1]
    fresh = Item.objects.select_related("batch", "answer").get(pk=item.pk)
    assert get_final_value(fresh) == "second"
    assert get_final_value(fresh, adjudicated=False) == "first"
    assert dict(iter_preferred(answered))[fresh] == "second"
    page = client.get(f"/audits/{answered.pk}").content.decode()
    assert "1 item adjudicated" in page
    assert f'data-label="Answers only">{shares[1]:.0%} <' in page
    assert f'data-label="Final">{shares[0]:.0%} <' in page
    assert "No estimate changes." not in page
    findings = client.get(f"/audits/{answered.pk}/export/findings").content.decode()
    assert "before adjudication: meta-judge,agreement without ties" in findings


def test_the_activity_log_leads_to_the_item_and_the_batch(
    answered: Batch, lead: User, alice: User
) -> None:
    client = browser(lead)
    item = conflicts(answered)[0]
    decide(client, item)
    page = client.get("/activity").content.decode()
    assert f'<a href="{where(item)}">item {item.number} of batch {answered.pk}</a>' in page
    assert f'<a href="/audits/{answered.pk}">batch {answered.pk}</a>' in page
    of_others = browser(alice).get("/activity").content.decode()
    assert "/review" not in of_others, "only leads see what was done to items"


def test_links_lead_to_the_prompt_the_response_and_the_battle(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    item = conflicts(answered)[0]
    facts = item.hidden_verdict.facts
    prompt = f"/experiments/scripted/iterations/1/prompts/{facts['prompt_id']}"
    sample = facts["response_id"].rpartition(".r")[2]
    change = reverse("admin:audit_item_change", args=[item.pk])
    for path in (where(item), change, reverse("admin:audit_item_changelist")):
        page = client.get(path).content.decode()
        assert f'href="{prompt}"' in page, path
        assert f'href="{prompt}#response-{sample}"' in page, path
        assert f'href="{prompt}/battle?first=' in page, path
    assert f'id="response-{sample}"' in client.get(prompt).content.decode()


def test_a_decision_in_the_admin_has_the_rules_and_the_log_of_the_site(
    answered: Batch, lead: User, second: User
) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    item = conflicts(answered)[0]
    change = reverse("admin:audit_item_change", args=[item.pk])
    page = client.get(change).content.decode()
    assert "<kbd>A</kbd> is better</label>" in page
    assert re.search(r"Tie <kbd[^>]*>T</kbd>", page)
    assert 'type="radio"' in page
    for bad in ({"adjudicated": "both"}, {"adjudication": "no"}, {"adjudication": ""}):
        given = {"adjudicated": "tie", "adjudication": "both miss it", "version": 0} | bad
        assert "errorlist" in client.post(change, given).content.decode()
    assert not Item.objects.exclude(adjudicated="").exists()
    given = {"adjudicated": "tie", "adjudication": "both miss it", "version": 0}
    assert client.post(change, given).status_code == 302
    item.refresh_from_db()
    assert (item.adjudicated, item.adjudicated_by, item.adjudication_version) == ("tie", lead, 1)
    row = Activity.objects.get(action="adjudicated")
    assert (row.actor, row.reason, row.object_id) == (lead, "both miss it", item.pk)
    late = browser(second).post(change, given | {"adjudicated": "neither"}).content.decode()
    assert "lena changed this item while you were reading it" in late
    item.refresh_from_db()
    assert item.adjudicated == "tie"


def test_the_admin_leads_from_item_to_item_of_the_queue(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    first, second = conflicts(answered)[:2]
    given = {"adjudicated": "tie", "adjudication": "both miss it", "version": 0, "_next": "1"}
    change = reverse("admin:audit_item_change", args=[first.pk])
    assert "Decide, next item" in client.get(change).content.decode()
    sent = client.post(change, given, follow=True)
    assert sent.redirect_chain[-1][0] == reverse("admin:audit_item_change", args=[second.pk])
    page = sent.content.decode()
    assert f"item {first.number} of batch {answered.pk}</a>: tie. Reason: both miss it" in page
    assert f"Undo your last decision: item {first.number} of batch {answered.pk}" in page
    Item.objects.exclude(pk=second.pk).update(adjudicated="tie")
    last = client.post(reverse("admin:audit_item_change", args=[second.pk]), given)
    assert last["Location"] == reverse("admin:audit_item_changelist")


def test_the_admin_says_who_else_decides_and_marks_own_answers(
    answered: Batch, lead: User, second: User
) -> None:
    User.objects.update(is_staff=True)
    item = conflicts(answered)[0]
    Answer.objects.filter(item=item).update(auditor=lead, auditor_name="lena")
    lena, liam = browser(lead), browser(second)
    lena.get(where(item))
    change = reverse("admin:audit_item_change", args=[item.pk])
    own, other = (client.get(change).content.decode() for client in (lena, liam))
    assert "may be deciding it" not in own
    assert "lena opened this item and may be deciding it" in other
    assert "lena (you)" in own
    assert "lena (you)" not in other


def test_a_batch_in_the_admin_shows_what_is_left_and_what_was_done(
    answered: Batch, lead: User
) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    listed = client.get(reverse("admin:audit_batch_changelist")).content.decode()
    left = len(list_numbers(client, {}))
    assert left > 0
    assert f"batch {answered.pk}: {left} items without a decision" in listed
    change = reverse("admin:audit_batch_change", args=[answered.pk])
    page = client.get(change).content.decode()
    names = re.findall(r'name="auditors"[^>]*>\s*(\w+)', page)
    assert names == ["carol", "dave"], "only those who can answer"
    assert "carol, dave" in page.partition("History")[2]
    history = client.get(reverse("admin:audit_batch_history", args=[answered.pk]))
    assert history["Location"] == change
    closing = {"action": "close_batches", "_selected_action": [answered.pk]}
    path = reverse("admin:audit_batch_changelist")
    asked = client.post(path, closing).content.decode()
    assert f"{left} items with a disagreement will have no decision" in asked
    closing["confirmed"] = "1"
    closed = client.post(path, closing, follow=True).content.decode()
    assert f"Batch {answered.pk} was closed." in closed
    again = client.post(path, closing, follow=True).content.decode()
    assert f"Already closed: batch {answered.pk}." in again
    assert f"closed, {left} items without a decision" in again
    assert list_numbers(client, {}) == []


def test_gates_of_private_experiments_are_hidden_from_leads_in_the_admin(
    answered: Batch, lead: User, alice: User
) -> None:
    assert answered.experiment is not None
    gate = Gate(experiment=answered.experiment)
    write_gate(gate, before=None, by=alice)
    override_gate(
        answered.experiment, 1, source_sha256="", outcome="all", reason="Because.", by=alice
    )
    User.objects.update(is_staff=True)
    client = browser(lead)
    paths = [
        reverse(f"admin:audit_{row._meta.model_name}_change", args=[row.pk])
        for row in (gate, GateOverride.objects.get())
    ]
    assert [client.get(path).status_code for path in paths] == [200, 200]
    assert "agreement above 50%" in client.get(paths[0]).content.decode(), "its history"
    Experiment.objects.update(is_private=True)
    assert [client.get(path).status_code for path in paths] == [302, 302]
    for name in ("item", "answer", "batch", "hiddenverdict", "knownitem", "adjudicationdraft"):
        listed = client.get(reverse(f"admin:audit_{name}_changelist")).content.decode()
        assert "scripted" not in listed, f"the filters of {name}"


def test_the_admin_edits_nothing_that_was_drawn_or_answered(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    item = conflicts(answered)[0]
    answer = item.answer
    before = (item.instruction, item.first, answer.choice, answered.seed, answered.strata)
    item_path = reverse("admin:audit_item_change", args=[item.pk])
    client.post(item_path, {"adjudicated": "tie", "adjudication": "both miss it", "version": 0,
                            "instruction": "x", "first": "x", "is_answered": ""})  # fmt: skip
    assert client.post(reverse("admin:audit_answer_change", args=[answer.pk]),
                       {"choice": "tie"}).status_code == 403  # fmt: skip
    client.post(reverse("admin:audit_batch_change", args=[answered.pk]),
                {"status": "open", "seed": 99, "strata": "[]"})  # fmt: skip
    item.refresh_from_db()
    answer.refresh_from_db()
    answered.refresh_from_db()
    assert (item.instruction, item.first, answer.choice, answered.seed, answered.strata) == before
    for model in ("item", "answer", "batch"):
        assert client.get(reverse(f"admin:audit_{model}_add")).status_code == 403


@pytest.mark.parametrize(
    "query",
    ["disagreement=auditors", "disagreement=any", "state=open", "state=adjudicated",
     "confidence=1", "comments=yes", "tag=too%20long", "q=rubric", "disagreement=zz", "tag=%27%22"],
)  # fmt: skip
def test_the_filters_of_the_admin_answer(answered: Batch, lead: User, query: str) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    answer = client.get(f"{reverse('admin:audit_item_changelist')}?{query}")
    assert answer.status_code in (200, 302)
    if query == "disagreement=auditors":
        assert "2 items" in answer.content.decode()


def test_the_admin_filters_by_stratum_only_if_a_batch_is_stratified(
    answered: Batch, lead: User
) -> None:
    User.objects.update(is_staff=True)
    path, client = reverse("admin:audit_item_changelist"), browser(lead)
    Item.objects.update(stratum="all")
    assert "stratum=" not in client.get(path).content.decode()
    item = answered.items.filter(repeat_kind="")[0]
    Item.objects.filter(pk=item.pk).update(stratum="equal score")
    page = client.get(path).content.decode()
    assert re.search(r"stratum=all[^>]*>\s*not stratified", page)
    listed = client.get(f"{path}?stratum=equal+score").context["cl"].queryset
    assert [one.pk for one in listed] == [item.pk]


def test_answers_of_several_batches_are_exported_at_once_in_the_admin(
    answered: Batch, lead: User
) -> None:
    User.objects.update(is_staff=True)
    path = reverse("admin:audit_batch_changelist")
    answer = browser(lead).post(path, {"action": "export", "_selected_action": [answered.pk]})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert len(rows) == Answer.objects.count()


def test_items_are_filtered_by_auditor_and_exported_in_the_admin(
    answered: Batch, lead: User
) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    path = reverse("admin:audit_item_changelist")
    both = conflicts(answered)[0]
    Answer.objects.filter(item=both).update(auditor_name="erin")
    page = client.get(f"{path}?auditor=erin").content.decode()
    assert re.findall(r'class="field-format_place"><a [^>]*>([^<]+)', page) == [
        f"Item {both.number} of batch {answered.pk}"
    ]
    sent = client.post(path, {"action": "export", "_selected_action": [both.pk]})
    rows = list(csv.DictReader(io.StringIO(sent.content.decode())))
    assert [row["item"] for row in rows] == [str(both.number)]
    assert "erin" in rows[0]["answers"]
    sent = client.post(path, {"action": "export_answers", "_selected_action": [both.pk]})
    given = list(csv.DictReader(io.StringIO(sent.content.decode())))
    assert {row["reviewed_item_id"] for row in given} == {rows[0]["item_id"]}
    assert {"erin"} < {row["auditor"] for row in given}
    answers = reverse("admin:audit_answer_changelist")
    chosen = {"action": "export", "_selected_action": [both.answer.pk]}
    of_erin = client.post(answers, chosen).content.decode()
    (row,) = csv.DictReader(io.StringIO(of_erin))
    assert (row["auditor"], row["answer_id"]) == ("erin", str(both.answer.pk))
    carol = User.objects.get(username="carol")
    chosen["_selected_action"] = [Answer.objects.filter(auditor=carol)[0].pk]
    refused = browser(carol).post(answers, chosen)
    assert "forward" not in refused.content.decode(), "auditors export no verdicts"
    listed = client.get(reverse("admin:audit_answer_changelist"), {"auditor": "erin"})
    assert "1 answer" in listed.content.decode()


def test_the_admin_has_the_name_and_the_icon_of_the_project(lead: User) -> None:
    User.objects.update(is_staff=True)
    page = browser(lead).get(reverse("admin:index")).content.decode()
    assert "Meta-Reward administration" in page
    assert "Django administration" not in page
    assert "icon.svg" in page


def test_marked_differences_stay_marked_on_the_next_item(answered: Batch, lead: User) -> None:
    client = browser(lead)
    first, second = conflicts(answered)[:2]
    assert "<mark>" not in client.get(where(first)).content.decode()
    assert "Show as text" in client.get(f"{where(first)}?differences=1").content.decode()
    assert "Show as text" in client.get(where(second)).content.decode()
    client.get(f"{where(second)}?differences=0")
    assert "Mark differences" in client.get(where(first)).content.decode()


def test_the_list_shows_comments_and_offers_what_there_is_to_filter_by(
    answered: Batch, lead: User
) -> None:
    page = browser(lead).get("/audits/items").content.decode()
    assert "see the rubric" in page
    for name in ("experiment", "batch", "stratum", "auditor"):
        assert f'<select name="{name}"' in page
    assert f'<option value="{answered.pk}">{answered.pk}: scripted, iteration 1</option>' in page
    assert '<option value="dave">dave</option>' in page
    Experiment.objects.update(is_private=True)
    assert "scripted" not in browser(lead).get("/audits/items").content.decode()


def test_responses_are_adjudicated_by_a_score(
    audited: Experiment, alice: User, carol: User, lead: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], kind="responses", strategy="uniform", size=4)
    item = batch.items.all()[0]
    mean = item.hidden_verdict.facts["mean"]
    far = 5.0 if mean < 2.5 else 0.0
    while (found := annotation_queue.lease_next_item(batch, carol)) is not None:
        given = annotation_queue.AnswerInput("", far if found == item else mean, 2, (), "", 1.0)
        annotation_queue.submit_answer(found, carol, given)
    client = browser(lead)
    assert item.number in list_numbers(client, {"disagreement": "meta"})
    decision = {"points": "3", "reason": "mostly right", "version": 0}
    assert client.post(where(item), {**decision, "points": "9"}).status_code == 422
    sent = client.post(where(item), {**decision, "points": "3.5"}, follow=True)
    assert f"Saved: item {item.number} of batch {batch.pk}: 3.5 of 5." in sent.content.decode()
    item.refresh_from_db()
    assert item.adjudicated == "3.5", "the rubric allows decimals"
    assert "3.5 of 5" in client.get(where(item)).content.decode()
    User.objects.update(is_staff=True)
    change = reverse("admin:audit_item_change", args=[item.pk])
    halved = {"adjudicated": "2.5", "adjudication": "partly right", "version": 1}
    assert client.post(change, halved).status_code == 302
    item.refresh_from_db()
    assert item.adjudicated == "2.5"
    report = make_report(batch)
    assert report.adjudicated == 1


def test_leads_see_how_good_auditors_are_and_results_without_flagged_ones(
    audited: Experiment, alice: User, carol: User, dave: User, lead: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol, dave], size=40, other_share=1.0)
    left = True
    while left:
        left = False
        for person in (carol, dave):
            item = annotation_queue.lease_next_item(batch, person)
            if item is not None:
                left = True
                said = "first" if person == carol else "second"
                given = annotation_queue.AnswerInput(said, None, 2, (), "", 3.0)
                annotation_queue.submit_answer(item, person, given)
    client = browser(lead)
    page = client.get(f"/audits/{batch.pk}").content.decode()
    assert "40 items on which auditors differ, without a decision, are excluded" in page
    assert "flagged</span>" not in page
    for item in batch.items.filter(repeat_kind="")[:30]:
        decide(client, item, to_shown_letter("first", item))
    found = make_auditor_report(batch)
    assert found.flagged == ("dave",)
    assert {one.name: one.accuracy.value for one in found.auditors} == {"carol": 1.0, "dave": 0.0}
    assert found.without_flagged is not None
    page = client.get(f"/audits/{batch.pk}").content.decode()
    assert "flagged</span>" in page
    results = page.partition('id="results"')[2].partition("</section>")[0]
    flag = re.search(r">dave</a> is flagged: accuracy ([^;]+;[^;]+)\s+is below 70%", results)
    assert flag is not None, "among the results at the top of the page"
    assert flag[1].startswith("0%")
    assert "30 items" in flag[1]
    assert "carol</a> is flagged" not in page
    assert re.findall(r'<th scope="col">([^<]+)</th>', results)[1:] == [
        "Final", "Answers only", "Without flagged auditors"
    ]  # fmt: skip
    assert "items whose first answer is by dave count only if they have a decision" in results
    assert "(30 items adjudicated)" in results
    folded = page.partition("<summary><strong>Agreement without ties, by group")[2]
    assert "<table" in folded.partition("</details>")[0]
    charts = page.partition("Accuracy over time")[2].partition('id="files"')[0]
    assert re.findall(r"<figcaption[^>]*>(\w+)", charts) == ["carol", "dave"]
    hidden = browser(make_person("vera", "viewer")).get(f"/audits/{batch.pk}").content.decode()
    assert "Auditor quality" not in hidden
    assert "Accuracy over time" not in hidden


def test_the_admin_goes_on_in_the_filtered_list(
    answered: Batch, audited: Experiment, alice: User, carol: User, dave: User, lead: User
) -> None:
    newer = draw(audited, by=alice, auditors=[carol, dave], size=10, other_share=0.5)
    answer_all(newer, carol, dave)
    repeat = newer.items.filter(repeat_kind="other").select_related("original__answer")[0]
    assert repeat.original is not None
    unlike = "neither" if repeat.original.answer.choice != "neither" else "tie"
    Answer.objects.filter(item=repeat).update(choice=unlike)
    User.objects.update(is_staff=True)
    client = browser(lead)
    first, second = conflicts(answered)
    kept = f"batch__id__exact={answered.pk}&disagreement=auditors&state=open"
    listed = client.get(f"{reverse('admin:audit_item_changelist')}?{kept}").content.decode()
    links = re.findall(r'<th class="field-format_place"><a href="([^"]+)"', listed)
    assert len(links) == 2
    given = {"adjudicated": "tie", "adjudication": "both miss it", "version": 0, "_next": "1"}
    after_first = client.post(html.unescape(links[0]), given)["Location"]
    assert after_first == html.unescape(links[1]), "with the filter, and not in the newer batch"
    assert client.post(after_first, given)["Location"].endswith(f"/admin/audit/item/?{kept}")
    assert {first.pk, second.pk} == set(
        Item.objects.exclude(adjudicated="").values_list("pk", flat=True)
    )
    saved = Item.objects.get(pk=first.pk)
    again = given | {"adjudicated": "neither", "version": 1}
    del again["_next"]
    stay = client.post(html.unescape(links[0]), again | {"_continue": "1"})["Location"]
    assert stay == html.unescape(links[0]), "so does saving without leaving the item"
    assert saved.adjudicated == "tie"


def test_only_disagreements_are_to_adjudicate_in_the_admin_as_on_the_site(
    answered: Batch, lead: User
) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    path = reverse("admin:audit_item_changelist")

    def count(query: str) -> int:
        found = re.search(r"(\d+) items?\b", client.get(f"{path}?{query}").content.decode())
        assert found is not None
        return int(found[1])

    on_site = list_numbers(client, {})
    undecided = list_numbers(client, {"disagreement": "all"})
    assert len(on_site) < len(undecided)
    assert count("state=open") == len(on_site)
    assert count("state=undecided") == len(undecided)
    page = client.get("/audits/items").content.decode()
    assert '<option value="" selected>to adjudicate</option>' in page


def test_the_admin_fills_in_the_draft_of_the_lead(
    answered: Batch, lead: User, second: User
) -> None:
    User.objects.update(is_staff=True)
    item = conflicts(answered)[0]
    save_draft(item, lead, choice="neither", reason="begun on the site")
    change = reverse("admin:audit_item_change", args=[item.pk])
    own, other = (browser(user).get(change).content.decode() for user in (lead, second))
    assert ">\nbegun on the site</textarea>" in own
    assert re.search(r'value="neither"[^>]* checked', own)
    assert "Draft restored from" in own
    assert "begun on the site" not in other
    assert "Draft restored" not in other
    discarded = browser(lead).post(change, {"_discard": "1"}, follow=True).content.decode()
    assert "The draft was discarded." in discarded
    assert "begun on the site" not in discarded
    assert "Draft restored" not in discarded


def test_the_site_announces_a_restored_draft_that_can_be_discarded(
    answered: Batch, lead: User
) -> None:
    item, other = conflicts(answered)[:2]
    save_draft(item, lead, choice="neither", reason="begun before lunch")
    save_draft(other, lead, choice="tie", reason="another draft")
    client = browser(lead)
    page = client.get(where(item)).content.decode()
    assert "Draft restored from" in page
    assert "begun before lunch</textarea>" in page
    sent = client.post(where(item, "/draft") + "?disagreement=auditors", {"discard": "1"})
    assert sent["Location"] == where(item) + "?disagreement=auditors"
    page = client.get(where(item)).content.decode()
    assert "Draft restored" not in page
    assert "begun before lunch" not in page
    assert AdjudicationDraft.objects.get().item == other


def test_a_draft_that_is_sent_again_keeps_its_time(answered: Batch, lead: User) -> None:
    item = conflicts(answered)[0]
    save_draft(item, lead, choice="tie", reason="begun")
    before = AdjudicationDraft.objects.get().updated
    save_draft(item, lead, choice="tie", reason="begun")
    assert AdjudicationDraft.objects.get().updated == before
    save_draft(item, lead, choice="tie", reason="begun again")
    assert AdjudicationDraft.objects.get().updated > before


def test_an_earlier_decision_is_undone_on_its_page(answered: Batch, lead: User) -> None:
    client = browser(lead)
    first, second = conflicts(answered)[:2]
    decide(client, first, "tie")
    decide(client, second, "tie")
    assert "Undo this decision" in client.get(where(first)).content.decode()
    last = client.get(where(second)).content.decode()
    assert "Undo this decision" not in last, "there is the button for the last one"
    assert f"Undo your last decision: item {second.number} of batch {answered.pk}" in last
    client.post(where(first, "/undo"))
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.adjudicated, second.adjudicated) == ("", "tie")


def test_earlier_reasons_of_ones_own_can_be_filled_in(
    answered: Batch, lead: User, second: User
) -> None:
    items = list(answered.items.filter(repeat_kind=""))
    for place, reason in enumerate(["alpha one", "beta two", "alpha one", f"{HOSTILE}"]):
        decide(browser(lead), items[place], reason=reason)
    decide(browser(second), items[4], reason="gamma three")
    page = browser(lead).get(where(items[5])).content.decode()
    offered = [html.unescape(one) for one in re.findall(r'data-reason="([^"]*)"', page)]
    assert offered == [HOSTILE, "alpha one", "beta two"]
    assert "<script>alert" not in page
    reader = browser(make_person("vera", "viewer")).get(where(items[5])).content.decode()
    assert "data-reason" not in reader


def test_what_a_decision_requires_is_marked(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    item = conflicts(answered)[0]
    site = browser(lead).get(where(item)).content.decode()
    assert "<legend>Which judgment is better? (required)</legend>" in site
    assert "(required, at least 5 characters)" in site
    admin = browser(lead).get(reverse("admin:audit_item_change", args=[item.pk])).content.decode()
    assert "Decision (required)" in admin
    assert "Reason (required, at least 5 characters)" in admin


def test_the_admin_shows_the_place_in_the_list_and_skips(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    client = browser(lead)
    first, second = conflicts(answered)[:2]
    kept = "?_changelist_filters=disagreement%3Dauditors%26state%3Dopen"
    paths = [reverse("admin:audit_item_change", args=[one.pk]) + kept for one in (first, second)]
    page = html.unescape(client.get(paths[0]).content.decode())
    assert "Item 1 of 2 in the list" in page
    assert f'<a href="{paths[1]}" data-key="n">Skip, next item' in page
    assert f'<a href="{paths[1]}" data-key="p">Previous item' in page
    assert "Item 2 of 2 in the list" in client.get(paths[1]).content.decode()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.claimed_by, second.claimed_by) == (None, lead), "a skipped item is free"


def test_a_decision_is_undone_in_the_admin(answered: Batch, lead: User, second: User) -> None:
    User.objects.update(is_staff=True)
    item, other = conflicts(answered)[:2]
    client = browser(lead)
    decide(client, item, "tie", reason="both miss it")
    change, elsewhere = (reverse("admin:audit_item_change", args=[one.pk]) for one in (item, other))
    page = client.get(elsewhere).content.decode()
    assert f"Undo your last decision: item {item.number} of batch {answered.pk}" in page
    assert "Undo this decision" not in page
    assert "Undo this decision" in client.get(change).content.decode()
    assert "Undo this decision" not in browser(second).get(change).content.decode()
    refused = browser(second).post(change, {"_undo": "1"}, follow=True).content.decode()
    assert "is not yours" in refused
    item.refresh_from_db()
    assert item.adjudicated == "tie"
    undone = client.post(f"{change}?_changelist_filters=state%3Dopen", {"_undo": "1"}, follow=True)
    assert undone.redirect_chain[-1][0] == f"{change}?_changelist_filters=state%3Dopen"
    page = undone.content.decode()
    assert f"Undone: item {item.number} of batch {answered.pk}, tie. It is kept as a draft." in page
    assert ">\nboth miss it</textarea>" in page
    item.refresh_from_db()
    assert item.adjudicated == ""
    assert Activity.objects.filter(action="adjudication_undone", actor=lead).count() == 1
    decide(client, item, "tie", reason="both miss it")
    Batch.objects.update(status="closed")
    assert client.post(change, {"_undo": "1"}).status_code == 403
    item.refresh_from_db()
    assert item.adjudicated == "tie"


def test_enter_saves_and_goes_to_the_next_item_in_the_admin(answered: Batch, lead: User) -> None:
    User.objects.update(is_staff=True)
    change = reverse("admin:audit_item_change", args=[conflicts(answered)[0].pk])
    page = browser(lead).get(change).content.decode()
    form = page.partition('id="item_form"')[2].partition("</form>")[0]
    buttons = [
        tag for tag in re.findall(r"<(?:input|button)[^>]*type=.submit[^>]*>", form)
        if "form=" not in tag
    ]  # fmt: skip
    names = [found[1] for tag in buttons if (found := re.search(r'name="(\w+)"', tag))]
    assert names == ["_next", "_save", "_continue"]
    assert "Decide, next item" in buttons[0]
    assert "default" in buttons[0]


def test_a_conflict_in_the_admin_keeps_the_input_and_shows_the_newer_decision(
    answered: Batch, lead: User, second: User
) -> None:
    User.objects.update(is_staff=True)
    item = conflicts(answered)[0]
    decide(browser(lead), item, "tie", reason="both miss it")
    client = browser(second)
    change = reverse("admin:audit_item_change", args=[item.pk])
    given = {"adjudicated": "neither", "adjudication": "both are wrong", "version": 0}
    page = client.post(change, given).content.decode()
    assert "because lena changed this item" in page
    assert "The decision is now: tie. Reason: both miss it" in page
    assert re.search(r"tie, by lena, [0-9 :-]{16}: both miss it", page), (
        "the current decision, not the input"
    )
    assert ">\nboth are wrong</textarea>" in page
    assert re.search(r'value="neither"[^>]* checked', page)
    assert AdjudicationDraft.objects.get(lead=second).reason == "both are wrong"
    version = re.search(r'name="version" value="(\d+)"', page)
    assert version is not None
    assert client.post(change, given | {"version": version[1]}).status_code == 302
    item.refresh_from_db()
    assert (item.adjudicated, item.adjudicated_by) == ("neither", second)


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ({}, ["adjudicated", "adjudication"]),
        ({"adjudicated": "tie"}, ["adjudication"]),
        ({"adjudicated": "tie", "adjudication": "no"}, ["adjudication"]),
        ({"adjudication": "both miss it"}, ["adjudicated"]),
    ],
)
def test_the_admin_names_what_a_decision_lacks(
    answered: Batch, lead: User, given: dict[str, str], lacks: list[str]
) -> None:
    """Each message stands in the row of its field, and fields refer to their messages."""
    User.objects.update(is_staff=True)
    change = reverse("admin:audit_item_change", args=[conflicts(answered)[0].pk])
    page = browser(lead).post(change, given | {"version": 0}).content.decode()
    rows = dict(re.findall(r'class="form-row errors field-(\w+)">\s*(<ul.*?</ul>)', page, re.S))
    assert sorted(rows) == lacks
    for name, errors in rows.items():
        assert SAID[name] in errors
        assert f'id="id_{name}_error"' in errors
    assert page.count('class="errorlist"') == len(lacks), "and nowhere else"
    assert not Item.objects.exclude(adjudicated="").exists()


SAID: Final = {
    "adjudicated": "Choose a decision.",
    "adjudication": "Give a reason of at least 5 characters.",
    "choice": "Choose a decision.",
    "reason": "Give a reason of at least 5 characters.",
}


@pytest.mark.parametrize(
    ("letter", "reason", "lacks"),
    [("", "", ["choice", "reason"]), ("A", "no", ["reason"]), ("", "both miss it", ["choice"])],
)
def test_the_site_names_what_a_decision_lacks_at_its_field_and_at_the_top(
    answered: Batch, lead: User, letter: str, reason: str, lacks: list[str]
) -> None:
    page = decide(browser(lead), conflicts(answered)[0], letter, reason=reason)
    assert page.status_code == 422
    text = page.content.decode()
    top, _, form = text.partition('<form id="answer"')
    for name in lacks:
        assert re.search(rf'<a href="#id_{name}">[^<]*</a>: {SAID[name]}', top)
        assert f'id="id_{name}_error"><li>{SAID[name]}</li>' in form
        assert f'aria-describedby="id_{name}_error"' in form
        assert f'id="id_{name}"' in form
    assert form.count('class="errorlist"') == len(lacks)
