"""A whole iteration with a real model, from the command line."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.tasks.toy import ground_truth
from tests.databases import CHECKOUT
from tests.end_to_end.conftest import Site, copy_files

LYING_ORACLE = """
import random, runpy, sys
from dataclasses import replace
from meta_reward_core.tasks.toy import ground_truth, task

held_out_judge_items, gate_rows = task.sample_held_out_judge_items, task.generate_gate_comparisons
words = [word for slot in task.LEXICON for row in slot for word in row]

ground_truth.compute_true_quality = lambda *asked: random.uniform(0, 5)
ground_truth.is_judgment_right = lambda *asked: random.random() < 0.5
ground_truth.count_judgment_errors = lambda *asked: random.randint(0, 5)
ground_truth.pick_better_judgment = lambda *asked: random.choice("AB")
ground_truth.is_verdict_right = lambda *asked, winner: random.random() < 0.5
task.translate_word = lambda language, source: random.choice(words)
task.count_errors = lambda draft, verdicts: random.randint(0, 5)
task.sample_held_out_judge_items = lambda count, *, seed: [
    (instruction, response, random.uniform(0, 5))
    for instruction, response, quality in held_out_judge_items(count, seed=seed)
]
task.generate_gate_comparisons = lambda count, *, seed: [
    replace(row, better="B" if row.better == "A" else "A") for row in gate_rows(count, seed=seed)
]
sys.argv = ["manage.py", *sys.argv[1:]]
runpy.run_path("manage.py", run_name="__main__")
"""


CORE_ALONE = """
import runpy, sys
for name in ("django", "celery", "redis", "webapp", "workers"):
    sys.modules[name] = None  # importing it raises
sys.argv = ["meta_reward_core", *sys.argv[1:]]
runpy.run_module("meta_reward_core", run_name="__main__")
"""


def test_it_leaves_every_table_a_checkpoint_and_a_summary(quiet_site: Site) -> None:
    folder = quiet_site.artifacts / "tiny/iteration-1"
    tables = {path.parent.name for path in folder.rglob("*.parquet")}
    assert tables == {
        "prompts",
        "responses",
        "judgments",
        "scores",
        "battles",
        "ratings",
        "actor_pairs",
        "judge_pairs",
        "dropped",
        "refused",
        "training_log",
        "evaluation",
        "task_items",
    }
    summary = json.loads((quiet_site.root / "summary.json").read_text())["iterations"][0]
    assert summary["finished"]
    assert summary["training"]["trained"] > 0
    metrics = {(row["subject"], row["metric"]) for row in summary["truth"]}
    assert ("actor", "true_quality") in metrics
    assert ("judge", "single_judgment_exact") in metrics


def test_every_file_stands_in_the_tree_of_the_documentation(quiet_site: Site) -> None:
    page = (CHECKOUT / "docs/artifacts.md").read_text(encoding="utf-8")
    tree = page.partition("<artifact root>/<experiment>/\n")[2].partition("```")[0]
    known = re.compile("|".join(patterns_of(tree.splitlines())))
    experiment = quiet_site.artifacts / "tiny"
    files = [str(path.relative_to(experiment)) for path in experiment.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [name for name in files if not known.fullmatch(name)] == []


def patterns_of(tree: list[str]) -> Iterator[str]:
    """A line names a file, or with a slash a folder: of what stands below it, or of files."""
    folder = ""
    for line in tree:
        path = re.sub("<[^>]+>", "[^/]+", re.escape(line.split()[0]))
        is_below = line.startswith("    ")
        if not is_below:
            folder = path if path.endswith("/") else ""
        if is_below or not folder:
            yield f"{folder}{path}" + ("[^/]+" if path.endswith("/") else "")


def test_the_checkpoint_holds_config_tokenizer_template_and_safetensors_alone(
    quiet_site: Site,
) -> None:
    checkpoint = quiet_site.artifacts / "tiny/iteration-1/checkpoint"
    assert {path.name for path in checkpoint.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    for path in checkpoint.glob("*.json"):
        assert str(quiet_site.root) not in path.read_text()


@pytest.mark.slow
def test_the_second_iteration_starts_from_and_refers_to_m1(
    quiet_site: Site, tmp_path: Path
) -> None:
    """At step 1 policy and reference are the same weights, so rewards and margin are 0.

    With M0 as the reference of M2 they would not be, since M1 differs from M0.
    """
    site = copy_files(quiet_site, tmp_path / "copy")
    finished = site.run_iteration("--iterations", "2")
    assert finished.returncode == 0, finished.stdout
    second = site.artifacts / "tiny/iteration-2"
    manifest = json.loads((second / "manifest.json").read_text())
    m1 = hash_model_folder(site.artifacts / "tiny/iteration-1/checkpoint")
    assert manifest["model_in"] == m1
    assert manifest["model_out"] == hash_model_folder(second / "checkpoint") != m1
    log = pq.read_table(second / "training_log/part-00000.parquet").to_pylist()
    first = {row["metric"]: row["value"] for row in log if row["step"] == 1}
    for reward in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first[reward] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
def test_the_core_alone_without_django_gives_the_same_bytes(quiet_site: Site, site: Site) -> None:
    """This runs a second iteration; the import contracts of `make check` find the cause sooner."""
    finished = site.call("-c", CORE_ALONE, *site.experiment_options(), "--iterations", "1")
    assert finished.returncode == 0, finished.stdout
    assert site.digests() == quiet_site.digests()


@pytest.mark.slow
def test_what_the_truth_says_changes_nothing_but_the_evaluation(
    quiet_site: Site, site: Site
) -> None:
    """All that knows it lies; every other file, the weights included, stays the same."""
    arguments = [*site.experiment_options(), "--iterations", "1"]
    lies = set(re.findall(r"^ground_truth\.(\w+) =", LYING_ORACLE, re.MULTILINE))
    functions = dict(inspect.getmembers(ground_truth, inspect.isfunction))
    assert lies == {name for name in functions if not name.startswith("_")}
    finished = site.call("-c", LYING_ORACLE, "run_iteration", *arguments)
    assert finished.returncode == 0, finished.stdout
    honest, lied = quiet_site.digests(), site.digests()
    changed = {name for name in honest if honest[name] != lied[name]}
    assert changed == {
        "tiny/iteration-1/evaluation/part-00000.parquet",
        "tiny/iteration-1/manifests/evaluate-00000.json",
        "tiny/iteration-1/manifest.json",
    }
    told_by_the_truth = "true_quality", "single_judgment_exact", "order_agreement", "accuracy"
    was, is_now = (figures(place) for place in (quiet_site, site))
    assert all(was[name] != is_now[name] for name in told_by_the_truth)


def figures(site: Site) -> dict[str, float]:
    """What M1 was measured to be, by the truth."""
    rows = pq.read_table(site.artifacts / "tiny/iteration-1/evaluation/part-00000.parquet")
    return {
        row["metric"]: row["value"]
        for row in rows.to_pylist()
        if row["model"] == "M1" and row["basis"] == "oracle"
    }


@pytest.mark.slow
def test_a_damaged_file_of_a_finished_iteration_is_made_again(
    quiet_site: Site, tmp_path: Path
) -> None:
    site = copy_files(quiet_site, tmp_path / "copy")
    before = site.digests()
    part = site.artifacts / "tiny/iteration-1/responses/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    weights = site.artifacts / "tiny/iteration-1/checkpoint/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    finished = site.run_iteration("--iterations", "1")
    assert finished.returncode == 0, finished.stdout
    assert site.digests() == before


def test_the_dry_run_writes_nothing(site: Site) -> None:
    planned = site.run_iteration("--dry-run", "--output", str(site.root / "plan.json"))
    assert planned.returncode == 0, planned.stdout
    plan = json.loads((site.root / "plan.json").read_text())["plan"]["1"]
    assert {"generate", "judge", "meta_judge", "train"} <= {stage["stage"] for stage in plan}
    assert not site.artifacts.exists()
