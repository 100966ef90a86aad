"""Every fault in every stage: `make test-faults`. A sample: `make test-slow`.

See docs/reliability.md for what is done and what was seen; `table` writes it from these runs.
"""

import os
import shutil
from pathlib import Path

import pytest

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.faults.faults import FAULTS, Fault
from tests.faults.matrix import Cell, Plan, check, run
from tests.faults.sample import RUNS, SKEWED_RUN, choose_sample
from tests.faults.table import Seconds, write_result
from tests.faults.world import QuietRun, World, world


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that all worlds share: its path stands in their files."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(get_shipped_seed_model(), root / "seed")
    return root


@pytest.fixture(scope="module")
def quiet(models: Path, tmp_path_factory: pytest.TempPathFactory) -> QuietRun:
    return QuietRun(tmp_path_factory.mktemp("quiet") / "site", models)


def strike(here: World, plan: Plan, quiet: QuietRun) -> list[Cell]:
    try:
        cells = run(here, plan)
        check(here, plan, quiet)
    except Exception as error:
        error.add_note("\n".join([*here.notes, here.log()]))  # the world is gone afterwards
        raise
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("number", range(RUNS))
def test_a_fault_in_each_step_of_a_run_changes_nothing(
    tmp_path: Path, models: Path, quiet: QuietRun, number: int
) -> None:
    skewed = number == SKEWED_RUN and shutil.which("cc") is not None
    with world(tmp_path / "world", models, skewed=skewed) as here:
        plan = {
            step: fault
            for step, fault in choose_sample()[number].items()
            if here.has_disk or not fault.needs_disk
        }
        strike(here, plan, quiet)


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_fault_in_every_step_changes_nothing(
    tmp_path: Path, models: Path, quiet: QuietRun, fault: Fault
) -> None:
    if fault.skewed and shutil.which("cc") is None:
        pytest.skip("a clock can be skewed only where there is a C compiler (cc)")
    with world(tmp_path / "world", models, skewed=fault.skewed) as here:
        if fault.needs_disk and not here.has_disk:
            pytest.skip("only root can mount the small disk that this fault fills or protects")
        _record(fault, None)
        cells = strike(here, dict.fromkeys(fault.steps, fault), quiet)
    _record(fault, {cell.step: cell.seconds for cell in cells})


def _record(fault: Fault, seconds: Seconds | None) -> None:
    """Leave what was seen for `tests.faults.table`."""
    folder = os.environ.get("FAULTS_RESULTS")
    if folder:
        write_result(Path(folder), fault, seconds)
