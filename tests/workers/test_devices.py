"""Pool processes of one worker share its devices, and stop each other's idle engines."""

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from workers.engine.client import EngineHost
from workers.ops import devices
from workers.ops.devices import DeviceGroup, DevicePool, divide_devices
from workers.pipeline import run_shard
from workers.pipeline.run_shard import ShardLease

FOUR = tuple(DeviceGroup(number, (str(number),)) for number in range(4))


@pytest.fixture
def pool() -> Iterator[DevicePool]:
    made = DevicePool(FOUR)
    yield made
    made.remove()


def test_pool_processes_beyond_the_gpus_have_slots_of_their_own_and_share_a_group() -> None:
    """The watchdog counts busy processes by their slots."""
    pool = DevicePool(FOUR[:2], processes=3)
    others = []
    for _ in range(3):
        other = copy.copy(pool)
        others.append((other.take_slot(), other.get_own_group().number, other))
    assert [numbers for *numbers, _ in others] == [[0, 0], [1, 1], [2, 0]]
    pool.remove()


def test_each_process_gets_its_share_of_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, MIG-bb,2")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert [group.gpus for group in divide_devices(3)] == [("GPU-aa",), ("MIG-bb",), ("2",)]
    assert [group.gpus for group in divide_devices(2)] == [("GPU-aa",), ("MIG-bb", "2")]
    assert [group.gpus for group in divide_devices(1)] == [("GPU-aa", "MIG-bb", "2")]
    assert len(divide_devices(9)) == 3
    assert devices.build_environment(divide_devices(3)[:2]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-aa,MIG-bb",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of NVML, which measures devices by index
    }
    assert devices.build_environment(()) == {}


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert devices.list_gpus() == []


def test_without_gpus_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    assert [set(group.cores) for group in divide_devices(2)] == [{0, 1}, {2, 3, 4}]
    assert divide_devices(1) == [DeviceGroup(0)], "one process is bound to no core"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert [set(group.cores) for group in divide_devices(2)] == [{3}, {3}]


def test_a_process_prefers_its_own_group_and_takes_another_if_that_is_used(
    pool: DevicePool,
) -> None:
    first = pool.try_acquire(1)
    second = pool.try_acquire(1)
    assert first is not None
    assert second is not None
    assert [group.number for group in (*first.groups, *second.groups)] == [0, 1]
    first.release()
    again = pool.try_acquire(1)
    assert again is not None
    assert again.groups == FOUR[:1]


def test_a_model_over_two_gpus_takes_neighboring_groups(pool: DevicePool) -> None:
    assert devices.count_groups({"tensor_parallel": 2}, FOUR) == 2
    assert devices.count_groups({"tensor_parallel": 2}, [DeviceGroup(0, ("0", "1"))]) == 1
    assert devices.count_groups({"tensor_parallel": 16}, FOUR) == 4
    one = pool.try_acquire(1)
    two = pool.try_acquire(2)
    assert one is not None
    assert two is not None
    assert two.groups == FOUR[2:]
    assert pool.try_acquire(2) is None


def make_processes(pool: DevicePool) -> list[DevicePool]:
    """The pool as its four pool processes see it; process k has slot k."""
    processes = [copy.copy(pool) for _ in FOUR]
    assert [one.take_slot() for one in processes] == [0, 1, 2, 3]
    return processes


def test_two_models_over_two_gpus_run_at_the_same_time(pool: DevicePool) -> None:
    first, second, third, _ = make_processes(pool)
    leases = [one.acquire(2, can_continue=lambda: False) for one in (first, second)]
    assert [lease.groups for lease in leases if lease] == [FOUR[:2], FOUR[2:]]
    assert third.acquire(2, can_continue=lambda: False) is None
    assert leases[0] is not None
    leases[0].release()
    assert third.try_acquire(1) is not None, "no lock of the one that gave up is left"


def test_a_model_over_two_gpus_stays_with_the_process_of_their_first_group(
    pool: DevicePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that waits does not take them between two shards, and unload the model."""
    first, second, third, _ = make_processes(pool)
    monkeypatch.setattr(devices, "_HEAD_START_SECONDS", 1.0)
    assert second.try_acquire(2, seconds=0.5) is None
    for one, groups in ((first, FOUR[:2]), (third, FOUR[2:])):
        lease = one.try_acquire(2, seconds=0.5)
        assert lease is not None
        assert lease.groups == groups
        lease.release()
    late = second.try_acquire(2, seconds=3.0)
    assert late is not None, "groups that nobody uses are not left idle"
    assert late.groups == FOUR[:2]


def test_a_shard_gets_the_groups_that_its_model_needs(
    pool: DevicePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a training one at first: it waits for all of them once it has been claimed."""
    monkeypatch.setattr(devices, "_pool", pool)

    def make_shard(stage: str, gpus: int) -> Any:
        experiment = SimpleNamespace(recipe={"engine": {"tensor_parallel": gpus}})
        iteration = SimpleNamespace(experiment=experiment)
        return SimpleNamespace(stage=SimpleNamespace(name=stage, iteration=iteration))

    for stage, gpus, groups in (("judge", 2, 2), ("judge", 1, 1), ("train", 2, 1)):
        lease = run_shard._acquire_devices(make_shard(stage, gpus))
        assert lease is not None
        assert lease.groups == FOUR[:groups]
        lease.release()
    lease = run_shard._acquire_devices(make_shard("judge", 2))
    assert lease is not None
    run_shard._resize(lease, 1, ShardLease.__new__(ShardLease))
    assert (lease.groups, len(lease.locks)) == (FOUR[:1], 1)
    assert pool.try_acquire_groups(FOUR[1:2]) is not None, "the other one is free"


def test_a_training_waits_for_running_shards_and_goes_before_new_ones(pool: DevicePool) -> None:
    running = pool.try_acquire(1)
    assert running is not None
    got: list[object] = []
    waiting = threading.Thread(
        target=lambda: got.append(pool.acquire(4, can_continue=lambda: True)), daemon=True
    )
    waiting.start()
    give_up_at = time.monotonic() + 20
    while pool.try_acquire(1) is not None:  # until the training has come
        assert time.monotonic() < give_up_at
    running.release()
    waiting.join(20)
    assert [lease.groups for lease in got] == [FOUR]  # type: ignore[attr-defined]
    assert pool.try_acquire(1) is None


def test_a_training_that_is_cancelled_while_it_waits_leaves_the_devices(pool: DevicePool) -> None:
    running = pool.try_acquire(1)
    assert running is not None
    assert pool.acquire(4, can_continue=lambda: False) is None
    assert pool.try_acquire(1) is not None


def test_slots_are_taken_once_and_freed_by_the_end_of_a_process(pool: DevicePool) -> None:
    take = (
        "import sys; from workers.ops.devices import DevicePool; "
        "pool = DevicePool.__new__(DevicePool); pool._slot = None; pool._made_by = 0; "
        "from pathlib import Path; pool.folder = Path(sys.argv[1]); pool.groups = (0, 1, 2); "
        "pool._processes = 3; "
        "print(pool.take_slot(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", take, str(pool.folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "0\n"
        assert pool.take_slot() == 1
        other.kill()
        other.wait()
    assert DevicePool(FOUR).take_slot() == 0


def test_whoever_takes_a_group_first_stops_the_idle_engine_of_another_process(
    pool: DevicePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleeping engine process stands for one with a model in memory."""
    monkeypatch.setattr(devices, "_pool", pool)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unchanged")
    host = EngineHost()
    host._start(FOUR[1:2], trains=False)
    assert host.pid is not None
    engine = psutil.Process(host.pid)
    give_up_at = time.monotonic() + 20
    while "workers.engine.process" not in engine.cmdline():
        assert time.monotonic() < give_up_at
    assert engine.environ()["CUDA_VISIBLE_DEVICES"] == "1"
    everything = pool.acquire(4, can_continue=lambda: True)
    assert everything is not None
    pool.stop_other_engines(everything.groups, keep=host.pid)
    assert engine.status() != psutil.STATUS_ZOMBIE, "its own engine stays"
    pool.stop_other_engines(everything.groups, keep=None)
    assert engine.status() == psutil.STATUS_ZOMBIE
    assert host._child is not None
    assert host._child.wait() == -signal.SIGKILL
    host.kill()


def test_a_process_id_that_is_no_engine_any_more_is_left_alone(pool: DevicePool) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        pool.note_engine(FOUR[:1], other.pid)
        lease = pool.try_acquire(1)
        assert lease is not None
        pool.stop_other_engines(lease.groups, keep=None)
        assert other.poll() is None
        other.kill()


def test_an_engine_process_stays_on_its_cores() -> None:
    core = min(os.sched_getaffinity(0))
    host = EngineHost()
    host._start([DeviceGroup(0, cores=frozenset({core}))], trains=False)
    assert host.pid is not None
    assert os.sched_getaffinity(host.pid) == {core}
    host.kill()
