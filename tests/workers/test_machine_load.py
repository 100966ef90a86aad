"""The load of a machine with workers: read at each heartbeat, in a bounded number of rows."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from django.db import DatabaseError

from webapp.experiments.models import MachineLoad
from workers.ops import machine_load
from workers.ops.host import get_machine_name
from workers.ops.machine_load import LoadRecorder

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 1, 2, 12, 0, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _connection_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own transaction is on the connection that a main process closes."""
    monkeypatch.setattr(machine_load, "connections", SimpleNamespace(close_all=lambda: None))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One GPU of 80 GB; returns the busy shares that it will report."""
    shares: list[int] = []
    values: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _: "NVIDIA H100",
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=shares.pop(0)),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=30, total=80),
    }
    for name, value in values.items():
        monkeypatch.setattr(pynvml, name, value)
    return shares


def test_a_row_is_stored_once_per_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 42.0)
    recorder = LoadRecorder()
    assert recorder.record(NOON) is None, "the first reading has no period before it"
    assert recorder.record(NOON + timedelta(seconds=10)) is None
    row = recorder.record(NOON + timedelta(seconds=16))
    assert row is not None
    assert (row.host, row.cpu_percent) == (get_machine_name(), 42.0)
    assert row.measured == NOON + timedelta(seconds=14), "15 seconds past noon"
    assert 0 < row.memory_bytes <= row.memory_total_bytes == psutil.virtual_memory().total
    assert MachineLoad.objects.count() == 1


def test_two_workers_of_one_machine_store_one_row() -> None:
    for recorder in (LoadRecorder(), LoadRecorder()):
        recorder.record(NOON)
        recorder.record(NOON + timedelta(seconds=15))
    assert MachineLoad.objects.count() == 1


def test_the_busy_share_of_a_gpu_is_a_mean_over_the_period(gpu: list[int]) -> None:
    """(50 + 30) / 2 = 40; the readings before belong to the two periods before."""
    gpu += [7, 100, 50, 30]
    recorder = LoadRecorder()
    recorder.record(NOON)
    recorder.record(NOON + timedelta(seconds=15))
    recorder.record(NOON + timedelta(seconds=20))
    row = recorder.record(NOON + timedelta(seconds=30))
    assert row is not None
    assert row.gpus == [{"name": "NVIDIA H100", "percent": 40.0, "bytes": 30, "total_bytes": 80}]


def test_a_gpu_that_does_not_report_its_use_shows_its_memory(
    gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise pynvml.NVMLError_NotSupported

    assert gpu == []
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    recorder = LoadRecorder()
    recorder.record(NOON)
    row = recorder.record(NOON + timedelta(seconds=15))
    assert row is not None
    assert [(one["percent"], one["bytes"]) for one in row.gpus] == [(None, 30)]


def test_old_rows_are_thinned_and_then_deleted() -> None:
    """At noon: 20 hours old stays, 30 hours old only every five minutes, 31 days old not at all."""
    for age, is_coarse in (
        (timedelta(hours=20), False),
        (timedelta(hours=30), False),
        (timedelta(hours=30, minutes=5), True),
        (timedelta(days=31), True),
    ):
        MachineLoad.objects.create(
            host="gone", measured=NOON - age, is_coarse=is_coarse,
            cpu_percent=1.0, memory_bytes=1, memory_total_bytes=2,
        )  # fmt: skip
    recorder = LoadRecorder()
    recorder.record(NOON - timedelta(seconds=15))
    recorder.record(NOON)
    left = MachineLoad.objects.filter(host="gone").order_by("-measured")
    assert [row.measured for row in left] == [
        NOON - timedelta(hours=20),
        NOON - timedelta(hours=30, minutes=5),
    ]


def test_a_worker_works_on_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: MachineLoad) -> None:
        raise DatabaseError("the database is locked")

    monkeypatch.setattr(machine_load, "_store", fail)
    recorder = LoadRecorder()
    recorder.record(NOON)
    assert recorder.record(NOON + timedelta(seconds=15)) is None
