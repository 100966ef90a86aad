"""Rows and a client for the pages."""

from functools import cache

import pytest
from django.contrib.auth.hashers import get_hasher, make_password
from django.contrib.auth.models import Group, User
from django.test import Client
from pytest_django.fixtures import Settings

from webapp.dashboard import queues
from webapp.experiments.models import Experiment, Iteration


@pytest.fixture(autouse=True)
def _quick_and_apart(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SECRET_KEY = "for tests alone"
    queues._count_messages_at.cache_clear()
    settings.META_REWARD_REGION_SECONDS = 0.0  # a test changes a row and looks at once
    monkeypatch.setattr(queues, "read_queue_lengths", lambda: {"gpu": 0, "cpu": 0})


@pytest.fixture
def alice(db: None) -> User:
    return make_person("alice", "operator")


def make_person(name: str, *roles: str) -> User:
    """An account with some roles, whose password is "correct horse"."""
    person = User.objects.create(username=name, password=_hash_password(get_hasher().algorithm))
    person.groups.set(Group.objects.filter(name__in=roles))
    return person


@cache
def _hash_password(algorithm: str) -> str:
    """Hash it once: what fills the database of a real site has the hash for production."""
    return make_password("correct horse", hasher=algorithm)


@pytest.fixture
def client(alice: User) -> Client:
    """A browser in which alice, an operator, has signed in."""
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def experiment(alice: User) -> Experiment:
    return Experiment.objects.create(
        name="first",
        owner=alice,
        recipe={"name": "smoke", "iterations": 4},
        recipe_sha256="a" * 64,
        seed=1,
        base_model_folder="/models/m0",
        base_model_sha256="b" * 64,
        artifact_root="/artifacts",
    )


@pytest.fixture
def iteration(experiment: Experiment) -> Iteration:
    return Iteration.objects.create(experiment=experiment, number=1, model_in="b" * 64)
