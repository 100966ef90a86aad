"""`run_iteration` on several engine processes of one machine, and what may happen to each."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.errors import EngineError, NeedsAttentionError, NoPairsError
from meta_reward_core.runner import ShardSchedule
from tests.core import scripted_world
from tests.end_to_end.conftest import Site, make_site
from tests.workers.cluster import LACK_OF_MEMORY, deny_memory
from workers.engine.client import ShardFailedError
from workers.pipeline.parallel_run import count_engine_processes

PARTS = ("--iterations", "1", "--set", "prompts_per_shard=3")
TWO = ("--engine-processes", "2")


def test_a_shard_may_run_once_its_own_input_is_finished(tmp_path: Path) -> None:
    """Two engines, three parts: the judge begins with part 0 while part 2 is generated."""
    context = scripted_world.begin(tmp_path / "artifacts").build_context(1)
    resources = scripted_world.make_scripted_resources(tmp_path)
    schedule = ShardSchedule(context, CallbackList())
    order: list[str] = []

    def take() -> tuple[Any, int]:
        taken = schedule.take_next()
        assert taken is not None
        order.append(f"{taken[0].name} {taken[1]}")
        return taken

    def finish(stage: Any, shard: int) -> None:
        stage.run_shard(context, shard, resources)
        schedule.finish_shard(stage, shard)

    sample = take()
    assert schedule.take_next() is None, "everything waits for the prompts"
    finish(*sample)
    first, second = take(), take()
    finish(*first)
    third, judged = take(), take()
    assert schedule.take_next() is None, "no other part is generated"
    schedule.put_back(*judged)
    judged = take()
    finish(*judged)
    compared = take()
    assert order == [
        *("sample 0", "generate 0", "generate 1", "generate 2"),
        *("judge 0", "judge 0", "meta_judge 0"),
    ]
    for taken in (second, third, compared):
        finish(*taken)
    left = []
    while (following := schedule.take_next()) is not None and following[0].name != "train":
        left.append(f"{following[0].name} {following[1]}")
        finish(*following)
    assert left == [
        *("judge 1", "judge 2", "pair_actor 0", "meta_judge 1", "meta_judge 2", "pair_judge 0"),
    ]


def test_an_engine_ahead_judges_before_the_last_part_is_generated(tmp_path: Path) -> None:
    """Three parts: with one engine ahead, judge 0 comes before generate 2, and judge 1 after it."""
    context = scripted_world.begin(tmp_path / "artifacts").build_context(1)
    resources = scripted_world.make_scripted_resources(tmp_path)
    schedule = ShardSchedule(context, CallbackList(), engines_ahead=1)

    def take() -> tuple[Any, int]:
        taken = schedule.take_next()
        assert taken is not None
        return taken

    def finish(stage: Any, shard: int) -> None:
        stage.run_shard(context, shard, resources)
        schedule.finish_shard(stage, shard)

    finish(*take())
    generated = [take(), take()]
    for taken in generated:
        finish(*taken)
    order = [f"{stage.name} {shard}" for stage, shard in (take(), take(), take())]
    assert order == ["judge 0", "generate 2", "judge 1"]


def test_gpus_hold_as_many_models_as_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    count: Callable[..., int] = count_engine_processes
    assert count(0, engine="vllm", gpus_per_model=1) == 8
    assert count(0, engine="vllm", gpus_per_model=3) == 2
    assert count(8, engine="vllm", gpus_per_model=4) == 2
    assert count(1, engine="transformers", gpus_per_model=1) == 1
    assert count(0, engine="openai", gpus_per_model=1) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count(0, engine="vllm", gpus_per_model=1) == 1
    assert count(3, engine="transformers", gpus_per_model=1) == 3


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("NoPairsError", NoPairsError),
        ("NeedsAttentionError", NeedsAttentionError),
        ("EngineDied", EngineError),
        ("OutOfMemoryError", EngineError),
        ("ClassVar", EngineError),
    ],
)
def test_an_error_of_an_engine_process_is_raised_as_its_own(
    kind: str, expected: type[Exception]
) -> None:
    error = ShardFailedError("why", kind=kind, retryable=True).to_core_error()
    assert type(error) is expected
    assert "why" in str(error)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An iteration of one engine in the command's own process."""
    site = make_site(tmp_path_factory.mktemp("one-engine") / "site")
    made = site.run_iteration(*PARTS)
    assert made.returncode == 0, made.stdout
    return site


def ask(site: Site, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(site.root / "db.sqlite3", timeout=30)) as database:
        return database.execute(question).fetchall()


def count_attempts(site: Site, status: str) -> int:
    return int(
        ask(site, f"select count(*) from experiments_attempt where status = '{status}'")[0][0]
    )


def read_trace(site: Site) -> list[tuple[str, str, str]]:
    """By finished shard its stage, begin and end."""
    return ask(
        site,
        "select t.name, a.started, a.finished from experiments_attempt a "
        "join experiments_shard s on s.id = a.shard_id "
        "join experiments_stage t on t.id = s.stage_id where a.status = 'finished'",
    )


def engines_of(process: Any) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [one for one in children if "workers.engine.process" in one.cmdline()]
    return []


@contextlib.contextmanager
def running(site: Site, *options: str) -> Iterator[Any]:
    """The command, with two shards running on two engine processes."""
    command = ("manage.py", "run_iteration", *site.experiment_options(), *PARTS, *TWO, *options)
    process = site.start(*command)
    while not (count_attempts(site, "running") == 2 and len(engines_of(process)) == 2):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    engines = engines_of(process)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not psutil.wait_procs(engines, timeout=10)[1], "no engine process stays behind"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stages_overlap_on_two_engines_and_a_killed_one_costs_its_shard_alone(
    tmp_path: Path, quiet: Site
) -> None:
    site = make_site(tmp_path / "site")
    with running(site) as process:
        cores = [set(engine.cpu_affinity() or ()) for engine in engines_of(process)]
        engines_of(process)[0].kill()
        shown = process.communicate(timeout=600)[0]
        assert process.returncode == 0, shown
    assert site.digests() == quiet.digests()
    assert (count_attempts(site, "failed"), count_attempts(site, "interrupted")) == (1, 0)
    assert "failed and runs again: EngineDied: the engine's process was killed" in shown
    assert "by 2 engine processes" in shown
    if len(os.sched_getaffinity(0)) > 1:
        assert not cores[0] & cores[1]
    trace = read_trace(site)
    generated = max(end for stage, _, end in trace if stage == "generate")
    judged = min(begin for stage, begin, _ in trace if stage == "judge")
    assert judged < generated, "the judge did not wait for the last shard of the actor"
    train = next((begin, end) for stage, begin, end in trace if stage == "train")
    others = [(begin, end) for stage, begin, end in trace if stage != "train"]
    assert all(end <= train[0] or begin >= train[1] for begin, end in others)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engine_out_of_memory_costs_its_shard_alone(tmp_path: Path, quiet: Site) -> None:
    site = make_site(tmp_path / "site")
    with running(site) as process:
        deny_memory(engines_of(process)[0])
        shown = process.communicate(timeout=600)[0]
        assert process.returncode == 0, shown
    assert site.digests() == quiet.digests()
    assert (count_attempts(site, "failed"), count_attempts(site, "interrupted")) == (1, 0)
    [(error,)] = ask(site, "select error from experiments_attempt where status = 'failed'")
    assert LACK_OF_MEMORY.search(error)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_and_a_kill_of_the_command_leave_nothing_running_and_it_goes_on(
    tmp_path: Path, quiet: Site
) -> None:
    site = make_site(tmp_path / "site")
    with running(site) as process:
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=60)[0]
        assert process.returncode == 130, shown
        assert "--engine-processes 2" in shown, "it says how to go on"
    assert (count_attempts(site, "interrupted"), count_attempts(site, "running")) == (2, 0)
    with running(site) as process:
        os.killpg(process.pid, signal.SIGKILL)
    made = site.run_iteration(*PARTS, *TWO)
    assert made.returncode == 0, made.stdout
    assert site.digests() == quiet.digests()
    assert count_attempts(site, "lost") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_engines_out_of_memory_end_the_run_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path / "site")
    monkeypatch.setenv("META_REWARD_ENGINE_MEMORY_MB", "40")
    monkeypatch.setenv("META_REWARD_MAX_ATTEMPTS", "2")
    made = site.run_iteration(*PARTS, *TWO)
    assert made.returncode == 1, made.stdout
    assert "memory" in made.stdout.lower() or "bad_alloc" in made.stdout
    assert "Traceback (most recent call last)" not in made.stdout.partition("EngineError")[2]
    assert ask(site, "select status from experiments_iteration") == [("failed",)]
