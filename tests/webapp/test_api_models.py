"""Trying and publishing models through the API: the same rules as on the pages."""

from typing import Any

import pytest
from django.contrib.auth.models import User

from tests.webapp.conftest import make_person
from tests.webapp.test_api import Program, program_of
from webapp.experiments.models import Experiment, Iteration, Job

pytestmark = pytest.mark.django_db

TRIES = "/experiments/first/playground"
PUBLISH = "/experiments/first/iterations/1/publish"
PAYLOAD = {"prompt": "What is the capital of France?", "models": [1, 0]}


@pytest.fixture
def program(alice: User, experiment: Experiment, iteration: Iteration) -> Program:
    """A program of alice's; her experiment has made M1."""
    Iteration.objects.update(status="finished", model_out="c" * 64)
    return program_of(alice)


def test_a_try_is_an_order_like_the_pages(program: Program) -> None:
    status, answer = program.ask("POST", TRIES, PAYLOAD | {"judges": [0], "temperature": 0.5})
    assert status == 202
    payload = Job.objects.get(pk=answer["id"], kind="chat").payload
    assert (payload["models"], payload["judges"]) == ([1, 0], [0])
    assert payload["sampling"]["temperature"] == 0.5
    assert program.ask("GET", f"/orders/{answer['id']}")[1]["status"] == "waiting"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 20_001}, "20000"),
        ({"models": [0, 0]}, "other than the first"),
        ({"models": [0, 7]}, "7 is not one of the available choices"),
        ({"models": [0]}, "at least 2"),
        ({"judges": [4]}, "M4 must be among the two"),
        ({"judgments": 99}, "judgments"),
        ({"temperature": -1}, "temperature"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_is_wrong_with_a_try_is_said(
    program: Program, change: dict[str, Any], words: str
) -> None:
    status, answer = program.ask("POST", TRIES, PAYLOAD | change)
    assert status == 422
    assert words in str(answer["detail"])
    assert not Job.objects.exists()


@pytest.fixture
def done(program: Program) -> Job:
    """A try that both models have answered."""
    number = program.ask("POST", TRIES, PAYLOAD | {"judges": [0], "seed": 5})[1]["id"]
    plain = {"tokens": 1, "finish_reason": "stop", "refusal": None, "seconds": 0.1}
    answers = [{"model": model, "text": "Paris.", **plain} for model in (1, 0)]
    Job.objects.filter(pk=number).update(status="done", outcome={"answers": answers})
    return Job.objects.get(pk=number)


def test_a_follow_up_goes_on_as_the_turn_before(program: Program, done: Job) -> None:
    path = f"{TRIES}/{done.pk}/follow-ups"
    status, answer = program.ask("POST", path, {"prompt": "And of Italy?", "temperature": 0.5})
    assert (status, answer["follows"]) == (202, done.pk)
    payload = Job.objects.get(pk=answer["id"], follows=done).payload
    sampling = done.payload["sampling"] | {"temperature": 0.5}
    assert payload == done.payload | {"prompt": "And of Italy?", "sampling": sampling}
    assert program.ask("GET", f"/orders/{done.pk}")[1]["follows"] is None
    judged = program.ask("POST", path, {"prompt": "Shorter", "judges": []})[1]
    assert judged["wish"]["judges"] == []


def test_what_cannot_be_said_next_is_refused(program: Program, done: Job) -> None:
    path = f"{TRIES}/{done.pk}/follow-ups"
    for given, words in {
        "prompt": ({"prompt": " "}, "empty"),
        "judges": ({"prompt": "And?", "judges": [7]}, "7"),
        "models": ({"prompt": "And?", "models": [0, 1]}, "Extra inputs"),
    }.values():
        status, answer = program.ask("POST", path, given)
        assert (status, words in str(answer["detail"])) == (422, True), given
    Job.objects.update(status="waiting", outcome={})
    status, answer = program.ask("POST", path, {"prompt": "And?"})
    assert (status, "still responding" in answer["detail"]) == (409, True)
    assert program.ask("POST", f"{TRIES}/999999/follow-ups", {"prompt": "And?"})[0] == 404
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    "name, role, status", [("vera", "viewer", 403), ("oscar", "operator", 202)]
)
def test_who_may_ask_may_follow(
    program: Program, done: Job, name: str, role: str, status: int
) -> None:
    path, said = f"{TRIES}/{done.pk}/follow-ups", {"prompt": "And?"}
    somebody = program_of(make_person(name, role))
    assert somebody.ask("POST", path, said)[0] == status
    Experiment.objects.update(is_private=True)
    assert somebody.ask("POST", path, said)[0] in {403, 404}
    assert Job.objects.filter(follows=done).count() == (status == 202)


def test_a_model_is_published(program: Program) -> None:
    status, answer = program.ask("POST", PUBLISH, {})
    assert status == 202
    payload = {"number": 1, "repository": "", "is_public": False}
    assert Job.objects.get(pk=answer["id"], kind="publish").payload == payload


def test_what_cannot_be_published_is_refused(program: Program) -> None:
    status, answer = program.ask("POST", PUBLISH, {"repository": "me/mine"})
    assert (status, "no Hugging Face token" in answer["detail"]) == (422, True)
    assert program.ask("POST", PUBLISH.replace("1", "9"), {})[0] == 404
    Iteration.objects.update(status="running")
    assert program.ask("POST", PUBLISH, {})[0] == 409
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "name, role, statuses",
    [("vera", "viewer", (403, 403)), ("oscar", "operator", (202, 403)), ("nora", "", (403, 403))],
)
def test_roles_are_those_of_the_pages(
    program: Program, name: str, role: str, statuses: tuple[int, int]
) -> None:
    somebody = program_of(make_person(name, role))
    assert (
        somebody.ask("POST", TRIES, PAYLOAD)[0],
        somebody.ask("POST", PUBLISH, {})[0],
    ) == statuses


def test_a_strangers_private_experiment_is_not_there(program: Program) -> None:
    Experiment.objects.update(is_private=True)
    somebody = program_of(make_person("oscar", "operator"))
    assert somebody.ask("POST", TRIES, PAYLOAD)[0] == 404
    assert somebody.ask("POST", PUBLISH, {})[0] == 404
