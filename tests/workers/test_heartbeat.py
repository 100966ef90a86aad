"""A worker's own row: the memory of its GPU comes from the engine, with its progress."""

import os

import pytest
import torch

from tests.workers.test_leases import make_iteration, make_shard
from webapp.experiments.models import Attempt, Worker
from workers.engine import process
from workers.ops import heartbeat
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


def test_what_the_engine_says_of_its_memory_stands_in_the_row(attempt: Attempt) -> None:
    lease = ShardLease(attempt, lease_seconds=30)
    lease.handle_message({"progress": [1, 20]})
    assert lease.can_continue()
    assert Worker.objects.get().device_bytes is None
    lease.handle_message({"progress": [2, 40], "device_bytes": 5_000})
    assert lease.can_continue()
    assert Worker.objects.get().device_bytes == 5_000
    heartbeat.send_heartbeat()
    assert Worker.objects.get().device_bytes == 5_000, "a heartbeat that knows nothing forgets it"


def test_an_engine_tells_memory_in_use_only_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 GB in all, of which 3 are free: 5 are in use."""
    assert process._get_device_memory() == {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000, 8_000))
    assert process._get_device_memory() == {"device_bytes": 5_000}
