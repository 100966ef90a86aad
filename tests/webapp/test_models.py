"""What the database itself refuses."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage

pytestmark = pytest.mark.django_db


@pytest.fixture
def stage(iteration: Iteration) -> Stage:
    return Stage.objects.create(iteration=iteration, name="judge", title="Judge", position=2)


@pytest.fixture
def shard(stage: Stage) -> Shard:
    return Shard.objects.create(stage=stage, index=0)


def make_attempt(shard: Shard, number: int, **values: object) -> Attempt:
    defaults = {"token": uuid4(), "started": timezone.now(), "worker": "host", "pid": 1}
    fields: Any = defaults | values
    return Attempt.objects.create(shard=shard, number=number, **fields)


def refused(make: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        make()


def test_a_name_is_taken_once(experiment: Experiment) -> None:
    refused(lambda: Experiment.objects.create(name="first", recipe={}, seed=1))


def test_an_iteration_number_is_taken_once(iteration: Iteration) -> None:
    refused(lambda: Iteration.objects.create(experiment=iteration.experiment, number=1))


def test_iterations_count_from_1(experiment: Experiment) -> None:
    refused(lambda: Iteration.objects.create(experiment=experiment, number=0))


def test_a_stage_stands_once_in_an_iteration(stage: Stage) -> None:
    refused(lambda: Stage.objects.create(iteration=stage.iteration, name="judge", position=9))
    refused(lambda: Stage.objects.create(iteration=stage.iteration, name="other", position=2))


def test_a_shard_stands_once_in_a_stage(shard: Shard) -> None:
    refused(lambda: Shard.objects.create(stage=shard.stage, index=0))


@pytest.mark.parametrize("model", [Experiment, Iteration, Stage, Shard])
def test_an_unknown_status_is_refused(shard: Shard, model: Any) -> None:
    refused(lambda: model.objects.update(status="dreaming"))


def test_a_running_shard_has_a_token_and_no_other_has(shard: Shard) -> None:
    refused(lambda: Shard.objects.update(status="running", token=None))
    refused(lambda: Shard.objects.update(status="finished", token=uuid4()))


def test_one_attempt_runs_at_a_time(shard: Shard) -> None:
    make_attempt(shard, 1)
    refused(lambda: make_attempt(shard, 2))
    Attempt.objects.update(status="lost")
    make_attempt(shard, 2)


def test_an_attempt_number_is_taken_once(shard: Shard) -> None:
    make_attempt(shard, 1, status="failed")
    refused(lambda: make_attempt(shard, 1, status="failed"))


def test_the_owner_may_leave_and_the_experiment_stays(experiment: Experiment, alice: User) -> None:
    alice.delete()
    experiment.refresh_from_db()
    assert experiment.owner is None


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", "x" * 65, "näme", "a b", "a\n"])
def test_a_name_that_is_no_folder_is_not_valid(experiment: Experiment, name: str) -> None:
    experiment.name = name
    with pytest.raises(ValidationError) as caught:
        experiment.full_clean()
    assert "name" in caught.value.message_dict


def test_rows_say_what_they_are(shard: Shard) -> None:
    attempt = make_attempt(shard, 3)
    assert str(attempt) == "first iteration 1 judge shard 0 attempt 3"
