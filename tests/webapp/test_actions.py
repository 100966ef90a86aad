"""Buttons that steer an experiment: which there are, and what a press leaves behind."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import finish, get, make_private, run_judging
from webapp.experiments.models import Experiment, Iteration, Job

pytestmark = pytest.mark.django_db

PATH = "/experiments/first"
STEER = f"{PATH}/actions"


def buttons(client: Client, path: str = PATH) -> list[str]:
    page = get(client, path)
    kinds = ("next", "pause", "cancel", "resume", "accept_probe")
    return [kind for kind in kinds if f'name="do" value="{kind}"' in page]


@pytest.mark.parametrize(
    "status, expected",
    [
        ("running", ["pause", "cancel"]),
        ("paused", ["cancel", "resume"]),
        ("cancelled", ["resume"]),
        ("interrupted", ["cancel", "resume"]),
        ("failed", ["resume"]),
        ("no_pairs", []),
        ("needs_attention", ["cancel", "resume", "accept_probe"]),
        ("finished", ["next"]),
    ],
)
def test_what_can_be_asked_depends_on_where_it_stands(
    client: Client, iteration: Iteration, status: str, expected: list[str]
) -> None:
    run_judging(iteration)
    Iteration.objects.update(status=status)
    Experiment.objects.update(status="waiting" if status == "finished" else status)
    assert buttons(client) == expected
    assert buttons(client, f"{PATH}/iterations/1") == expected


def test_nothing_can_be_asked_of_what_a_command_runs(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    Iteration.objects.update(driver="command")
    assert buttons(client) == []


def test_a_wish_to_pause_can_be_taken_back(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    Iteration.objects.update(pause_requested=True)
    assert buttons(client) == ["cancel", "resume"]
    assert "pausing" in get(client, PATH)
    Iteration.objects.update(cancel_requested=True)
    assert buttons(client) == []


def test_an_earlier_iteration_cannot_be_steered(client: Client, iteration: Iteration) -> None:
    finish(iteration)
    run_judging(Iteration.objects.create(experiment=iteration.experiment, number=2))
    assert buttons(client, f"{PATH}/iterations/1") == []
    assert buttons(client, f"{PATH}/iterations/2") == ["pause", "cancel"]


def test_pressing_a_button_places_an_order(
    client: Client, iteration: Iteration, alice: User
) -> None:
    run_judging(iteration)
    answer = client.post(STEER, {"do": "pause", "iteration": "1"})
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{PATH}/iterations/1")
    job = Job.objects.get()
    assert (job.kind, job.created_by, job.experiment) == ("pause", alice, iteration.experiment)
    assert client.post(STEER, {"do": "cancel"}).headers["Location"] == PATH


def test_what_is_asked_already_is_not_asked_again(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    client.post(STEER, {"do": "pause"})
    answer = client.post(STEER, {"do": "pause"}, follow=True)
    assert Job.objects.count() == 1
    assert "An identical request is already pending." in answer.content.decode()
    Job.objects.update(status="done")
    client.post(STEER, {"do": "pause"})
    assert Job.objects.count() == 2


@pytest.mark.parametrize("form", [{}, {"do": "launch"}, {"do": "pause", "iteration": "x"}])
def test_nonsense_is_refused(client: Client, experiment: Experiment, form: dict[str, str]) -> None:
    assert client.post(STEER, form).status_code == 400
    assert not Job.objects.exists()


def test_only_who_may_steer_can(client: Client, experiment: Experiment) -> None:
    bob = make_person("bob", "operator")
    Experiment.objects.update(owner=bob)
    assert client.post(STEER, {"do": "next"}).status_code == 403
    assert "steer-next" not in get(client, PATH)
    make_private(experiment, bob)
    assert client.post(STEER, {"do": "next"}).status_code == 404
    viewer = Client()
    viewer.force_login(make_person("vera", "viewer"))
    assert viewer.post(STEER, {"do": "next"}).status_code == 403
    assert Client().post(STEER, {"do": "next"}).status_code == 302
    assert client.get(STEER).status_code == 405
    assert not Job.objects.exists()


def test_a_form_without_its_token_is_refused(alice: User, experiment: Experiment) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.post(STEER, {"do": "next"}).status_code == 403
    assert not Job.objects.exists()
