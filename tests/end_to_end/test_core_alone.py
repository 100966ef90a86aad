"""The core installed alone, from nothing, in an environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import CHECKOUT
from tests.end_to_end.conftest import TINY, Site, digests_below

NOT_OF_THE_CORE = ("django", "celery", "redis", "gunicorn", "psycopg", "ninja")
NAMES_THE_SEEDS_FOLDER = {"tiny/experiment.json"}
"""It names the folder of the seed model, which lies with the package."""


def call(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter of an environment into which nothing but `pip install .` has gone."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("meta_reward_core", "webapp", "workers"):
        shutil.copytree(CHECKOUT / name, source / name)
    call(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    installed = str(tmp_path / "venv" / "bin" / "python")
    call(installed, "-m", "pip", "install", "--constraint", "constraints.txt", ".", cwd=source)
    shutil.rmtree(source)
    return installed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs_an_iteration_to_the_same_bytes(
    python: str, quiet_site: Site, tmp_path: Path
) -> None:
    program = "import importlib.util as u, sys; print(list(filter(u.find_spec, sys.argv[1:])))"
    assert call(python, "-c", program, *NOT_OF_THE_CORE, cwd=tmp_path) == "[]\n"
    (tmp_path / "tiny.yaml").write_text(TINY)
    said = call(
        *(python, "-m", "meta_reward_core", "--experiment", "tiny", "--recipe", "tiny.yaml"),
        cwd=tmp_path,
        META_REWARD_ARTIFACT_ROOT=str(tmp_path / "artifacts"),
        META_REWARD_MODEL_ROOT=str(tmp_path / "models"),
        META_REWARD_SCRATCH_ROOT=str(tmp_path / "scratch"),
    )
    assert "M1 is in" in said
    made, expected = digests_below(tmp_path / "artifacts"), quiet_site.digests()
    assert made.keys() == expected.keys()
    assert {name for name in made if made[name] != expected[name]} <= NAMES_THE_SEEDS_FOLDER
