"""`manage.py migrate` brings the tables of an earlier version up to date while a worker works."""

import shutil
from pathlib import Path

import pytest

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.faults.faults import Fault
from tests.faults.matrix import Plan, check, run
from tests.faults.world import QuietRun, World, world

MIGRATIONS = Path(__file__).parents[2] / "webapp" / "experiments" / "migrations"


def _take_back(here: World, step: str) -> None:
    """Have the tables as they were before the last migration."""
    last_but_one = sorted(MIGRATIONS.glob("[0-9]*.py"))[-2].stem
    done = here.site.manage("migrate", "experiments", last_but_one)
    assert done.returncode == 0, done.stdout


def _migrate(here: World, step: str) -> None:
    done = here.site.manage("migrate")
    assert done.returncode == 0, done.stdout
    assert "Applying experiments." in done.stdout


MIGRATED = Fault("migrated", "migrated while a worker works", _take_back, _migrate)


@pytest.mark.slow
def test_a_migration_is_made_while_a_worker_works(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(get_shipped_seed_model(), models / "seed")
    quiet = QuietRun(tmp_path / "quiet" / "site", models)
    plan: Plan = {"generate": MIGRATED, "judge": MIGRATED, "pair_judge": MIGRATED}
    with world(tmp_path / "world", models) as here:
        run(here, plan)
        check(here, plan, quiet)
