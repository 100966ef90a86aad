"""Real commands in processes of their own, on the shipped seed model, in a folder of their own."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.databases import CHECKOUT, find_migrated_database

TINY = """\
extends: smoke
name: tiny
description: The smallest iteration that exercises every stage.
prompts_per_shard: 6
probe: {prompts: 0, check_shards: false}
sample: {prompts: 12}
actor: {samples: 5}
judge: {samples: 5}
meta_judge: {max_judgments: 3}
evaluation: {prompts: 8, judge_items: 8, judgments: 2, comparisons: 8}
"""


def _heed_ctrl_c() -> None:
    """A shell that runs the tests in its background has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Site:
    """A database, an artifact root and a recipe that nobody else uses."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "META_REWARD_VAR": str(self.root),
            "DATABASE_URL": f"sqlite:///{self.root}/db.sqlite3",
            "META_REWARD_ARTIFACT_ROOT": str(self.artifacts),
            "META_REWARD_MODEL_ROOT": str(self.root / "models"),
            "META_REWARD_SCRATCH_ROOT": str(self.root / "scratch"),
            "SECRET_KEY": "only-for-this-test",
        }

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def database(self) -> Path:
        return self.root / "db.sqlite3"

    @property
    def recipe(self) -> Path:
        return self.root / "tiny.yaml"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=CHECKOUT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=500)
        return subprocess.CompletedProcess(arguments, process.returncode, output)

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.call("manage.py", *arguments)

    def run_iteration(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return self.manage("run_iteration", *self.experiment_options(), *options)

    def experiment_options(self) -> list[str]:
        return ["--experiment", "tiny", "--recipe", str(self.recipe)]

    def digests(self) -> dict[str, str]:
        return digests_below(self.artifacts)


def digests_below(artifacts: Path) -> dict[str, str]:
    """Hash every file of the artifacts but the lock; of experiments all but their UUIDs."""
    return {
        str(path.relative_to(artifacts)): hash_file(path)
        for path in sorted(artifacts.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def hash_file(path: Path) -> str:
    data = path.read_bytes()
    if path.name == "experiment.json":
        data = json.dumps(json.loads(data) | {"uuid": ""}).encode()
    return hashlib.sha256(data).hexdigest()


def make_site(root: Path) -> Site:
    root.mkdir(parents=True, exist_ok=True)
    site = Site(root)
    site.recipe.write_text(TINY)
    shutil.copy(find_migrated_database(), root / "db.sqlite3")
    return site


def copy_files(site: Site, root: Path) -> Site:
    """The files of a site, under a database that has never heard of them."""
    copy = make_site(root)
    shutil.copytree(site.artifacts, copy.artifacts)
    return copy


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture(scope="session")
def quiet_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An iteration that nobody disturbed. Read it, do not write to it."""
    return find_quiet_site(tmp_path_factory)


def find_quiet_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Run that iteration once for all processes of a run: the first that needs it does."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each process has a folder of its own below the run's
    site = Site(shared / "quiet-site")
    summary = site.root / "summary.json"
    with FileLock(shared / "quiet-site.lock"):
        if not summary.exists():
            make_site(site.root)
            finished = site.run_iteration("--iterations", "1", "--output", str(summary))
            assert finished.returncode == 0, finished.stdout
    return site
