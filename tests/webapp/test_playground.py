"""The pages on which two models are tried: asked for, watched, cancelled, read."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.webapp.conftest import make_person
from webapp.experiments.models import Experiment, Iteration, Job, PlaygroundVote, Worker

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
PAGE = "/experiments/first/playground"
HOSTILE = (
    "</pre><script>alert(1)</script>{{ 1|add:1 }}<img src=x hx-get=/ onerror=alert(2)>\u202e\u200b"
)
FORM = {
    "prompt": "What is\r\nthe capital of France?",
    "first": "0",
    "second": "1",
    "temperature": "0.7",
    "top_p": "0.9",
    "max_new_tokens": "64",
    "seed": "3",
    "judges": ["second"],
    "judgments": "2",
}


FOLLOW_UP = {
    "prompt": "And of\r\nItaly?",
    "temperature": "0.5",
    "top_p": "0.8",
    "max_new_tokens": "32",
    "seed": "4",
    "judges": ["0", "1"],
    "judgments": "1",
}


@pytest.fixture(autouse=True)
def m1(iteration: Iteration) -> Iteration:
    """The experiment has M0 and M1."""
    Iteration.objects.update(status="finished", model_out="c" * 64)
    return iteration


def add_try(experiment: Experiment, by: User | None = None, **values: Any) -> Job:
    payload = {
        "prompt": "What is the capital of France?",
        "models": [0, 1],
        "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
        "seed": 3,
        "judges": [1],
        "judgments": 2,
    }
    return Job.objects.create(
        kind="chat",
        experiment=experiment,
        created_by=by,
        experiment_name="first",
        payload=payload,
        **values,
    )


def answer(model: int, text: str, **more: Any) -> dict[str, Any]:
    plain = {"tokens": 12, "finish_reason": "stop", "refusal": None, "seconds": 1.5}
    return {"model": model, "text": text, **plain, **more}


def judgment(model: int, text: str, score: float | None) -> dict[str, Any]:
    reason = None if score is not None else "no_score_line"
    return {
        "judge": 1,
        "model": model,
        "text": text,
        "score": score,
        "unscored_reason": reason,
        "tokens": 9,
    }


@pytest.fixture
def finished(experiment: Experiment, alice: User) -> Job:
    outcome = {
        "answers": [answer(0, "Lyon?"), answer(1, "Paris.", finish_reason="length")],
        "judgments": [
            judgment(0, "Wrong. Score: 1", 1.0),
            judgment(0, "Wrong indeed. Score: 2", 2.0),
            judgment(1, "Right. Score: 5", 5.0),
            judgment(1, "Hm", None),
        ],
    }
    return add_try(experiment, alice, status="done", outcome=outcome, finished=timezone.now())


def get(client: Client, path: str, **headers: str) -> str:
    answered = client.get(path, headers=headers)
    assert answered.status_code == 200
    return answered.content.decode()


def test_asking_places_an_order_that_a_worker_can_read(
    client: Client, experiment: Experiment, alice: User
) -> None:
    answered = client.post(PAGE, FORM)
    job = Job.objects.get()
    assert answered.status_code == 302
    assert answered.headers["Location"] == f"{PAGE}/{job.pk}"
    assert (job.kind, job.created_by, job.experiment) == ("chat", alice, experiment)
    assert job.payload == {
        "prompt": "What is\nthe capital of France?",
        "models": [0, 1],
        "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
        "seed": 3,
        "judges": [1],
        "judgments": 2,
    }


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": ""}, "required"),
        ({"prompt": "   "}, "empty"),
        ({"prompt": "x" * 20_001}, "20000"),
        ({"second": "0"}, "Choose a model other"),
        ({"second": "2"}, "valid choice"),
        ({"temperature": "2.5"}, "less than or equal"),
        ({"temperature": "nan"}, "Enter a number"),
        ({"top_p": "0"}, "greater than or equal"),
        ({"max_new_tokens": "2049"}, "less than or equal"),
        ({"seed": "-1"}, "greater than or equal"),
        ({"judgments": "12"}, "less than or equal"),
        ({"judges": ["third"]}, "valid choice"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_asked(
    client: Client, change: dict[str, Any], words: str
) -> None:
    page = client.post(PAGE, FORM | change).content.decode()
    assert words in page
    assert "errorlist" in page
    assert not Job.objects.exists()


def test_with_m0_alone_there_is_nothing_to_compare(client: Client) -> None:
    Iteration.objects.update(status="running")
    page = get(client, PAGE)
    assert "Only M0 exists" in page
    assert "textarea" not in page


def test_the_form_begins_with_the_actors_own_settings(
    client: Client, experiment: Experiment
) -> None:
    Experiment.objects.update(recipe={"name": "x", "actor": {"temperature": 0.35}})
    page = get(client, PAGE)
    assert 'name="temperature" value="0.35"' in page
    assert '<option value="1" selected>M1</option>' in page


def test_an_earlier_try_can_be_asked_again(client: Client, finished: Job) -> None:
    page = get(client, f"{PAGE}?again={finished.pk}")
    assert "What is the capital of France?</textarea>" in page
    assert 'value="second" id="id_judges_1" checked' in page.replace("\n", " ") or (
        "checked" in page.split('value="second"')[1][:60]
    )
    get(client, f"{PAGE}?again=nonsense")
    get(client, f"{PAGE}?again=999999")


def test_both_answers_stand_side_by_side_with_scores_and_reasons(
    client: Client, finished: Job
) -> None:
    page = get(client, f"{PAGE}/{finished.pk}")
    assert page.index("Lyon?") < page.index("Paris.")
    assert "12 tokens · 1.5 s including loading · stopped at end of text" in page
    assert "cut off by the token limit" in page
    said = 'M1 as judge: <strong>{}</strong> of 5 <span class="facts">({})</span>'
    assert said.format("1.5", "n = 2 of 2 judgments") in page
    own = '<span class="own">judged its own response</span>'
    assert f"{said.format('5.0', 'n = 1 of 2 judgments')} {own}" in page
    assert page.count(own) == 1, "M1 judged M0's response, too"
    assert "M1 judged its own response, and may favor it." in page
    assert f'href="{PAGE}?again={finished.pk}">Resend with other judges</a>' in page
    assert "<h1>M0 and M1 in the playground</h1>" in page
    assert "unscored: no score line" in page
    assert "has no line that states a score" in page
    assert "hx-get" not in page


def test_a_refused_prompt_says_why(client: Client, experiment: Experiment) -> None:
    refused = answer(0, "", finish_reason="refused", refusal="4,000 tokens are too many")
    job = add_try(
        experiment, status="done", outcome={"answers": [refused, answer(1, "")], "judgments": []}
    )
    page = get(client, f"{PAGE}/{job.pk}")
    assert "4,000 tokens are too many" in page
    assert "(empty response)" in page


def test_the_page_asks_until_the_order_has_ended(client: Client, experiment: Experiment) -> None:
    job = add_try(experiment)
    path = f"{PAGE}/{job.pk}"
    region = get(client, path, **HTMX)
    assert f'hx-get="{path}" hx-trigger="every 2s"' in region
    assert "queued for a GPU worker" in region
    assert "No workers are running" in region
    assert 'http-equiv="refresh"' in get(client, path)
    doing = {"doing": "M1 answers", "tokens": 1234, "answers": [answer(0, "first")]}
    Job.objects.update(status="running", token="0" * 32, outcome=doing)
    now = timezone.now()
    Worker.objects.create(
        name="w", host="h", pid=1, queues="gpu", since=now, started=now, heartbeat=now
    )
    region = get(client, path, **HTMX)
    assert "M1 answers: 1,234 tokens" in region
    assert "first" in region
    assert "No workers are running" not in region
    Job.objects.update(status="refused", token=None, message="the engine died")
    region = get(client, path, **HTMX)
    assert "hx-get" not in region
    assert "the engine died" in region


@pytest.mark.parametrize("path", [PAGE, "result"])
@pytest.mark.parametrize(
    "headers, is_whole",
    [
        ({}, True),
        (HTMX, False),
        (HTMX | {"HX-History-Restore-Request": "true"}, True),
        (HTMX | {"HX-Boosted": "true"}, True),
    ],
)
def test_htmx_gets_the_region_alone_and_others_the_page(
    client: Client, finished: Job, path: str, headers: dict[str, str], is_whole: bool
) -> None:
    page = get(client, f"{PAGE}/{finished.pk}" if path == "result" else path, **headers)
    assert ("<html" in page) == is_whole


def test_past_tries_are_listed_and_watched(client: Client, finished: Job) -> None:
    page = get(client, PAGE)
    assert f'href="{PAGE}/{finished.pk}"' in page
    assert "hx-get" not in page
    assert finished.experiment is not None
    add_try(finished.experiment)
    assert 'hx-get="/experiments/first/playground"' in get(client, PAGE, **HTMX)


def test_texts_of_people_and_models_are_never_html(client: Client, finished: Job) -> None:
    outcome = {
        "answers": [answer(0, HOSTILE), answer(1, "", refusal=HOSTILE, finish_reason="refused")],
        "judgments": [judgment(0, HOSTILE, 3.0), judgment(0, HOSTILE, None)],
        "doing": HOSTILE,
    }
    payload = finished.payload | {"prompt": HOSTILE}
    Job.objects.update(outcome=outcome, payload=payload, message=HOSTILE)
    for path in (PAGE, f"{PAGE}/{finished.pk}", f"{PAGE}?again={finished.pk}"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "{{ 1|add:1 }}" in page


def test_a_megabyte_is_shown(client: Client, finished: Job) -> None:
    outcome = {"answers": [answer(0, "x" * 1_000_000), answer(1, "y")], "judgments": []}
    Job.objects.update(outcome=outcome)
    assert "x" * 1_000_000 in get(client, f"{PAGE}/{finished.pk}")


# Conversations


def follow(job: Job, by: User | None = None, prompt: str = "And?", **values: Any) -> Job:
    """A further turn, which is answered unless it is said otherwise."""
    assert job.experiment is not None
    answers = [answer(0, f"M0 to {prompt}"), answer(1, f"M1 to {prompt}")]
    given: dict[str, Any] = {"status": "done", "outcome": {"answers": answers, "judgments": []}}
    made = add_try(job.experiment, by, follows=job, **(given | values))
    Job.objects.filter(pk=made.pk).update(payload=made.payload | {"prompt": prompt})
    made.refresh_from_db()
    return made


def test_a_follow_up_is_an_order_that_names_the_turn_before(
    client: Client, finished: Job, alice: User
) -> None:
    path = f"{PAGE}/{finished.pk}"
    page = get(client, path)
    assert f'action="{path}#follow-up"' in page
    assert "</textarea>" in page
    assert 'name="temperature" value="0.7"' in page
    answered = client.post(path, FOLLOW_UP)
    job = Job.objects.get(follows=finished)
    assert answered.headers["Location"] == f"{PAGE}/{job.pk}#turn-2"
    assert (job.kind, job.created_by, job.experiment) == ("chat", alice, finished.experiment)
    assert job.payload == {
        "prompt": "And of\nItaly?",
        "models": [0, 1],
        "sampling": {"temperature": 0.5, "top_p": 0.8, "max_new_tokens": 32},
        "seed": 4,
        "judges": [0, 1],
        "judgments": 1,
    }


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": ""}, "required"),
        ({"prompt": " "}, "empty"),
        ({"prompt": "x" * 20_001}, "20000"),
        ({"max_new_tokens": "0"}, "greater than or equal"),
        ({"judges": ["2"]}, "not one of the available choices"),
    ],
)
def test_what_is_wrong_with_a_follow_up_is_said(
    client: Client, finished: Job, change: dict[str, str], words: str
) -> None:
    page = client.post(f"{PAGE}/{finished.pk}", FOLLOW_UP | change).content.decode()
    assert words in page
    assert "Lyon?" in page, "the conversation is still there to be read"
    assert Job.objects.count() == 1


def test_a_conversation_is_read_turn_by_turn(client: Client, finished: Job) -> None:
    second = follow(finished, prompt="And of Italy?")
    third = follow(second, prompt="And of Spain?", status="waiting", outcome={})
    path = f"{PAGE}/{third.pk}"
    page = get(client, path)
    told = ["capital of France?", "Lyon?", "Paris.", "Turn 2", "And of Italy?", "M0 to And of",
            "M1 to And of", "Turn 3", "And of Spain?", "queued for a GPU worker"]  # fmt: skip
    places = [page.index(words) for words in told]
    assert places == sorted(places)
    assert page.count("The judge sees the conversation up to this turn") == 1
    assert "</textarea>" not in page, "not before the models have answered"
    assert "Lyon?" not in get(client, path, **HTMX), "what is read already is not sent again"


def test_settings_are_shown_where_they_change(client: Client, finished: Job) -> None:
    second = follow(finished)
    third = follow(second)
    Job.objects.filter(pk=third.pk).update(payload=third.payload | {"judges": [0, 1]})
    page = get(client, f"{PAGE}/{third.pk}")
    assert page.count("Temperature 0.7, top-p 0.9") == 2
    assert page.count("judged by M1") == page.count("judged by M0 and M1") == 1


def test_each_user_has_one_vote_on_each_turn(client: Client, finished: Job, alice: User) -> None:
    last = follow(finished)
    path = f"{PAGE}/{last.pk}"
    assert get(client, path).count('name="vote"') == 6
    for choice in ("first", "tie"):
        answered = client.post(path, {"vote": choice, "turn": finished.pk})
        assert answered.headers["Location"] == f"{path}#turn-1"
    other = make_person("bob", "operator")
    browser = Client()
    browser.force_login(other)
    browser.post(path, {"vote": "second", "turn": finished.pk})
    votes = set(PlaygroundVote.objects.values_list("turn", "voter__username", "choice"))
    assert votes == {(finished.pk, "alice", "tie"), (finished.pk, "bob", "second")}
    page = get(client, path)
    assert 'value="tie" class="" aria-pressed="true">Tie (1)</button>' in page
    assert 'value="second" class="quiet" aria-pressed="false">M1 is better (1)</button>' in page
    assert Job.objects.count() == 2, "a vote is no follow-up"
    other.delete()
    assert PlaygroundVote.objects.count() == 2


def test_votes_that_make_no_sense_are_refused(
    client: Client, finished: Job, experiment: Experiment
) -> None:
    unrelated = add_try(experiment, status="done", outcome=finished.outcome)
    pending = follow(finished, status="waiting", outcome={})
    path = f"{PAGE}/{pending.pk}"
    for sent in (
        {"vote": "third", "turn": finished.pk},
        {"vote": "first", "turn": unrelated.pk},
        {"vote": "first", "turn": pending.pk},
        {"vote": "first"},
    ):
        assert client.post(path, sent).status_code == 404
    viewer = Client()
    viewer.force_login(make_person("vera", "viewer"))
    sent = {"vote": "first", "turn": finished.pk}
    assert viewer.post(path, sent).status_code == 403
    assert "disabled>M0 is better</button>" in viewer.get(path).content.decode()
    assert not PlaygroundVote.objects.exists()


def test_a_turn_leads_to_those_after_it(client: Client, finished: Job) -> None:
    first, second = follow(finished, prompt="Shorter"), follow(finished, prompt="Longer")
    page = get(client, f"{PAGE}/{finished.pk}")
    for later, words in ((first, "Shorter"), (second, "Longer")):
        assert f'href="{PAGE}/{later.pk}#turn-2"><bdi>{words}' in page
    assert "Longer" not in get(client, f"{PAGE}/{first.pk}")


def test_a_failed_turn_is_tried_again_from_the_turn_before(client: Client, finished: Job) -> None:
    failed = follow(finished, prompt="And of Italy?", status="refused", message="the engine died")
    page = get(client, f"{PAGE}/{failed.pk}")
    again = f"{PAGE}/{finished.pk}?again={failed.pk}"
    assert f'href="{again}#follow-up">Retry<' in page
    assert "This turn failed" in page
    assert "And of Italy?</textarea>" in get(client, again)
    elsewhere = follow(failed, prompt="Of something else")
    for stray in (elsewhere.pk, "nonsense", 999_999):
        page = get(client, f"{PAGE}/{finished.pk}?again={stray}")
        assert "Of something else</textarea>" not in page


@pytest.mark.parametrize(
    "change, words",
    [
        ({"status": "waiting", "outcome": {}}, "still responding"),
        ({"status": "running", "token": "0" * 32}, "still responding"),
        ({"status": "refused", "outcome": {}}, "This turn failed"),
        (
            {"outcome": {"answers": [answer(0, "yes"), answer(1, "", finish_reason="refused")]}},
            "M1 gave no response",
        ),
    ],
)
def test_what_was_not_answered_is_not_followed(
    client: Client, finished: Job, change: dict[str, Any], words: str
) -> None:
    Job.objects.update(**change)
    page = client.post(f"{PAGE}/{finished.pk}", FOLLOW_UP, follow=True).content.decode()
    assert words in page
    assert Job.objects.count() == 1


def test_a_conversation_ends_after_twenty_turns(client: Client, finished: Job) -> None:
    last = finished
    for number in range(2, 21):
        last = follow(last, prompt=f"Message {number}")
    before = last.follows
    assert before is not None
    client.post(f"{PAGE}/{before.pk}", FOLLOW_UP)
    assert before.followed_by.count() == 2, "a twentieth turn may be asked otherwise"
    page = client.post(f"{PAGE}/{last.pk}", FOLLOW_UP, follow=True).content.decode()
    assert "at most 20 turns. Start a new one" in page
    assert not last.followed_by.exists()


def test_a_list_has_a_line_for_each_conversation(client: Client, finished: Job) -> None:
    last = follow(follow(finished, prompt="And of Italy?"), prompt="And of Spain?")
    page = get(client, PAGE)
    assert page.count("<tr>") == 2, "its head and one line"
    assert f'href="{PAGE}/{last.pk}"><bdi>What is the capital of France?</bdi>' in page
    assert '<td data-label="Turns">3</td>' in page


def test_a_long_conversation_asks_the_database_as_often_as_a_short_one(
    client: Client, finished: Job
) -> None:
    def count(job: Job) -> list[int]:
        found = []
        for path in (PAGE, f"{PAGE}/{job.pk}"):
            with CaptureQueriesContext(connection) as asked:
                get(client, path)
            found.append(len(asked))
        return found

    second = follow(finished, make_person("bob"))
    before = count(second)
    last = second
    for number in range(3, 21):
        last = follow(last, make_person(f"p{number}"))
    assert count(last) == before
    assert max(before) <= 10


def test_words_of_a_conversation_are_never_html(client: Client, finished: Job) -> None:
    hostile = {"answers": [answer(0, HOSTILE), answer(1, HOSTILE)], "judgments": []}
    second = follow(finished, prompt=HOSTILE, outcome=hostile)
    third = follow(second, prompt=HOSTILE, status="refused", message=HOSTILE)
    for path in (PAGE, *(f"{PAGE}/{turn.pk}" for turn in (finished, second, third))):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page
    assert "{{ 1|add:1 }}" in get(client, f"{PAGE}/{second.pk}?again={third.pk}")


# Cancelling


def test_who_asked_may_cancel(client: Client, experiment: Experiment, alice: User) -> None:
    job = add_try(experiment, alice, status="running", token="0" * 32)
    assert ">Cancel<" in get(client, f"{PAGE}/{job.pk}")
    assert client.post(f"{PAGE}/{job.pk}/cancel").status_code == 302
    job.refresh_from_db()
    assert (job.status, job.message) == ("refused", "cancelled by alice")
    assert (job.token, job.lease_until) == (None, None)
    assert ">Cancel<" not in get(client, f"{PAGE}/{job.pk}")


def test_what_has_ended_cannot_be_cancelled(client: Client, finished: Job) -> None:
    page = client.post(f"{PAGE}/{finished.pk}/cancel", follow=True).content.decode()
    assert "It had already finished." in page
    finished.refresh_from_db()
    assert finished.status == "done"


def test_a_stranger_may_not_cancel_but_who_steers_may(
    client: Client, experiment: Experiment, alice: User
) -> None:
    bob = make_person("bob", "operator")
    theirs = add_try(experiment, alice)
    browser = Client()
    browser.force_login(bob)
    assert browser.post(f"{PAGE}/{theirs.pk}/cancel").status_code == 403
    assert ">Cancel<" not in get(browser, f"{PAGE}/{theirs.pk}")
    his = add_try(experiment, bob)
    assert client.post(f"{PAGE}/{his.pk}/cancel").status_code == 302


# Who may


def test_methods_roles_and_strangers(client: Client, finished: Job, alice: User) -> None:
    result = f"{PAGE}/{finished.pk}"
    assert client.put(PAGE).status_code == 405
    assert client.put(result).status_code == 405
    assert client.get(f"{result}/cancel").status_code == 405
    for path in (PAGE, result):
        assert Client().get(path).status_code == 302
        assert "/account/login" in Client().get(path).headers["Location"]
    viewer, nobody = Client(), Client()
    viewer.force_login(make_person("vera", "viewer"))
    nobody.force_login(make_person("nora"))
    assert "textarea" not in get(viewer, PAGE)
    assert "Lyon?" in get(viewer, result)
    assert "textarea" not in get(viewer, result)
    assert viewer.post(PAGE, FORM).status_code == 403
    assert viewer.post(result, FOLLOW_UP).status_code == 403
    assert nobody.post(result, FOLLOW_UP).status_code == 403
    assert Client().post(result, FOLLOW_UP).status_code == 302
    assert viewer.post(f"{result}/cancel").status_code == 403
    assert nobody.get(PAGE).status_code == 403
    Experiment.objects.update(is_private=True)
    assert viewer.get(PAGE).status_code == 404
    assert viewer.get(result).status_code == 404
    stranger = Client()
    stranger.force_login(make_person("oscar", "operator"))
    assert stranger.post(result, FOLLOW_UP).status_code == 404
    assert Job.objects.count() == 1
    assert client.get(f"{PAGE}/999999").status_code == 404


def test_a_try_of_another_experiment_is_not_found_here(client: Client, finished: Job) -> None:
    Experiment.objects.create(name="second", recipe={}, seed=1)
    assert client.get(f"/experiments/second/playground/{finished.pk}").status_code == 404


def test_pages_ask_the_database_as_often_for_many(
    client: Client, experiment: Experiment, finished: Job, alice: User
) -> None:
    def count(path: str) -> int:
        with CaptureQueriesContext(connection) as asked:
            get(client, path)
        return len(asked)

    paths = (PAGE, f"{PAGE}/{finished.pk}")
    before = [count(path) for path in paths]
    for number in range(30):
        add_try(experiment, make_person(f"p{number}"), finished=timezone.now() - timedelta(1))
    assert [count(path) for path in paths] == before
    assert max(before) <= 10
    assert "Page 1 of 2" in get(client, PAGE)
