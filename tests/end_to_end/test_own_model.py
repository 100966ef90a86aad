"""A model and prompts of one's own, and a seed model made of one's own data."""

import json
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest

from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from meta_reward_core.tasks.toy.task import generate_sft_rows
from tests.core.tiny_model import make_model_folder
from tests.end_to_end.conftest import Site
from tests.hub_server import Hub
from tests.model_files import edit_json

SMALL = [
    "sample.prompts=3",
    "actor.samples=2",
    "actor.max_new_tokens=8",
    "judge.samples=2",
    "judge.max_new_tokens=8",
    "meta_judge.max_new_tokens=8",
    "engine.dtype=float32",
    "engine.threads=1",
    "training.dtype=float32",
]


def run_paper_recipe(site: Site, *changes: str) -> "subprocess.CompletedProcess[str]":
    prompts = site.root / "prompts.txt"
    prompts.write_text("one two three\nis this good\nthe answer\none two three\n")
    options = [option for change in (*SMALL, *changes) for option in ("--set", change)]
    return site.manage(
        "run_iteration", "--experiment", "own", "--recipe", "paper-llama3-8b",
        "--model", "random", "--prompts", str(prompts), *options,
    )  # fmt: skip


def test_a_model_whose_positions_do_not_hold_the_judges_prompt_is_refused(site: Site) -> None:
    make_model_folder(site.root / "models" / "random")
    finished = run_paper_recipe(site)
    assert finished.returncode == 2, finished.stdout
    assert "engines refuse all 3 prompts of the judge" in finished.stdout
    assert "lower judge.max_new_tokens" in finished.stdout
    assert not (site.artifacts / "own").exists()


@pytest.mark.slow
def test_a_model_that_cannot_judge_ends_in_that_finding_with_its_own_exit_code(
    site: Site,
) -> None:
    """A random model that writes one word cannot write a score.

    `tests/workers/test_run_iteration.py` has the same exit codes with a script as the engine.
    """
    model = make_model_folder(site.root / "models" / "random")
    edit_json(model / "config.json", max_position_embeddings=4096)
    finished = run_paper_recipe(site, "judge.max_new_tokens=1")
    assert finished.returncode == 7, finished.stdout
    assert "prompts.txt: 1 duplicate(s) left out" in finished.stdout
    assert "The judge probe stopped the run" in finished.stdout
    assert "Raise judge.max_new_tokens (now 1)" in finished.stdout
    folder = site.artifacts / "own/iteration-1"
    assert not (folder / "responses").exists()
    accepted = site.manage("run_iteration", "--experiment", "own", "--accept-probe")
    assert accepted.returncode == 3, accepted.stdout
    assert "iteration 1 gave no preference pair; M1 was not trained" in accepted.stdout
    assert "no_scored_response" in accepted.stdout
    judgments = pq.read_table(folder / "judgments/part-00000.parquet").to_pylist()
    assert judgments
    assert {row["score"] for row in judgments} == {None}
    assert not (folder / "checkpoint").exists()


@pytest.mark.slow
def test_a_seed_model_is_made_from_eft_rows_and_serves_as_m0(site: Site) -> None:
    shutil.copytree(get_shipped_seed_model(), site.root / "models" / "base")
    data = site.root / "eft.jsonl"
    rows = [
        {"prompt": row["prompt"][0]["content"], "response": row["completion"][0]["content"]}
        for row in generate_sft_rows(64, seed=9)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    trained = site.manage(
        "train_seed", "--model", "base", "--data", str(data), "--output", "mine",
        "--epochs", "1", "--dtype", "float32", "--batch-size", "16", "--learning-rate", "1e-5",
        "--gradient-checkpointing", "false",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout
    assert "64 rows trained, 0 held out, 0 refused" in trained.stdout
    planned = site.run_iteration("--model", "mine", "--dry-run")
    assert planned.returncode == 0, planned.stdout


@pytest.mark.slow
def test_a_model_of_a_mirror_of_the_hub_is_m0_and_one_that_is_not_there_is_refused(
    site: Site, hub: Hub
) -> None:
    """The commands in processes of their own, which read HF_ENDPOINT as they start."""
    commit = hub.add(
        "org/tiny", {file.name: file.read_bytes() for file in get_shipped_seed_model().iterdir()}
    )
    refused = site.run_iteration("--model", "org/none")
    assert refused.returncode == 2
    assert f"{hub.address} has no model org/none" in refused.stdout
    assert not site.artifacts.exists()
    assert not (site.root / "models").exists()
    begun = site.run_iteration("--model", "org/tiny", "--engine", "scripted")
    assert begun.returncode == 0, begun.stdout
    assert f"fetching org/tiny@{commit}" in begun.stdout
    found = json.loads((site.artifacts / "tiny" / "experiment.json").read_text())
    assert found["seed_model"]["folder"] == str(site.root / "models" / "org" / f"tiny@{commit}")
    assert found["seed_model"]["sha256"] == hash_model_folder(get_shipped_seed_model())
