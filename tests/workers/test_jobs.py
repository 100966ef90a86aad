"""What people ask for on pages, from a row to a deed: once, and with a reason where it fails."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone

from meta_reward_core.errors import InputError
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus
from workers import tasks
from workers.jobs.runner import Outcome, run_job, run_waiting_jobs

pytestmark = pytest.mark.django_db


def done(job: Job) -> Outcome:
    return {"wish": job.payload}


def impossible(job: Job) -> Outcome:
    raise InputError("the moon is out of reach: ask for less")


def broken(job: Job) -> Outcome:
    raise ZeroDivisionError("by nothing")


def ask() -> Job:
    return enqueue_job(JobKind.NEXT, by=None, experiment_name="tiny", payload={"until": 2})


def test_an_order_is_carried_out_once() -> None:
    job = ask()
    assert run_job(job, {JobKind.NEXT: done})
    assert not run_job(job, {JobKind.NEXT: done})
    job.refresh_from_db()
    assert job.status == JobStatus.DONE
    assert job.outcome == {"wish": {"until": 2}}
    assert job.finished is not None


def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    job = ask()
    run_job(job, {JobKind.NEXT: impossible})
    job.refresh_from_db()
    assert (job.status, job.message) == ("refused", "the moon is out of reach: ask for less")


def test_a_defect_of_ours_is_refused_too_and_named() -> None:
    job = ask()
    run_job(job, {JobKind.NEXT: broken})
    job.refresh_from_db()
    assert (job.status, job.message) == ("refused", "ZeroDivisionError: by nothing")


def test_orders_are_carried_out_in_the_order_in_which_they_came() -> None:
    first, second = ask(), ask()
    seen = []

    def note(job: Job) -> Outcome:
        seen.append(job.pk)
        return {}

    assert run_waiting_jobs({JobKind.NEXT: note}) == 2
    assert seen == [first.pk, second.pk]


def test_an_order_of_another_kind_is_left_alone() -> None:
    ask()
    assert run_waiting_jobs({JobKind.LAUNCH: done}) == 0


def test_an_order_whose_keeper_fell_silent_is_taken_by_another() -> None:
    job = ask()
    running = {"status": "running", "token": "0" * 32}
    Job.objects.update(**running, lease_until=timezone.now() + timedelta(seconds=60))
    assert not run_job(job, {JobKind.NEXT: done})
    Job.objects.update(**running, lease_until=timezone.now() - timedelta(seconds=60))
    assert run_job(job, {JobKind.NEXT: done})


def test_the_log_outlives_the_person() -> None:
    person = User.objects.create_user("mallory")
    job = enqueue_job(JobKind.CANCEL, by=person, experiment_name="tiny")
    person.delete()
    job.refresh_from_db()
    assert job.created_by is None


def test_an_order_about_an_experiment_that_is_gone_says_so() -> None:
    from workers.jobs.runner import QUICK_HANDLERS

    job = enqueue_job(JobKind.PAUSE, by=None, experiment_name="tiny")
    run_job(job, QUICK_HANDLERS)
    job.refresh_from_db()
    assert job.message == "experiment 'tiny' was deleted"


def ask_as(user: User, experiment: Experiment) -> Job:
    return enqueue_job(JobKind.NEXT, by=user, experiment=experiment)


def close_account(user: User, experiment: Experiment) -> None:
    user.is_active = False
    user.save()


def take_role(user: User, experiment: Experiment) -> None:
    user.groups.clear()


def hide_experiment(user: User, experiment: Experiment) -> None:
    experiment.owner, experiment.is_private = User.objects.create_user("owner"), True
    experiment.save()


def delete_account(user: User, experiment: Experiment) -> None:
    user.delete()


def give_away(user: User, experiment: Experiment) -> None:
    experiment.owner = User.objects.create_user("owner")
    experiment.save()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (close_account, "the account olga may no longer start and control experiments"),
        (take_role, "the account olga may no longer start and control experiments"),
        (hide_experiment, "the account olga may no longer see experiment 'tiny'"),
        (delete_account, "the account that requested this was deleted"),
        (give_away, "the account olga may no longer control experiment 'tiny'"),
    ],
)
def test_a_job_is_refused_if_its_account_could_not_request_it_any_more(
    change: Callable[[User, Experiment], None], reason: str
) -> None:
    olga = User.objects.create_user("olga")
    olga.groups.add(Group.objects.get(name="operator"))
    experiment = Experiment.objects.create(name="tiny", recipe={}, seed=1)
    first = ask_as(olga, experiment)
    assert run_waiting_jobs({JobKind.NEXT: done}) == 1
    job = ask_as(olga, experiment)
    change(olga, experiment)
    run_waiting_jobs({JobKind.NEXT: done})
    first.refresh_from_db()
    job.refresh_from_db()
    assert first.status == JobStatus.DONE
    assert (job.status, job.message) == (JobStatus.REFUSED, reason)


@pytest.mark.parametrize(
    ("kind", "status"), [(JobKind.DELETE, JobStatus.REFUSED), (JobKind.CHAT, JobStatus.DONE)]
)
def test_who_gave_an_experiment_away_does_not_delete_it_but_may_chat(
    kind: JobKind, status: JobStatus
) -> None:
    olga = User.objects.create_user("olga")
    olga.groups.add(Group.objects.get(name="operator"))
    experiment = Experiment.objects.create(name="tiny", recipe={}, seed=1, owner=olga)
    job = enqueue_job(kind, by=olga, experiment=experiment)
    give_away(olga, experiment)
    run_job(job, {kind: done})
    job.refresh_from_db()
    assert job.status == status


def test_an_experiment_without_an_owner_is_deleted_only_by_those_who_may_transfer_it() -> None:
    olga = User.objects.create_user("olga")
    olga.groups.add(Group.objects.get(name="operator"))
    experiment = Experiment.objects.create(name="tiny", recipe={}, seed=1, owner=olga)
    job = enqueue_job(JobKind.DELETE, by=olga, experiment=experiment)
    Experiment.objects.update(owner=None)
    run_job(job, {JobKind.DELETE: done})
    job.refresh_from_db()
    assert job.status == JobStatus.REFUSED


def test_a_message_to_a_worker_about_any_other_job_changes_nothing() -> None:
    job = ask()
    tasks.carry_out(job.pk)
    job.refresh_from_db()
    assert (job.status, job.message) == (JobStatus.WAITING, "")
