"""Workers finish what the command, the form and the API launch for a task of another package."""

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import digests_below
from tests.end_to_end.serving import Server, own_server, wait
from tests.outside_task import PHRASES, TRAINED_RECIPE, write_trained_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENDED = {"completed", "failed", "no pairs", "cancelled", "needs attention"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_trained_task(tmp_path / "site-packages")


@pytest.fixture
def server(package: Path) -> Iterator[Server]:
    with own_server() as made:
        inherited = os.environ.get("PYTHONPATH", "")
        made.extra["PYTHONPATH"] = f"{package}{os.pathsep}{inherited}"
        made.start()
        made.wait_until_up()
        yield made


def ask_api(server: Server, token: str, path: str, given: object = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/v1{path}",
        data=None if given is None else json.dumps(given).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def make_token(server: Server) -> str:
    page = server.browser.submit(
        server.port, "/account/tokens", {"name": "test", "scope": "publish", "days": "30"}
    )
    token = re.search(r"mr_[\w-]{20,}", page)
    assert token, page
    return token[0]


def launch_by_form(server: Server) -> None:
    server.browser.submit(
        server.port,
        "/experiments/new",
        {
            "base_text": TRAINED_RECIPE,
            "name": "form",
            "until": "1",
            "seed": "0",
            "model_from": "recipe",
            "prompts_from": "world",
            "action": "launch",
        },
    )


def list_tables(server: Server, name: str) -> dict[str, str]:
    """Hashes of all files except those that hold the name of their experiment."""
    return {
        path: sha256
        for path, sha256 in digests_below(server.root / "artifacts" / name).items()
        if path.endswith(".parquet") or "/checkpoint/" in path
    }


def read_own_evaluation(server: Server, name: str) -> dict[str, float]:
    """What the task's own evaluator measured, by model."""
    table = server.root / "artifacts" / name / "iteration-1/evaluation/part-00000.parquet"
    rows = pq.read_table(table).to_pylist()
    return {row["model"]: row["value"] for row in rows if row["metric"] == "words_right"}


def test_workers_finish_it_however_it_is_launched(server: Server, package: Path) -> None:
    recipe = server.root / "phrases.yaml"
    recipe.write_text(TRAINED_RECIPE)
    token = make_token(server)
    launch_by_form(server)
    launched = {"name": "api", "recipe_text": TRAINED_RECIPE, "until": 1, "seed": 0}
    ask_api(server, token, "/experiments", launched)
    options = (
        *("--experiment", "cli", "--recipe", str(recipe)),
        *("--iterations", "1", "--seed", "0", "--queue"),
    )
    assert server.manage("run_iteration", *options, log="cli").wait(1200) == 0, server.said("cli")

    def read_statuses() -> dict[str, str]:
        listed = ask_api(server, token, "/experiments")["experiments"]
        return {one["name"]: one["status"] for one in listed}

    wait(lambda: set(read_statuses().values()) <= ENDED, explain=server.said, seconds=1200)
    assert read_statuses() == dict.fromkeys(("api", "cli", "form"), "completed"), server.said()
    begun = json.loads((server.root / "artifacts/form/experiment.json").read_text())
    own = package / "outside_phrasebook"
    assert begun["seed_model"]["folder"] == str(own / "model")
    assert begun["templates"]["judge"] == (own / "phrasebook_judge.txt").read_text()
    pool = pq.read_table(server.root / "artifacts/form/iteration-0/prompts/part-00000.parquet")
    assert set(pool["text"].to_pylist()) <= set((own / "prompts.txt").read_text().splitlines())
    assert len(pool) <= PHRASES
    measured = read_own_evaluation(server, "form")
    assert measured.keys() == {"M0", "M1"}
    assert min(measured.values()) > 0.2, "far more than by chance"
    made = list_tables(server, "form")
    assert any("/checkpoint/" in path for path in made)
    assert made == list_tables(server, "api") == list_tables(server, "cli")
