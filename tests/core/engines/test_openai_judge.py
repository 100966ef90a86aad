"""An outside judge gives the points, and everything that shows the iteration says so."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.cli.terminal import make_console, print_outside_judge, print_summary
from meta_reward_core.iteration import STAGES
from meta_reward_core.reporting.summary import summarize_iteration
from meta_reward_core.system.settings import ENDPOINTS_VARIABLE
from tests.core.engines.misbehaving_server import (
    MisbehavingServer,
    completion,
    misbehaving_server,
)
from tests.core.scripted_world import begin, make_scripted_resources, run_before_training


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    """A server that is an endpoint and gives four points to everything."""
    with misbehaving_server() as server:
        entry = {"base_url": server.url, "model": "judge-1", "max_choices": 6}
        monkeypatch.setenv(ENDPOINTS_VARIABLE, json.dumps({"outside": entry}))
        server.usually = generous
        yield server


def generous(exchange: Any) -> None:
    exchange.answer(200, completion(["Well said. Score: 4"] * exchange.body["n"]))


def test_an_outside_judge_judges_and_the_model_does_the_rest(
    outside: MisbehavingServer, tmp_path: Path
) -> None:
    judge = {"samples": 6, "endpoint": "outside"}
    experiment = begin(tmp_path, judge=judge, probe={"prompts": 0})
    context = experiment.build_context(1)
    run_before_training(context, make_scripted_resources(tmp_path / "scratch"))
    judgments = context.files.read("judgments").to_pylist()
    assert {row["text"] for row in judgments} == {"Well said. Score: 4"}
    assert len(outside.requests) == context.files.read("responses").num_rows
    assert {sent["model"] for sent in outside.requests} == {"judge-1"}
    assert "Well said" not in "".join(context.files.read("responses")["text"].to_pylist())

    summary = summarize_iteration(
        context.files, number=1, recipe=experiment.recipe, stages=[stage.name for stage in STAGES]
    )
    assert summary["outside_judge"] == "outside"
    shown = io.StringIO()
    print_summary(make_console(shown), summary)
    assert "external judge: scores are from outside" in shown.getvalue()


def test_a_model_that_judges_itself_is_not_mentioned() -> None:
    shown = io.StringIO()
    print_outside_judge(make_console(shown), None)
    assert shown.getvalue() == ""
