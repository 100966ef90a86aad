"""Every fault against every step: `make test-faults`. One fault for each step: `make test`.

See docs/reliability.md for what is done and what was seen; `table` writes it from these runs.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from meta_reward_core.miniature.seed import shipped_seed
from tests.faults.faults import FAULTS, Fault
from tests.faults.matrix import Cell, Plan, check, run
from tests.faults.world import STAGE_NAMES, QuietRun, World, world

SAMPLE = dict(
    zip(
        STAGE_NAMES,
        ("killed-untold", "broker-clients", "engine", "flipped", "database-connections",
         "triple", "killed", "broker-killed"),
        strict=True,
    )
)  # fmt: skip
"""By step the fault that `make test` tries."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that all worlds share: its path stands in their files."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(shipped_seed(), root / "seed")
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


def test_one_fault_in_each_step_changes_nothing(
    tmp_path: Path, models: Path, quiet: QuietRun
) -> None:
    with world(tmp_path / "world", models) as here:
        plan = {step: FAULTS[name] for step, name in SAMPLE.items()}
        strike(here, plan, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_fault_in_every_step_changes_nothing(
    tmp_path: Path, models: Path, quiet: QuietRun, fault: Fault
) -> None:
    if fault.skewed and shutil.which("cc") is None:
        pytest.skip("a clock can be skewed only where there is a C compiler (cc)")
    with world(tmp_path / "world", models, skewed=fault.skewed) as here:
        if fault.needs_disk and not here.has_disk:
            pytest.skip("only root can mount the small disk that this fault fills or protects")
        cells = strike(here, dict.fromkeys(fault.steps, fault), quiet)
    _record(fault, cells)


def _record(fault: Fault, cells: list[Cell]) -> None:
    """Leave what was seen for `tests.faults.table`."""
    folder = os.environ.get("FAULTS_RESULTS")
    if folder:
        path = Path(folder) / f"{fault.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([cell.as_json() for cell in cells], indent=1))
