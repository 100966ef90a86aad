"""The desk: leased items, answers, undo, skip, drafts, repeats and the reveal."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import DjangoAssertNumQueries

from meta_reward_core.method.parsing import NO_SCORE_LINE, parse_score
from tests.webapp.audit_fixtures import (
    address,
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
from webapp.api.ninja_api import api
from webapp.audit import annotation_queue
from webapp.audit.models import Answer, Batch, HiddenVerdict, Item
from webapp.experiments.models import Experiment, Iteration

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]

pytestmark = pytest.mark.django_db
FORBIDDEN = ("elo", "verdict", "forward", "backward", "stratum", "iteration", "scripted", "strata",
             "probability", "meta-judge", "mean")  # fmt: skip


def visible_words(page: str) -> set[str]:
    """Words of a page without the texts of the item, in small letters."""
    page = re.sub(r'<(section|details) class="audit-(text|hand).*?</\1>', "", page, flags=re.S)
    return set(re.findall(r"[a-z-]+", page.lower()))


def test_an_auditor_answers_a_batch_to_its_end(batch: Batch, carol: User) -> None:
    client = browser(carol)
    for _ in range(12):
        item = take(client, batch)
        assert client.get(address(item)).status_code == 200
        assert give(client, item, "tie")["Location"] == f"/audits/{batch.pk}/annotate"
    done = client.get(f"/audits/{batch.pk}/annotate")
    assert "No items are left for you" in done.content.decode()
    assert Answer.objects.filter(item__batch=batch, auditor=carol, choice="tie").count() == 12


def test_an_auditor_can_stay_at_an_item_to_see_what_the_meta_judge_said(
    batch: Batch, carol: User
) -> None:
    client = browser(carol)
    item = take(client, batch)
    page = client.get(address(item)).content.decode()
    assert 'data-key="Enter">Submit, next item' in page
    answered = client.post(address(item), {"choice": "tie", "confidence": "2", "stay": "1"})
    assert answered.headers["Location"] == address(item)
    following = client.get(address(take(client, batch))).content.decode()
    assert f'href="{address(item)}">Your last answer (item {item.number})</a>' in following
    assert page.count("(required)") == 2
    Batch.objects.filter(pk=batch.pk).update(reveals_at_once=False)
    assert "Submit and stay" not in client.get(address(take(client, batch))).content.decode()


def test_the_format_of_judgments_is_that_of_the_task(batch: Batch, carol: User) -> None:
    assert batch.experiment is not None
    client = browser(carol)
    path = address(take(client, batch))
    assert "Each line: expected word" not in client.get(path).content.decode()
    recipe = batch.experiment.recipe | {"task": "toy"}
    Experiment.objects.filter(pk=batch.experiment.pk).update(recipe=recipe)
    assert "Each line: expected word, word in the response" in client.get(path).content.decode()


def test_no_unanswered_item_shows_what_is_hidden(batch: Batch, carol: User) -> None:
    client = browser(carol)
    for _ in range(12):
        item = take(client, batch)
        for query in ("", "?differences=1"):
            page = client.get(address(item) + query).content.decode()
            assert not visible_words(page) & set(FORBIDDEN)
            facts = HiddenVerdict.objects.get(item=item).facts
            for name in ("elo_first", "elo_second"):
                assert f"{facts[name]:.2f}" not in page
            for name in ("prompt_id", "response_id", "first_judgment_id"):
                assert facts[name] not in page
            assert "Score:" not in page
        give(client, item)


# What nobody may see before they answer, in words and numbers that occur nowhere else.
HIDDEN = {
    "verdict": "qqforward", "other verdict": "qqbackward", "prompt": "qqprompt",
    "response": "qqresponse", "judgment": "qqjudgment", "group": "qqgroup", "stratum": "qqstratum",
    "experiment": "qqsubject", "model": "qqmodel", "auditor": "qqzebedee", "comment": "qqcomment",
    "own comment": "qqearlier", "Elo": "7123.25", "other Elo": "7456.75", "score": "8123.5",
    "other score": "8456.5", "mean": "9123.125", "variance": "9456.375", "chance": "0.0123",
    "iteration": "86421", "seed": "918273645",
}  # fmt: skip


def hide_tokens(batch: Batch) -> None:
    """Put a token in the place of everything that is hidden."""
    facts = {
        "prompt_id": "qqprompt", "response_id": "qqresponse", "forward": "qqforward",
        "backward": "qqbackward", "first_judgment_id": "qqjudgment",
        "second_judgment_id": "qqjudgment", "elo_first": 7123.25, "elo_second": 7456.75,
        "score_first": 8123.5, "score_second": 8456.5, "chars_first": 10, "chars_second": 20,
        "decided_pair": True, "mean": 9123.125, "variance": 9456.375, "valid": 3,
        "groups": {"certainty": "qqgroup"},
    }  # fmt: skip
    HiddenVerdict.objects.filter(item__batch=batch).update(facts=facts)
    batch.items.update(stratum="qqstratum", probability=0.0123)
    strata = [{"name": "qqstratum", "population": 9, "sampled": 3}]
    Batch.objects.filter(pk=batch.pk).update(
        experiment_name="qqsubject", iteration=86421, seed=918273645, strata=strata
    )
    Experiment.objects.update(name="qqsubject", base_model_folder="/models/qqmodel")
    Iteration.objects.update(model_in="qqmodel", model_out="qqmodel", number=86421)


def everything_sent(client: Client, item: Item) -> dict[str, str]:
    """Whatever an auditor can make the site send while they hold an unanswered item."""
    Item.objects.filter(pk=item.pk).update(
        holder=User.objects.get(username="carol"), lease_until=timezone.now() + timedelta(hours=1)
    )
    region = {"HX-Request": "true"}
    page = client.get(address(item))
    assert page.status_code == 200
    sent = {
        "page": page,
        "differences": client.get(address(item) + "?differences=1"),
        "region": client.get(address(item) + "?differences=1", headers=region),
        "draft": client.post(address(item, "/draft"), {"comment": "so far"}),
        "refused": client.post(address(item), {"confidence": "2"}),
        "reveal": client.post(address(item, "/reveal")),
        "batches": client.get("/audits"),
        "report": client.get(f"/audits/{item.batch_id}"),
        "export": client.get(f"/audits/{item.batch_id}/export/jsonl"),
        "import": client.post(f"/audits/{item.batch_id}/import"),
    }
    assert sent["refused"].status_code == 422
    return {name: f"{found.content.decode()} {found.headers}" for name, found in sent.items()}


def everything_from_the_api(client: Client) -> dict[str, str]:
    """Every address of the API that is read, with whatever is in the batch put into its path."""
    known = {"name": "qqsubject", "number": "86421", "experiment": "qqsubject"}
    sent = {}
    paths = [path for path, verbs in api.get_openapi_schema()["paths"].items() if "get" in verbs]
    for path in paths:
        filled = re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], "1"), path)
        sent[path] = client.get(filled).content.decode()
    assert len(sent) > 5
    return sent


@pytest.mark.parametrize("kind, strategy", [("judgments", "certainty"), ("responses", "score")])
def test_nothing_that_is_sent_before_the_answer_tells_what_is_hidden(
    kind: str, strategy: str, audited: Experiment, alice: User, carol: User
) -> None:
    """Over every item of a batch: first those never answered, then all their repeats."""
    zebedee = make_person("qqzebedee", "auditor")
    drawn = draw(audited, by=alice, auditors=[carol, zebedee], kind=kind, strategy=strategy,
                 same_share=0.5, other_share=0.5, size=12)  # fmt: skip
    hide_tokens(drawn)
    client = browser(carol)
    given = {"choice": "tie"} if kind == "judgments" else {"points": 4.0}
    seen = 0
    for again in (False, True):
        for item in drawn.items.filter(original__isnull=not again):
            if item.original is not None:
                who, said = (
                    (carol, "qqearlier") if item.repeat_kind == "same" else (zebedee, "qqcomment")
                )
                Answer.objects.filter(item=item.original).delete()
                Answer.objects.create(item=item.original, auditor=who, auditor_name=who.username,
                                      comment=said, tags=["too long"], **given)  # fmt: skip
            for what, content in everything_sent(client, item).items():
                told = [name for name, token in HIDDEN.items() if token in content]
                assert told == [], f"{what} of item {item.number} tells {told}"
            seen += 1
    assert seen == drawn.items.count() == 24
    named = ("experiment", "iteration")  # in the address that was asked for
    for path, content in everything_from_the_api(client).items():
        told = [name for name, token in HIDDEN.items() if token in content and name not in named]
        assert told == [], path


def test_score_lines_are_cut_only_where_the_batch_says_so(
    audited: Experiment, alice: User, carol: User
) -> None:
    shown = draw(audited, by=alice, auditors=[carol], hides_score_lines=False)
    item = take(browser(carol), shown)
    assert parse_score(item.first).reason != NO_SCORE_LINE
    assert browser(carol).get(address(item)).content.decode().count("Score:") >= 2


def test_a_letter_is_kept_as_the_judgment_that_it_stood_for(batch: Batch, carol: User) -> None:
    client = browser(carol)
    kept = set()
    for _ in range(12):
        item = take(client, batch)
        give(client, item, "A")
        choice = Answer.objects.get(item=item).choice
        assert choice == ("second" if item.is_swapped else "first")
        kept.add(choice)
    assert kept == {"first", "second"}


def test_two_auditors_never_get_the_same_item(batch: Batch, carol: User, dave: User) -> None:
    first, second = take(browser(carol), batch), take(browser(dave), batch)
    assert first != second
    assert take(browser(carol), batch) == first
    assert browser(dave).get(address(first)).status_code == 302


def test_of_two_answers_to_one_item_the_holders_counts(
    batch: Batch, carol: User, dave: User
) -> None:
    item = take(browser(carol), batch)
    assert give(browser(dave), item)["Location"].endswith("/annotate")
    assert not Answer.objects.exists()
    give(browser(carol), item)
    give(browser(carol), item, "B")
    assert Answer.objects.get().auditor == carol
    assert Activity.objects.filter(action="late", actor_name="dave").count() == 1


def test_an_expired_lease_goes_to_who_asks_and_the_late_answer_is_kept(
    batch: Batch, carol: User, dave: User
) -> None:
    item = take(browser(carol), batch)
    Item.objects.filter(pk=item.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    Item.objects.filter(batch=batch).exclude(pk=item.pk).update(is_answered=True)
    assert take(browser(dave), batch) == item
    answer = browser(carol).post(address(item), {"choice": "A", "confidence": "2"}, follow=True)
    assert "This item has been reassigned" in answer.content.decode()
    give(browser(dave), item, "neither")
    assert Answer.objects.get(item=item).auditor == dave
    late = Activity.objects.get(action="late")
    assert late.after["choice"] in ("first", "second")


def test_an_expired_lease_that_nobody_took_still_counts(batch: Batch, carol: User) -> None:
    item = take(browser(carol), batch)
    Item.objects.filter(pk=item.pk).update(lease_until=timezone.now() - timedelta(days=1))
    give(browser(carol), item)
    assert Answer.objects.filter(item=item, auditor=carol).exists()


def test_a_draft_survives_a_reload(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    draft = {"choice": "B", "confidence": "1", "tags": ["too long"], "comment": "so far",
             "seconds": "42"}  # fmt: skip
    assert "Draft restored" not in client.get(address(item)).content.decode()
    kept = client.post(address(item, "/draft"), draft)
    assert re.fullmatch(r"Draft saved \d\d:\d\d:\d\d\.", kept.content.decode())
    page = client.get(address(item)).content.decode()
    assert "<title>Draft restored · Item" in page
    assert "Draft restored. It is not an answer yet. <button" in page
    assert re.search(r'value="B"[^>]*checked', page)
    assert re.search(r'name="confidence" value="1"[^>]*checked', page)
    assert re.search(r'value="too long"[^>]*checked', page)
    assert "so far" in page
    assert 'name="seconds" value="42"' in page
    assert not Answer.objects.exists()


def test_a_restored_draft_can_be_discarded(batch: Batch, carol: User, dave: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    client.post(address(item, "/draft"), {"choice": "B", "comment": "so far", "seconds": "42"})
    browser(dave).post(address(item, "/draft"), {"discard": "1"})
    assert "so far" in client.get(address(item)).content.decode(), "drafts of others stay"
    left = client.post(address(item, "/draft"), {"discard": "1"})
    assert left["Location"] == address(item)
    page = client.get(address(item)).content.decode()
    assert "Draft restored" not in page
    assert "so far" not in page
    assert "checked" not in page.split("audit-shortcuts")[0]
    assert 'name="seconds" value="42"' in page, "the time was spent"


def test_a_page_left_without_input_leaves_no_draft(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    client.post(address(item, "/draft"), {"comment": "", "seconds": "5"})
    assert "Draft restored" not in client.get(address(item)).content.decode()


def test_a_draft_of_an_item_that_was_lost_is_refused(batch: Batch, carol: User, dave: User) -> None:
    item = take(browser(carol), batch)
    assert browser(dave).post(address(item, "/draft"), {"comment": "x"}).status_code == 409


def test_an_answer_can_be_taken_back_and_given_anew(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    give(client, item, "A", comment="hasty")
    other = take(client, batch)
    assert client.post(address(item, "/undo"))["Location"] == address(item)
    page = client.get(address(item)).content.decode()
    assert "hasty" in page
    assert re.search(r'value="A"[^>]*checked', page)
    give(client, item, "B")
    assert Answer.objects.get().choice == ("first" if item.is_swapped else "second")
    rows = Activity.objects.filter(object_type="item", object_id=item.pk)
    changes = [row.action for row in rows]
    assert changes == ["answered", "undone", "answered"]
    assert take(client, batch) == other


def test_nobody_takes_back_what_somebody_else_answered(
    batch: Batch, carol: User, dave: User
) -> None:
    item = take(browser(carol), batch)
    give(browser(carol), item)
    browser(dave).post(address(item, "/undo"))
    assert Answer.objects.get().auditor == carol


def test_the_reveal_comes_after_the_answer_and_then_it_stands(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    assert client.post(address(item, "/reveal")).status_code == 404
    give(client, item)
    assert "Elo of A and B" not in client.get(address(item)).content.decode()
    client.post(address(item, "/reveal"))
    page = client.get(address(item)).content.decode()
    assert "Elo of A and B" in page
    assert "Meta-judge, A shown first" in page
    client.post(address(item, "/undo"))
    assert Answer.objects.filter(item=item).exists()


def test_the_reveal_names_what_won_by_the_letters_that_were_shown(
    batch: Batch, carol: User
) -> None:
    client = browser(carol)
    item = batch.items.filter(is_swapped=True)[0]
    Item.objects.exclude(pk=item.pk).update(is_answered=True)
    HiddenVerdict.objects.filter(item=item).update(
        facts=item.hidden_verdict.facts | {"forward": "first", "backward": "tie", "elo_first": 7.5}
    )
    take(client, batch)
    give(client, item)
    client.post(address(item, "/reveal"))
    page = re.sub(r"\s+", " ", client.get(address(item)).content.decode())
    assert "A shown first</th><td>tie" in page
    assert "B shown first</th><td>judgment B is better" in page
    assert "and 7.50" in page


def test_a_batch_may_reveal_only_at_its_end(audited: Experiment, alice: User, carol: User) -> None:
    late = draw(audited, by=alice, auditors=[carol], reveals_at_once=False)
    client = browser(carol)
    item = take(client, late)
    give(client, item)
    client.post(address(item, "/reveal"))
    assert "when the batch is closed" in client.get(address(item)).content.decode()
    Batch.objects.update(status="closed")
    assert "Elo of A and B" in client.get(address(item)).content.decode()


def test_a_skipped_item_comes_again_only_when_asked_for(batch: Batch, carol: User) -> None:
    client = browser(carol)
    skipped = take(client, batch)
    client.post(address(skipped, "/skip"))
    for _ in range(11):
        item = take(client, batch)
        assert item != skipped
        give(client, item)
    page = client.get(f"/audits/{batch.pk}/annotate").content.decode()
    assert "You skipped the item that you could still answer." in page
    client.post(f"/audits/{batch.pk}/skipped")
    assert take(client, batch) == skipped


def test_repeats_go_to_whom_they_are_for(
    audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    again = draw(audited, by=alice, auditors=[carol, dave], same_share=0.25, other_share=0.25)
    assert again.items.count() == 12 + 3 + 3
    answer_everything(browser(carol), again)
    answer_everything(browser(dave), again)
    repeats = again.items.exclude(repeat_kind="").select_related("answer", "original__answer")
    for item in repeats:
        is_same = item.answer.auditor == item.original.answer.auditor  # type: ignore[union-attr]
        assert is_same == (item.repeat_kind == "same")
        assert item.number > item.original.number  # type: ignore[union-attr]
    assert repeats.count() == 6


def test_the_reveal_waits_where_the_same_item_comes_again(
    audited: Experiment, alice: User, carol: User
) -> None:
    again = draw(audited, by=alice, auditors=[carol], same_share=0.5)
    original = again.items.get(
        repeat_kind="", repeats__number=again.items.filter(repeat_kind="same")[0].number
    )
    Item.objects.filter(repeat_kind="").exclude(pk=original.pk).update(is_answered=True)
    client = browser(carol)
    assert take(client, again) == original
    give(client, original)
    client.post(address(original, "/reveal"))
    assert "revealed later" in client.get(address(original)).content.decode()


def answer_everything(client: Client, batch: Batch) -> None:
    while client.get(f"/audits/{batch.pk}/annotate").status_code == 302:
        give(client, take(client, batch))


def test_points_are_asked_for_responses(audited: Experiment, alice: User, carol: User) -> None:
    good = draw(audited, by=alice, auditors=[carol], kind="responses", strategy="score")
    client = browser(carol)
    item = take(client, good)
    page = client.get(address(item)).content.decode()
    assert "How good is this response" in page
    assert not visible_words(page) & set(FORBIDDEN)
    assert client.post(address(item), {"points": "6", "confidence": "2"}).status_code == 422
    client.post(address(item), {"points": "4.5", "confidence": "2"})
    assert Answer.objects.get(item=item).points == 4.5
    client.post(address(item, "/undo"))
    assert re.search(r'value="4.5"[^>]*checked', client.get(address(item)).content.decode())


def test_differences_are_a_region_of_the_page(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    Item.objects.filter(pk=item.pk).update(first="same\none two", second="same\none three")
    for headers, is_region in (
        ({"HX-Request": "true"}, True),
        ({}, False),
        ({"HX-Request": "true", "HX-History-Restore-Request": "true"}, False),
    ):
        answer = client.get(address(item) + "?differences=1", headers=headers)
        page = answer.content.decode()
        assert ("<html" not in page) == is_region
        assert "<mark>two</mark>" in page
        assert "<mark>three</mark>" in page
        assert "HX-Request" in answer["Vary"]


def test_an_answer_without_a_choice_is_sent_back(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    answer = client.post(address(item), {"confidence": "2", "comment": "kept"})
    assert answer.status_code == 422
    top, _, form = answer.content.decode().partition('<form id="answer"')
    assert '<a href="#id_choice">Which judgment is better?</a>: Choose an answer.' in top
    assert 'id="id_choice_error"><li>Choose an answer.</li>' in form
    assert 'aria-describedby="id_choice_error"' in form
    assert "Draft restored" not in top, "what was just sent is no restored draft"
    assert "kept" in answer.content.decode()


def test_confidence_is_asked_for_and_never_preselected(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    assert "checked" not in client.get(address(item)).content.decode().split("audit-tags")[0]
    answer = client.post(address(item), {"choice": "A"})
    assert answer.status_code == 422
    assert "Choose how sure you are." in answer.content.decode()
    assert not Answer.objects.exists()


def test_the_answers_of_other_auditors_are_counted_apart(
    batch: Batch, carol: User, dave: User
) -> None:
    give(browser(carol), take(browser(carol), batch))
    held = address(take(browser(carol), batch))
    assert "You answered 1 of 12 items; 11 left." in browser(carol).get(held).content.decode()
    give(browser(dave), take(browser(dave), batch))
    page = browser(carol).get(held).content.decode()
    assert "You answered 1 and other auditors 1 of 12 items; 10 left." in page


def test_the_total_of_a_lone_auditor_stays_the_same_to_the_end(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], size=10, same_share=0.3)
    client, planned = browser(carol), batch.items.count()
    assert planned == 13
    for count in range(planned):
        progress = annotation_queue.compute_progress(batch, carol)
        assert (progress.total, progress.mine, progress.left) == (planned, count, planned - count)
        give(client, take(client, batch))
    page = client.get(f"/audits/{batch.pk}/annotate").content.decode()
    assert "You answered 13 of 13 items; 0 left." in page
    assert "the remaining items" not in page


def test_the_list_describes_each_batch_and_estimates_its_time(
    batch: Batch, carol: User, dave: User
) -> None:
    client = browser(carol)
    page = client.get("/audits").content.decode()
    assert f">Start batch {batch.pk}</a>" in page
    assert "Which of two judgments is better</b>" in page
    assert "No answers have been timed yet." in page
    for _ in range(4):
        give(browser(dave), take(browser(dave), batch), seconds="60")
    page = client.get("/audits").content.decode()
    assert "You answered 0 and other auditors 4 of 12 items; 8 left." in page
    assert "At most 8 minutes for you, at 60 seconds per item (median of all auditors)." in page
    for _ in range(5):
        give(client, take(client, batch), seconds="30")
    page = client.get("/audits").content.decode()
    assert f">Continue batch {batch.pk}</a>" in page
    assert "At most 2 minutes for you, at 30 seconds per item (your median)." in page


def test_an_auditor_who_opens_the_results_is_led_to_the_items(
    audited: Experiment, batch: Batch, carol: User, alice: User
) -> None:
    refused = browser(carol).get(f"/audits/{batch.pk}")
    page = refused.content.decode()
    assert refused.status_code == 403
    assert f"You cannot see the results of batch {batch.pk}" in page
    assert f'href="/audits/{batch.pk}/annotate">Start batch {batch.pk}</a>' in page
    other = draw(audited, by=alice, auditors=[])
    for pk in (other.pk, 999):
        refused = browser(carol).get(f"/audits/{pk}")
        assert refused.status_code == 403
        assert "Your account cannot open this page." in refused.content.decode()


def test_a_closed_batch_takes_no_answers(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    Batch.objects.update(status="closed")
    assert (
        "or its batch was closed"
        in client.post(
            address(item), {"choice": "A", "confidence": "2"}, follow=True
        ).content.decode()
    )
    assert not Answer.objects.exists()


def test_a_removed_auditor_leaves_the_answers_and_frees_the_item(
    batch: Batch, carol: User, dave: User
) -> None:
    give(browser(carol), take(browser(carol), batch))
    held = take(browser(carol), batch)
    carol.delete()
    found = Answer.objects.get()
    assert (found.auditor, found.auditor_name) == (None, "carol")
    held.refresh_from_db()
    assert held.holder is None
    answer_everything(browser(dave), batch)
    assert Answer.objects.count() == 12


def test_a_deleted_experiment_leaves_the_batch(
    batch: Batch, audited: Experiment, carol: User
) -> None:
    item = take(browser(carol), batch)
    audited.delete()
    give(browser(carol), item)
    batch.refresh_from_db()
    assert (batch.experiment, batch.experiment_name) == (None, "scripted")
    assert Answer.objects.count() == 1


def test_texts_of_models_are_never_html(batch: Batch, carol: User) -> None:
    client = browser(carol)
    item = take(client, batch)
    bad = "<img src=x onerror=alert(1)> <script>alert(1)</script> [go](javascript:alert(1)) **b**"
    Item.objects.filter(pk=item.pk).update(first=bad, second=bad + " x", response=bad)
    for query in ("", "?differences=1"):
        page = client.get(address(item) + query).content.decode()
        assert "<img" not in page
        assert "<script>alert" not in page
        assert 'href="javascript' not in page
    assert "<strong>b</strong>" in page


Visit = Callable[[Client, Item], int]
VISITS: dict[str, Visit] = {
    "desk": lambda client, item: client.get(f"/audits/{item.batch_id}/annotate").status_code,
    "item": lambda client, item: client.get(address(item)).status_code,
    "answer": lambda client, item: client.post(address(item), {"choice": "A"}).status_code,
    "draft": lambda client, item: client.post(address(item, "/draft")).status_code,
    "skip": lambda client, item: client.post(address(item, "/skip")).status_code,
    "undo": lambda client, item: client.post(address(item, "/undo")).status_code,
    "reveal": lambda client, item: client.post(address(item, "/reveal")).status_code,
}


@pytest.mark.parametrize("visit", VISITS.values(), ids=VISITS)
def test_the_desk_is_for_auditors_and_batches_for_those_assigned(
    visit: Visit, batch: Batch, alice: User
) -> None:
    item = batch.items.all()[0]
    assert visit(browser(make_person("erin", "auditor")), item) == 404
    assert visit(browser(alice), item) == 403
    assert visit(Client(), item) == 302


@pytest.mark.parametrize("what", ["/draft", "/skip", "/undo", "/reveal"])
def test_what_changes_an_item_is_posted(what: str, batch: Batch, carol: User) -> None:
    assert browser(carol).get(address(batch.items.all()[0], what)).status_code == 405
    assert browser(carol).delete(address(batch.items.all()[0])).status_code == 405


def test_auditors_see_no_results(batch: Batch, carol: User) -> None:
    client = browser(carol)
    for path in (f"/audits/{batch.pk}", f"/audits/{batch.pk}/export/csv",
                 "/experiments/scripted/audits"):  # fmt: skip
        assert client.get(path).status_code == 403
    page = client.get("/audits").content.decode()
    assert f"batch {batch.pk}" in page
    assert not visible_words(page) & set(FORBIDDEN)


def test_a_desk_page_asks_the_database_little(
    batch: Batch, carol: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client = browser(carol)
    item = take(client, batch)
    with django_assert_max_num_queries(12):
        client.get(address(item))


def with_repeats_of(batch: Batch, auditor: User) -> int:
    """Let somebody answer all items of a batch but the repeats; returns how many those are."""
    for item in batch.items.filter(repeat_kind=""):
        Answer.objects.create(
            item=item, auditor=auditor, auditor_name=auditor.username, choice="tie"
        )
    batch.items.filter(repeat_kind="").update(is_answered=True)
    return batch.items.filter(repeat_kind="same").count()


def unassigned(batch: Batch, carol: User) -> None:
    batch.auditors.remove(carol)


def without_the_role(batch: Batch, carol: User) -> None:
    carol.groups.clear()


def inactive(batch: Batch, carol: User) -> None:
    User.objects.filter(pk=carol.pk).update(is_active=False)


def deleted(batch: Batch, carol: User) -> None:
    carol.delete()


@pytest.mark.parametrize("leave", [unassigned, without_the_role, inactive, deleted])
def test_repeats_that_only_somebody_who_left_could_answer_go_to_the_others(
    leave: Callable[[Batch, User], None], audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol, dave], same_share=0.5)
    assert with_repeats_of(batch, carol) == 6
    assert browser(dave).get(f"/audits/{batch.pk}/annotate").status_code == 200, "they are carol's"
    leave(batch, carol)
    answer_everything(browser(dave), batch)
    assert not batch.items.filter(is_answered=False).exists()
    assert Answer.objects.filter(auditor=dave, item__repeat_kind="other").count() == 6
    assert Activity.objects.filter(action="passed_on", after={"auditor": "carol"}).count() == 6


def test_whoever_takes_an_auditor_off_a_batch_is_told_what_becomes_of_the_repeats(
    client: Client, audited: Experiment, alice: User, carol: User, dave: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol, dave], same_share=0.5)
    with_repeats_of(batch, carol)
    path = f"/audits/{batch.pk}/auditors"
    page = client.post(path, {"auditors": [dave.pk]}, follow=True).content.decode()
    assert "6 repeat items were reassigned because the auditor was removed" in page
    assert batch.items.filter(repeat_kind="other", is_answered=False).count() == 6


def test_the_report_says_whose_account_was_removed(
    client: Client, batch: Batch, carol: User, dave: User
) -> None:
    give(browser(carol), take(browser(carol), batch))
    give(browser(dave), take(browser(dave), batch))
    assert "accounts still count" not in client.get(f"/audits/{batch.pk}").content.decode()
    carol.delete()
    page = " ".join(client.get(f"/audits/{batch.pk}").content.decode().split())
    assert 'carol</a> <span class="facts">(account deleted)' in page
    assert 'dave</a> <span class="facts">' not in page
    assert "Answers from deleted or inactive accounts still count" in page
