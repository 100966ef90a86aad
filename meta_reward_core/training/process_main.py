"""One process of multi-process training; a launcher starts it, see `launcher`.

python -m meta_reward_core.training.process_main JOB
"""

import json
import sys
import time
import traceback
from pathlib import Path

import torch

from meta_reward_core.errors import MetaRewardError, TrainingError
from meta_reward_core.models.library_errors import explain_library_error
from meta_reward_core.system.settings import read_variable
from meta_reward_core.system.signals import set_parent_death_signal
from meta_reward_core.training.result import LogRow, TrainingOutcome
from meta_reward_core.training.trainer import train_prepared_job
from meta_reward_core.training.trainer_factories import OBJECTIVES


def main(job: Path) -> None:
    """Train; the first process writes the log and the outcome, each process its own error."""
    set_parent_death_signal()
    rank = read_variable("RANK") or "0"
    try:
        outcome = _run_job(job)
    except MetaRewardError as error:
        _write_error(job, rank, type(error).__name__, str(error))
        sys.exit(1)
    except Exception as error:
        message = explain_library_error(error) or traceback.format_exc()
        _write_error(job, rank, TrainingError.__name__, message)
        raise
    if rank == "0":
        _write_json(job / "outcome.json", outcome.to_json())


def _run_job(job: Path) -> TrainingOutcome:
    described = json.loads((job / "job.json").read_text(encoding="utf-8"))
    objective = OBJECTIVES[described["objective"]]
    if described["threads"] is not None:
        torch.set_num_threads(described["threads"])
    with (job / "log.jsonl").open("a", encoding="utf-8") as log:

        def tell(row: LogRow) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()

        return train_prepared_job(
            objective,
            start=Path(described["start"]),
            settings=objective.settings.model_validate(described["settings"]),
            checkpoint=Path(described["checkpoint"]),
            scratch=Path(described["scratch"]),
            seed=described["seed"],
            on_log=tell,
            run_name=described["run_name"],
        )


def _write_error(job: Path, rank: str, kind: str, message: str) -> None:
    told = {"kind": kind, "message": message, "met_at": time.time()}
    _write_json(job / f"error-{rank}.json", told)


def _write_json(path: Path, values: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
