"""The records that ship with the miniature paper still count: a run of today would be the same."""

from pathlib import Path

from meta_reward_core.reporting.run_record import RunRecord
from meta_reward_core.storage.roots import StorageRoots
from workers.management.commands.reproduce import PAPER_ARMS
from workers.reproduction.matrix import MatrixSpec, compute_fingerprint, plan_runs
from workers.reproduction.records import SeedModelRecords
from workers.reproduction.run import choose_seed_models

RUNS = Path(__file__).parents[2] / "docs/miniature_paper/runs"


def test_every_record_is_of_a_run_that_is_planned_and_counts_today(tmp_path: Path) -> None:
    spec = MatrixSpec("paper", PAPER_ARMS, 5, 3, None, (), None, 1, 1, tmp_path, tmp_path)
    roots = StorageRoots(str(tmp_path), tmp_path, tmp_path)
    seeds = SeedModelRecords(tmp_path, RUNS, print)
    planned = {
        run.name: run for run in plan_runs(spec, choose_seed_models(spec, seeds, train=False))
    }
    records = {path.stem: RunRecord.from_json(path.read_bytes()) for path in RUNS.glob("*.json")}
    assert records
    assert records.keys() <= planned.keys()
    for name, record in records.items():
        model = planned[name].model
        tried = None if model is None else seeds.find_or_record(model)
        assert tried is not None, f"the seed model of {name} has no record"
        basis = compute_fingerprint(spec, planned[name], roots, variant=tried.model)
        assert basis.list_differences(record.basis) == [], name
        assert record.run.iterations == planned[name].iterations
