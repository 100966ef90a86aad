"""What people ask for on pages, from a row to a deed: once, and with a reason where it fails."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from meta_reward_core.errors import InputError
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import JobKind, JobStatus, Order
from workers.jobs.runner import Outcome, run_job, run_waiting_jobs

pytestmark = pytest.mark.django_db


def done(order: Order) -> Outcome:
    return {"wish": order.wish}


def impossible(order: Order) -> Outcome:
    raise InputError("the moon is out of reach: ask for less")


def broken(order: Order) -> Outcome:
    raise ZeroDivisionError("by nothing")


def ask() -> Order:
    return enqueue_job(JobKind.NEXT, by=None, subject="tiny", wish={"until": 2})


def test_an_order_is_carried_out_once() -> None:
    order = ask()
    assert run_job(order, {JobKind.NEXT: done})
    assert not run_job(order, {JobKind.NEXT: done})
    order.refresh_from_db()
    assert order.status == JobStatus.DONE
    assert order.outcome == {"wish": {"until": 2}}
    assert order.finished is not None


def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    order = ask()
    run_job(order, {JobKind.NEXT: impossible})
    order.refresh_from_db()
    assert (order.status, order.finding) == ("refused", "the moon is out of reach: ask for less")


def test_a_defect_of_ours_is_refused_too_and_named() -> None:
    order = ask()
    run_job(order, {JobKind.NEXT: broken})
    order.refresh_from_db()
    assert (order.status, order.finding) == ("refused", "ZeroDivisionError: by nothing")


def test_orders_are_carried_out_in_the_order_in_which_they_came() -> None:
    first, second = ask(), ask()
    seen = []

    def note(order: Order) -> Outcome:
        seen.append(order.pk)
        return {}

    assert run_waiting_jobs({JobKind.NEXT: note}) == 2
    assert seen == [first.pk, second.pk]


def test_an_order_of_another_kind_is_left_alone() -> None:
    ask()
    assert run_waiting_jobs({JobKind.LAUNCH: done}) == 0


def test_an_order_whose_keeper_fell_silent_is_taken_by_another() -> None:
    order = ask()
    running = {"status": "running", "token": "0" * 32}
    Order.objects.update(**running, lease_until=timezone.now() + timedelta(seconds=60))
    assert not run_job(order, {JobKind.NEXT: done})
    Order.objects.update(**running, lease_until=timezone.now() - timedelta(seconds=60))
    assert run_job(order, {JobKind.NEXT: done})


def test_the_log_outlives_the_person() -> None:
    person = User.objects.create_user("mallory")
    order = enqueue_job(JobKind.CANCEL, by=person, subject="tiny")
    person.delete()
    order.refresh_from_db()
    assert order.by is None


def test_an_order_about_an_experiment_that_is_gone_says_so() -> None:
    from workers.jobs.runner import QUICK_HANDLERS

    order = enqueue_job(JobKind.PAUSE, by=None, subject="tiny")
    run_job(order, QUICK_HANDLERS)
    order.refresh_from_db()
    assert order.finding == "experiment 'tiny' is gone"
