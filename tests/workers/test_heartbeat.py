"""A worker's own row: what it works on, and how its devices are used."""

import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from django.template.loader import render_to_string
from django.test import RequestFactory
from django.utils import timezone

from tests.workers.test_leases import make_iteration, make_shard
from webapp.experiments.models import Attempt, Experiment, Shard, Worker
from webapp.experiments.progress import list_worker_states
from workers.engine.client import EngineHost
from workers.ops import heartbeat
from workers.ops.device_use import DeviceMeter, DeviceUse
from workers.ops.devices import DeviceGroup
from workers.pipeline import shard_claims
from workers.pipeline.run_shard import ShardLease

pytestmark = pytest.mark.django_db


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Attempt:
    monkeypatch.setattr(heartbeat, "_identity", None)
    heartbeat.register("worker-1@here", pid=os.getpid() + 1, queues=["gpu"])
    shard = make_shard(make_iteration())
    claimed = shard_claims.claim_shard_for(shard, seconds=30)
    assert claimed is not None
    return claimed


def test_the_use_of_devices_stands_in_the_row(attempt: Attempt) -> None:
    heartbeat.send_heartbeat(DeviceUse(5_000, 0.75))
    heartbeat.send_heartbeat()
    row = Worker.objects.get()
    assert (row.device_bytes, row.device_utilization) == (5_000, 0.75)
    with heartbeat.track_work(attempt.shard):
        pass
    row.refresh_from_db()
    assert (row.device_bytes, row.device_utilization) == (5_000, None), "an idle engine is loaded"


def test_a_lease_reports_the_use_of_the_engine_process(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine process is a stand-in that computes all the time, on one core."""
    core = min(os.sched_getaffinity(0))
    busy = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as engine:
        monkeypatch.setattr(EngineHost, "pid", engine.pid)
        lease = ShardLease(attempt, lease_seconds=30)
        while len(os.sched_getaffinity(engine.pid)) > 1:
            time.sleep(0.05)
        assert lease.can_continue()
        time.sleep(0.5)
        assert lease.can_continue()
        engine.kill()
    row = Worker.objects.get()
    assert row.device_bytes is not None
    assert row.device_bytes > 1_000_000
    assert row.device_utilization is not None
    assert 0 < row.device_utilization <= 1
    assert lease.can_continue(), "an engine that has ended is not an error"
    row.refresh_from_db()
    assert [row.device_bytes, row.device_utilization] == [None, None]


def test_gpus_are_measured_by_index_or_uuid_and_unsupported_values_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two GPUs with 3 and 4 GB in use at 50% and 100%; parts of a GPU report no utilization."""
    used = {"0": (3_000, 50), "GPU-b": (4_000, 100), "MIG-c": (1_000, None)}

    def get_rates(name: str) -> Any:
        if used[name][1] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=used[name][1])

    for name, function in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": str,
        "nvmlDeviceGetHandleByUUID": str,
        "nvmlDeviceGetMemoryInfo": lambda name: SimpleNamespace(used=used[name][0]),
        "nvmlDeviceGetUtilizationRates": get_rates,
    }.items():
        monkeypatch.setattr(pynvml, name, function)
    meter = DeviceMeter()
    assert meter.measure([DeviceGroup(0, ("0", "GPU-b"))], None) == DeviceUse(7_000, 0.75)
    assert meter.measure([DeviceGroup(0, ("MIG-c",))], None) == DeviceUse(1_000, None)
    monkeypatch.undo()
    assert meter.measure([DeviceGroup(0, ("0",))], None) == DeviceUse(), "no driver here"


def test_the_page_shows_shard_speed_memory_and_utilization(
    attempt: Attempt, rf: RequestFactory
) -> None:
    """600 tokens in 30 seconds are 20 a second."""
    heartbeat.send_heartbeat(DeviceUse(2 * 2**30, 0.75))
    now = timezone.now()
    Shard.objects.update(tokens=600)
    Worker.objects.update(shard=attempt.shard, since=now - timedelta(seconds=30), heartbeat=now)
    request = rf.get("/workers")
    states = list_worker_states(Experiment.objects.all())
    shown = render_to_string(
        "dashboard/_worker_list.html", {"workers": states, "queues": None}, request
    )
    text = " ".join(re.sub("<[^>]+>", " ", shown).split())
    assert f"{attempt.shard} 20 2.0 GB 75%" in text
