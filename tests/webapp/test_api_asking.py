"""Trying and publishing models through the API: the same rules as on the pages."""

from typing import Any

import pytest
from django.contrib.auth.models import User

from tests.webapp.conftest import make_person
from tests.webapp.test_api import Program, program_of
from webapp.experiments.models import Experiment, Iteration, Order

pytestmark = pytest.mark.django_db

TRIES = "/experiments/first/tries"
PUBLISH = "/experiments/first/iterations/1/publish"
WISH = {"prompt": "What is the capital of France?", "models": [1, 0]}


@pytest.fixture
def program(alice: User, experiment: Experiment, iteration: Iteration) -> Program:
    """A program of alice's; her experiment has made M1."""
    Iteration.objects.update(status="finished", model_out="c" * 64)
    return program_of(alice)


def test_a_try_is_an_order_like_the_pages(program: Program) -> None:
    status, answer = program.ask("POST", TRIES, WISH | {"judges": [0], "temperature": 0.5})
    assert status == 202
    wish = Order.objects.get(pk=answer["id"], kind="chat").wish
    assert (wish["models"], wish["judges"]) == ([1, 0], [0])
    assert wish["sampling"]["temperature"] == 0.5
    assert program.ask("GET", f"/orders/{answer['id']}")[1]["status"] == "waiting"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 20_001}, "20000"),
        ({"models": [0, 0]}, "another one than the first"),
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
    status, answer = program.ask("POST", TRIES, WISH | change)
    assert status == 422
    assert words in str(answer["detail"])
    assert not Order.objects.exists()


def test_a_model_is_published(program: Program) -> None:
    status, answer = program.ask("POST", PUBLISH, {})
    assert status == 202
    wish = {"number": 1, "repository": "", "is_public": False}
    assert Order.objects.get(pk=answer["id"], kind="publish").wish == wish


def test_what_cannot_be_published_is_refused(program: Program) -> None:
    status, answer = program.ask("POST", PUBLISH, {"repository": "me/mine"})
    assert (status, "no token of a hub" in answer["detail"]) == (422, True)
    assert program.ask("POST", PUBLISH.replace("1", "9"), {})[0] == 404
    Iteration.objects.update(status="running")
    assert program.ask("POST", PUBLISH, {})[0] == 409
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    "name, role, statuses",
    [("vera", "viewer", (403, 403)), ("oscar", "operator", (202, 403)), ("nora", "", (403, 403))],
)
def test_roles_are_those_of_the_pages(
    program: Program, name: str, role: str, statuses: tuple[int, int]
) -> None:
    somebody = program_of(make_person(name, role))
    assert (somebody.ask("POST", TRIES, WISH)[0], somebody.ask("POST", PUBLISH, {})[0]) == statuses


def test_a_strangers_private_experiment_is_not_there(program: Program) -> None:
    Experiment.objects.update(is_private=True)
    somebody = program_of(make_person("oscar", "operator"))
    assert somebody.ask("POST", TRIES, WISH)[0] == 404
    assert somebody.ask("POST", PUBLISH, {})[0] == 404
