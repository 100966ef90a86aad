"""A worker that no longer hears the broker ends; one that works, or has nothing to do, goes on."""

import logging
import os
from collections.abc import Iterator

import pytest

from workers.ops import broker_watchdog


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Ended(BaseException):
    """The process would have ended."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    def end(code: int) -> None:
        raise Ended(code)

    clock = Clock()
    monkeypatch.setattr(broker_watchdog, "time", clock)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    yield clock
    broker_watchdog.mark_idle()


def listen(clock: Clock, monkeypatch: pytest.MonkeyPatch, waiting: dict[str, int] | None) -> None:
    """Let a minute go by while so many messages wait."""
    monkeypatch.setattr(broker_watchdog, "read_queue_lengths", lambda: waiting)
    watchdog = broker_watchdog.BrokerWatchdog(frozenset({"gpu"}))
    for _ in range(30):
        clock.now += 2
        watchdog.check()


def test_messages_that_wait_for_an_idle_worker_end_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Ended, match=str(broker_watchdog.EXIT_BROKER_LOST)):
        listen(clock, monkeypatch, {"gpu": 1, "cpu": 0})
    assert 20 < clock.now - 1000 < 30


@pytest.mark.parametrize("waiting", [None, {"gpu": 0, "cpu": 0}, {"gpu": 0, "cpu": 7}])
def test_no_message_no_broker_and_other_queues_do_not(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, waiting: dict[str, int] | None
) -> None:
    listen(clock, monkeypatch, waiting)


def test_a_worker_that_works_lets_messages_wait(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_watchdog.mark_busy()
    listen(clock, monkeypatch, {"gpu": 5, "cpu": 5})
