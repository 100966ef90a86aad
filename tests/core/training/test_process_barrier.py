"""Processes that wait for one that writes: as long as it lives, and no longer."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_reward_core.errors import TrainingError
from meta_reward_core.training import process_barrier
from meta_reward_core.training.process_barrier import ProcessBarrier


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ProcessBarrier]]:
    """The barriers of two processes, which count as lost after a second of silence."""
    monkeypatch.setattr(process_barrier, "BEAT_SECONDS", 0.05)
    barriers = [
        ProcessBarrier(tmp_path / "barrier", rank=rank, processes=2, max_silence_seconds=1.0)
        for rank in range(2)
    ]
    for one in barriers:
        one.start()
    yield barriers
    for one in barriers:
        one.stop()


def test_a_process_waits_longer_than_the_limit_for_one_that_lives(
    both: list[ProcessBarrier],
) -> None:
    first, second = both
    arrived: list[float] = []

    def arrive() -> None:
        time.sleep(2.5)
        arrived.append(time.monotonic())
        first.wait("written")

    late = threading.Thread(target=arrive, daemon=True)
    late.start()
    second.wait("written")
    assert arrived
    assert time.monotonic() >= arrived[0]
    late.join(20)
    assert not late.is_alive()


def test_a_process_without_heartbeats_is_named(both: list[ProcessBarrier]) -> None:
    first, second = both
    first.stop()
    began = time.monotonic()
    with pytest.raises(TrainingError, match="process 0 has sent no heartbeat for 1 s"):
        second.wait("written")
    assert time.monotonic() - began < 10


def test_each_name_is_a_meeting_of_its_own(both: list[ProcessBarrier]) -> None:
    first, second = both
    other = threading.Thread(target=first.wait, args=["written-3"], daemon=True)
    other.start()
    second.wait("written-3")
    other.join(20)
    first.stop()
    with pytest.raises(TrainingError, match="no heartbeat"):
        second.wait("written-6")
