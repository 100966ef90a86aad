"""Rows and a client for the pages."""

import pytest
from django.contrib.auth.models import User
from pytest_django.fixtures import Settings

from webapp.experiments.models import Experiment, Iteration


@pytest.fixture(autouse=True)
def _own_key(settings: Settings) -> None:
    settings.SECRET_KEY = "for tests alone"


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="correct horse")


@pytest.fixture
def experiment(alice: User) -> Experiment:
    return Experiment.objects.create(
        name="first",
        owner=alice,
        recipe={"name": "smoke", "iterations": 4},
        recipe_sha256="a" * 64,
        seed=1,
        seed_model_folder="/models/m0",
        seed_model_sha256="b" * 64,
        artifact_root="/artifacts",
    )


@pytest.fixture
def iteration(experiment: Experiment) -> Iteration:
    return Iteration.objects.create(experiment=experiment, number=1, model_in="b" * 64)
