"""One process of a training that runs in several; a launcher starts it, see `launching`.

python -m meta_reward_core.training.process JOB
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch

from meta_reward_core.dying import die_with_parent
from meta_reward_core.errors import MetaRewardError, TrainingError
from meta_reward_core.training.launching import ROWS
from meta_reward_core.training.objectives import OBJECTIVES
from meta_reward_core.training.outcome import LogRow, TrainingOutcome
from meta_reward_core.training.row_forms import RowFile
from meta_reward_core.training.trainer import run_training


def main(job: Path) -> None:
    """Train; the first process tells the log and the outcome, each its own error."""
    die_with_parent()
    rank = os.environ.get("RANK", "0")
    try:
        outcome = _train(job)
    except MetaRewardError as error:
        _tell(job, rank, type(error).__name__, str(error))
        sys.exit(1)
    except Exception:
        _tell(job, rank, TrainingError.__name__, traceback.format_exc())
        raise
    if rank == "0":
        _write(job / "outcome.json", outcome.to_json())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _train(job: Path) -> TrainingOutcome:
    described = json.loads((job / "job.json").read_text(encoding="utf-8"))
    objective = OBJECTIVES[described["objective"]]
    with (job / "log.jsonl").open("a", encoding="utf-8") as log:

        def tell(row: LogRow) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()

        return run_training(
            objective,
            RowFile(job / ROWS, described["rows"]),
            start=Path(described["start"]),
            settings=objective.settings.model_validate(described["settings"]),
            checkpoint=Path(described["checkpoint"]),
            scratch=Path(described["scratch"]),
            seed=described["seed"],
            threads=described["threads"],
            on_log=tell,
        )


def _tell(job: Path, rank: str, kind: str, message: str) -> None:
    told = {"kind": kind, "message": message, "met_at": time.time()}
    _write(job / f"error-{rank}.json", told)


def _write(path: Path, values: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
