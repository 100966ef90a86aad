"""`manage.py create_demo`: people for each role, and a finished experiment to look at."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.workers.installation import Installation, UseScript
from webapp.experiments.models import Experiment, Iteration

ROLES = {"vera": "viewer", "olga": "operator", "arthur": "auditor", "ada": "admin"}


@pytest.fixture
def demo(installation: Installation, use_script: UseScript) -> str:
    """What the command says; the prompts are the miniature world's."""
    with installation.recipe.open("a") as recipe:
        recipe.write("task: toy\nevaluation: {ground_truth: false}\n")
    return create_demo(installation)


def create_demo(installation: Installation, iterations: int = 1) -> str:
    recipe = installation.recipe
    return installation.run("create_demo", "--recipe", recipe, "--iterations", iterations)


def passwords(said: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) \(\w+\): password (\S+)$", said, re.MULTILINE))


def test_it_makes_a_person_of_each_role_who_can_sign_in(demo: str) -> None:
    found = passwords(demo)
    assert found.keys() == ROLES.keys()
    for name, role in ROLES.items():
        person = User.objects.get(username=name)
        assert [group.name for group in person.groups.all()] == [role]
        assert person.is_staff == (role == "admin")
        assert not person.is_superuser
        assert Client().login(username=name, password=found[name])


def test_the_experiment_is_finished_and_the_operators(demo: str) -> None:
    row = Experiment.objects.get()
    assert (row.name, row.status) == ("demo", "finished")
    assert row.owner == User.objects.get(username="olga")
    assert [one.status for one in row.iterations.all()] == ["finished"]


def test_each_of_them_sees_what_the_role_is_for(demo: str) -> None:
    for name, path in {
        "vera": "/experiments/demo",
        "olga": "/experiments/new",
        "arthur": "/audits",
        "ada": "/admin/experiments/shard/",
    }.items():
        browser = Client()
        browser.force_login(User.objects.get(username=name))
        assert browser.get(path).status_code == 200, path


def test_a_second_call_keeps_everything(installation: Installation, demo: str) -> None:
    """Passwords, roles that were changed since, and an experiment that was handed over."""
    people = dict(User.objects.values_list("username", "password"))
    User.objects.get(username="vera").groups.clear()
    Experiment.objects.update(owner=User.objects.get(username="ada"))
    before = list(Iteration.objects.values())
    said = create_demo(installation)
    assert passwords(said) == {}
    assert "olga (operator) already exists" in said
    assert dict(User.objects.values_list("username", "password")) == people
    assert not User.objects.get(username="vera").groups.exists()
    assert Experiment.objects.get().owner == User.objects.get(username="ada")
    assert list(Iteration.objects.values()) == before
    assert "demo already exists" in said


def test_what_is_missing_is_run(installation: Installation, demo: str) -> None:
    said = create_demo(installation, iterations=2)
    assert "demo already exists" not in said
    assert Iteration.objects.filter(status="finished").count() == 2
