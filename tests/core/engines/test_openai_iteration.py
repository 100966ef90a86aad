"""A whole iteration over a server with the habits of providers, which rejects a few prompts."""

import itertools
import json
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.context import StageResources
from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine, make_fake_reply
from meta_reward_core.evaluation.probe_gate import read_probe
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.reporting.summary import describe_refusals, summarize_refusals
from meta_reward_core.runner import run_iteration
from tests.core.engines.misbehaving_server import (
    Behaviour,
    completion,
    failing,
    fewer,
    half_closed,
    misbehaving_server,
    reset,
    saying,
)
from tests.core.engines.test_openai import BAD_PROMPT_HABITS, engine_of
from tests.core.scripted_world import begin, make_scripted_resources, train_on_nothing

TROUBLES: tuple[Behaviour, ...] = (
    failing(429),
    saying(b'{"choices": [{"mess'),
    fewer,
    reset,
    failing(503),
    saying(completion([])),
    half_closed,
    saying(b"<html>Bad gateway</html>", 502),
)
STORM = range(50, 100)
"""Requests that are answered 429 at their first three attempts."""
QUICK = ("null content", "too long")
BAD = ("question 17?", "question 31?")


class Provider:
    """Answers as the scripted engine does, except for what goes wrong.

    A fifth of the requests fails twice, and a storm of 429 meets all requests for a while. The bad
    prompts, two of forty, are never answered.
    """

    def __init__(self, habit: Behaviour, bad: Sequence[str]) -> None:
        self.habit, self.bad = habit, bad
        self.attempts: Counter[str] = Counter()
        self.troubles = itertools.cycle(TROUBLES)
        self.lock = threading.Lock()

    def __call__(self, exchange: Any) -> None:
        body = exchange.body
        if (trouble := self.find_trouble(json.dumps(body))) is not None:
            trouble(exchange)
            return
        if any(bad in body["messages"][-1]["content"].splitlines() for bad in self.bad):
            self.habit(exchange)
            return
        sampling = SamplingParams(body["temperature"], body["top_p"], body["max_tokens"])
        script = ScriptedEngine(make_fake_reply)
        [sampled] = script.sample(
            [body["messages"]], body["n"], sampling=sampling, seed=body.get("seed", 0)
        )
        exchange.answer(200, completion([one.text for one in sampled]))

    def find_trouble(self, asked: str) -> Behaviour | None:
        with self.lock:
            self.attempts[asked] += 1
            if self.attempts.total() in STORM and self.attempts[asked] <= 3:
                return failing(429)
            has_trouble = zlib.crc32(asked.encode()) % 5 == 0 and self.attempts[asked] <= 2
            return next(self.troubles) if has_trouble else None


def run(
    experiment: Experiment,
    habit: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: Sequence[str] = BAD,
) -> None:
    fake = SimpleNamespace(train_dpo=train_on_nothing)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)
    with misbehaving_server() as server:
        server.usually = Provider(BAD_PROMPT_HABITS[habit], bad)
        engine = engine_of(server, attempts=6)
        resources = StageResources(load_engine=lambda *_: engine, scratch=root / "scratch")
        run_iteration(experiment.build_context(1), resources, CallbackList())


@pytest.mark.parametrize(
    "habit",
    [
        pytest.param(habit, marks=[] if habit in QUICK else pytest.mark.slow)
        for habit in BAD_PROMPT_HABITS
    ],
)
def test_an_iteration_finishes_and_names_the_prompts_that_the_server_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, habit: str
) -> None:
    experiment = begin(
        tmp_path / "files",
        prompts=40,
        sample={"prompts": 40},
        prompts_per_shard=20,
        actor={"samples": 3},
        judge={"samples": 3},
    )
    run(experiment, habit, tmp_path, monkeypatch)
    files = experiment.get_files(1)
    assert files.count_finished_shards()["train"] == 1
    [refused] = summarize_refusals(files)
    assert (refused["role"], refused["prompts"], refused["replies"]) == ("actor", 2, 6)
    assert {one["text"] for one in refused["named"]} == set(BAD)
    told = "\n".join(describe_refusals([refused], shown=5))
    assert all(bad in told for bad in BAD)
    answered = set(files.read("responses")["prompt_id"].to_pylist())
    assert len(answered) == 38, "no other prompt is lost"
    judged = files.read("judgments").num_rows
    assert judged == 3 * files.read("responses").num_rows


def test_bad_prompts_that_the_probe_meets_first_do_not_stop_the_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = begin(
        tmp_path / "files", sample={"prompts": 40}, actor={"samples": 2}, judge={"samples": 2}
    )
    STAGES[0].run_shard(experiment.build_context(1), 0, make_scripted_resources(tmp_path))
    first = [prompt["text"] for prompt in experiment.get_files(1).read("prompts", 0).to_pylist()]
    run(experiment, "null content", tmp_path, monkeypatch, bad=first[:2])
    files = experiment.get_files(1)
    found = read_probe(files)
    assert found is not None
    assert (found.report["prompts"], found.findings) == (8, [])
    assert files.count_finished_shards()["train"] == 1
    [refused] = summarize_refusals(files)
    assert {one["text"] for one in refused["named"]} == set(first[:2])
