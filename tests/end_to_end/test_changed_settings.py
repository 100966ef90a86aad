"""A real training that could not finish goes on after what was wrong has been changed."""

import json
import shutil
from pathlib import Path

import pytest

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.end_to_end.conftest import Site

DRAWN = ("prompts", "responses", "judgments", "scores", "battles", "actor_pairs", "judge_pairs")

pytestmark = pytest.mark.slow


def hash_results(site: Site) -> dict[str, str]:
    """Hashes of tables and of the checkpoint of iteration 1."""
    return {
        path: sha256
        for path, sha256 in site.digests().items()
        if path.startswith("tiny/iteration-1/")
        and (path.endswith(".parquet") or "/checkpoint/" in path)
        and "/probe/" not in path
    }


def list_times(site: Site) -> dict[Path, int]:
    """When each part of what was drawn was written."""
    folder = site.artifacts / "tiny/iteration-1"
    parts = (part for table in DRAWN for part in sorted((folder / table).glob("*.parquet")))
    return {part: part.stat().st_mtime_ns for part in parts}


def test_a_limit_of_training_that_was_too_small_is_raised(site: Site, quiet_site: Site) -> None:
    failed = site.run_iteration("--set", "training.max_length=16")
    assert failed.returncode == 1, failed.stdout
    sampled = list_times(site)
    assert sampled
    recipe = json.loads((quiet_site.artifacts / "tiny/experiment.json").read_text())["recipe"]
    right = recipe["training"]["max_length"]
    done = site.manage(
        "run_iteration", "--experiment", "tiny", "--set", f"training.max_length={right}"
    )
    assert done.returncode == 0, done.stdout
    assert "nothing is rerun" in done.stdout
    assert list_times(site) == sampled
    assert hash_results(site) == hash_results(quiet_site)


def test_a_generation_config_that_cannot_be_saved_is_mended(site: Site, quiet_site: Site) -> None:
    """It breaks after everything was drawn: the model check refuses such a model before."""
    model = site.root / "models" / "own"
    shutil.copytree(get_shipped_seed_model(), model)
    config = model / "generation_config.json"
    whole = config.read_text()
    assert site.run_iteration("--model", "own", "--set", "training.max_length=16").returncode == 1
    sampled = list_times(site)
    assert sampled
    config.write_text(json.dumps(json.loads(whole) | {"temperature": 0.6}))
    recipe = json.loads((quiet_site.artifacts / "tiny/experiment.json").read_text())["recipe"]
    change = f"training.max_length={recipe['training']['max_length']}"
    failed = site.manage("run_iteration", "--experiment", "tiny", "--set", change)
    assert failed.returncode == 2, failed.stdout
    assert "generation_config.json: cannot be saved again" in failed.stdout
    assert not (site.artifacts / "tiny/iteration-1/checkpoint").exists()
    config.write_text(whole)
    (model / "README.md").write_text("mended")
    done = site.manage("run_iteration", "--experiment", "tiny", "--set", change)
    assert done.returncode == 0, done.stdout
    assert list_times(site) == sampled
    assert hash_results(site) == hash_results(quiet_site)
