"""Speed of two workers with one thread each compared with one worker, in a judge stage.

Runs the same experiment with one worker and with two, with a separate broker and database,
and compares the wall-clock time between the first claim and the last finish of the judge stage.
Model loading is included, as in production. On a machine with shared cores, single pairs of runs
give ratios between 1.6 and 2.1, so several pairs run in sequence; their median counts.

    python benchmarks/two_workers.py [--pairs 5] [--samples 64] [--goal 1.7]

With --one-worker it compares one worker with two engine processes against two workers, in judge
and meta-judge stage together:

    python benchmarks/two_workers.py --one-worker --goal 0.98
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.services import broker
from tests.workers.cluster import cluster

SPAN = (
    "select (julianday(max(a.finished)) - julianday(min(a.started))) * 86400, "
    "count(*), sum(a.seconds) "
    "from experiments_attempt a join experiments_shard s on s.id = a.shard_id "
    "join experiments_stage t on t.id = s.stage_id "
    "where t.name in ('judge', 'meta_judge') and a.status = 'finished'"
)
FINISHED = "select 1 from experiments_stage where name = '{}' and status = 'finished'"


def judge_seconds(
    root: Path, models: Path, *, workers: int, processes: int = 1, samples: int, stage: str
) -> float:
    """Time the stages of 12 shards from the judge stage to `stage` with `workers` workers.

    Args:
        processes: engine processes of each worker.
    """
    with broker() as redis, cluster(root, models, redis) as here:
        for _ in range(workers):
            here.start_worker(processes=processes)
        here.start_reconciler()
        changes = (
            *("--set", "sample.prompts=36", "--set", "prompts_per_shard=3"),
            *("--set", f"judge.samples={samples}", "--set", "engine.threads=1"),
            *(() if stage == "meta_judge" else ("--set", "train_on=[[actor]]")),
        )
        here.queue_iteration(*changes)
        here.wait_until(lambda: here.site.rows(FINISHED.format(stage)), seconds=1800)
        seconds, shards, worked = here.site.rows(SPAN)[0]
    print(
        f"{workers} worker(s) of {processes} engine process(es): "
        f"{seconds:.1f} s for {shards} shards, "
        f"which took {worked:.1f} s together"
    )
    return float(seconds)


def main() -> None:
    """Compare, and fail if the ratio is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=64, help="Judgments per response.")
    parser.add_argument(
        "--pairs", type=int, default=5, help="Number of runs with one worker and with two."
    )
    parser.add_argument(
        "--goal", type=float, default=1.7, help="Minimum median ratio; fail below it."
    )
    parser.add_argument(
        "--one-worker",
        action="store_true",
        help="Compare one worker of two engine processes with two workers.",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models = root / "models"
        shutil.copytree(get_shipped_seed_model(), models / "seed")
        ratios = []
        for pair in range(options.pairs):
            before, after = (
                judge_seconds(
                    root / f"{pair}-{workers}-{processes}",
                    models,
                    workers=workers,
                    processes=processes,
                    samples=options.samples,
                    stage="meta_judge" if options.one_worker else "judge",
                )
                for workers, processes in (
                    [(2, 1), (1, 2)] if options.one_worker else [(1, 1), (2, 1)]
                )
            )
            ratios.append(before / after)
            print(f"the second is {ratios[-1]:.2f} times as fast as the first", flush=True)
    median = statistics.median(ratios)
    print(f"median of {len(ratios)} pairs: {median:.2f}")
    sys.exit(median < options.goal)


if __name__ == "__main__":
    main()
