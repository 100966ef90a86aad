"""What people ask for on pages, from a row to a deed: once, and with a reason where it fails."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from meta_reward_core.errors import InputError
from webapp.experiments.models import Order, OrderKind, OrderStatus
from webapp.experiments.orders import place_order
from workers.orders import Outcome, carry_out, carry_out_waiting

pytestmark = pytest.mark.django_db


def done(order: Order) -> Outcome:
    return {"wish": order.wish}


def impossible(order: Order) -> Outcome:
    raise InputError("the moon is out of reach: ask for less")


def broken(order: Order) -> Outcome:
    raise ZeroDivisionError("by nothing")


def ask() -> Order:
    return place_order(OrderKind.NEXT, by=None, subject="tiny", wish={"until": 2})


def test_an_order_is_carried_out_once() -> None:
    order = ask()
    assert carry_out(order, {OrderKind.NEXT: done})
    assert not carry_out(order, {OrderKind.NEXT: done})
    order.refresh_from_db()
    assert order.status == OrderStatus.DONE
    assert order.outcome == {"wish": {"until": 2}}
    assert order.finished is not None


def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    order = ask()
    carry_out(order, {OrderKind.NEXT: impossible})
    order.refresh_from_db()
    assert (order.status, order.finding) == ("refused", "the moon is out of reach: ask for less")


def test_a_defect_of_ours_is_refused_too_and_named() -> None:
    order = ask()
    carry_out(order, {OrderKind.NEXT: broken})
    order.refresh_from_db()
    assert (order.status, order.finding) == ("refused", "ZeroDivisionError: by nothing")


def test_orders_are_carried_out_in_the_order_in_which_they_came() -> None:
    first, second = ask(), ask()
    seen = []

    def note(order: Order) -> Outcome:
        seen.append(order.pk)
        return {}

    assert carry_out_waiting({OrderKind.NEXT: note}) == 2
    assert seen == [first.pk, second.pk]


def test_an_order_of_another_kind_is_left_alone() -> None:
    ask()
    assert carry_out_waiting({OrderKind.LAUNCH: done}) == 0


def test_an_order_whose_keeper_fell_silent_is_taken_by_another() -> None:
    order = ask()
    running = {"status": "running", "token": "0" * 32}
    Order.objects.update(**running, lease_until=timezone.now() + timedelta(seconds=60))
    assert not carry_out(order, {OrderKind.NEXT: done})
    Order.objects.update(**running, lease_until=timezone.now() - timedelta(seconds=60))
    assert carry_out(order, {OrderKind.NEXT: done})


def test_the_log_outlives_the_person() -> None:
    person = User.objects.create_user("mallory")
    order = place_order(OrderKind.CANCEL, by=person, subject="tiny")
    person.delete()
    order.refresh_from_db()
    assert order.by is None


def test_an_order_about_an_experiment_that_is_gone_says_so() -> None:
    from workers.orders import QUICK

    order = place_order(OrderKind.PAUSE, by=None, subject="tiny")
    carry_out(order, QUICK)
    order.refresh_from_db()
    assert order.finding == "experiment 'tiny' is gone"
