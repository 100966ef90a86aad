"""Rows of the activity log: complete, attributed, and never changed."""

import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory

from meta_reward_core.errors import InputError
from webapp.activity.models import Action, Activity, AppendOnlyError, ObjectType, Source
from webapp.activity.recording import mute_activity, record_activity
from webapp.activity.request_tracking import track_request, use_source
from webapp.experiments.models import Experiment, JobKind

pytestmark = pytest.mark.django_db


def record(**values: object) -> Activity:
    record_activity(
        Action.TAGGED,
        object_type=ObjectType.EXPERIMENT,
        object_name="mine",
        **values,  # type: ignore[arg-type]
    )
    row: Activity = Activity.objects.latest("pk")
    return row


@pytest.mark.parametrize(
    ("path", "source"), [("/experiments/mine", "ui"), ("/api/v1/experiments/mine", "api")]
)
def test_a_request_gives_the_user_the_source_and_the_address(
    django_user_model: type[User], path: str, source: str
) -> None:
    request = RequestFactory().post(path, REMOTE_ADDR="192.0.2.7")
    request.user = django_user_model.objects.create_user("alice")

    def answer(_: object) -> Activity:
        return record()

    row = track_request(answer)(request)  # type: ignore[arg-type]
    assert isinstance(row, Activity)
    assert (row.actor, row.actor_name, row.source, row.address) == (
        *(request.user, "alice", source, "192.0.2.7"),
    )


def test_without_a_request_the_process_is_the_source() -> None:
    assert (record().source, record().actor_name) == ("system", "the system")
    with use_source("cli"):
        assert (record().source, record().actor_name) == ("cli", "a command")
        assert record(by_name="root on host").actor_name == "root on host"
        assert record(source=Source.SYSTEM).source == "system"


def test_a_row_is_never_changed_and_never_deleted() -> None:
    row = record(before={"tags": []}, after={"tags": ["a"]})
    row.details = "something else"
    with pytest.raises(AppendOnlyError):
        row.save()
    with pytest.raises(AppendOnlyError):
        row.delete()
    with pytest.raises(AppendOnlyError):
        Activity.objects.update(details="something else")
    with pytest.raises(AppendOnlyError):
        Activity.objects.all().delete()
    assert Activity.objects.get(pk=row.pk).details == ""


def test_a_row_outlives_its_user_and_its_experiment() -> None:
    alice = User.objects.create_user("alice")
    experiment = Experiment.objects.create(name="mine", recipe={}, seed=1)
    row = record(by=alice, experiment=experiment)
    alice.delete()
    experiment.delete()
    row.refresh_from_db()
    assert (row.actor, row.actor_name) == (None, "alice")
    assert (row.experiment, row.experiment_name) == (None, "mine")


def test_a_required_reason_is_asked_for() -> None:
    with pytest.raises(InputError, match="give a reason"):
        record_activity(Action.GATE_REMOVED, object_type=ObjectType.GATE, reason="  ")
    assert not Activity.objects.exists()


def test_nothing_is_recorded_while_rows_are_restored() -> None:
    with mute_activity():
        record_activity(Action.TAGGED, object_type=ObjectType.EXPERIMENT)
    assert not Activity.objects.exists()


def test_every_kind_of_job_is_an_action() -> None:
    assert {(kind.value, kind.label) for kind in JobKind} <= set(Action.choices)
