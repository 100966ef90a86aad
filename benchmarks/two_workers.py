"""Speed of two workers with one thread each compared with one worker, in a judge stage.

Runs the same experiment with one worker and with two, with a separate broker and database,
and compares the wall-clock time between the first claim and the last finish of the judge stage.
Model loading is included, as in production. On a machine with shared cores, single pairs of runs
give ratios between 1.6 and 2.1, so several pairs run in sequence; their median counts.

    python benchmarks/two_workers.py [--pairs 5] [--samples 64] [--goal 1.7]

The same stages by one worker with two engine processes, against two workers of one core each:

    python benchmarks/table.py two_workers
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from table import Row
from two_engines import SETTINGS, SHARDS, start_workers

sys.path.insert(0, str(Path(__file__).parents[1]))

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.services import broker
from tests.workers.cluster import cluster

SPAN = (
    "select (julianday(max(a.finished)) - julianday(min(a.started))) * 86400, "
    "count(*), sum(a.seconds) "
    "from experiments_attempt a join experiments_shard s on s.id = a.shard_id "
    "join experiments_stage t on t.id = s.stage_id "
    "where t.name = 'judge' and a.status = 'finished'"
)
FINISHED = "select 1 from experiments_stage where name = 'judge' and status = 'finished'"
FEWER = (f"sample.prompts={4 * SHARDS}", "prompts_per_shard=4", "judge.samples=64")


def judge_seconds(root: Path, models: Path, *, workers: int, samples: int) -> float:
    """Time the judge stage of 12 shards with `workers` workers."""
    with broker() as redis, cluster(root, models, redis) as here:
        for _ in range(workers):
            here.start_worker()
        here.start_reconciler()
        changes = (
            *("--set", "sample.prompts=36", "--set", "prompts_per_shard=3"),
            *("--set", f"judge.samples={samples}", "--set", "engine.threads=1"),
            *("--set", "train_on=[[actor]]"),
        )
        here.queue_iteration(*changes)
        here.wait_until(lambda: here.site.rows(FINISHED), seconds=1800)
        seconds, shards, worked = here.site.rows(SPAN)[0]
    print(
        f"{workers} worker(s): {seconds:.1f} s for {shards} shards, which took {worked:.1f} s "
        "together"
    )
    return float(seconds)


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure one worker with two engine processes and two workers in turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        shutil.copytree(get_shipped_seed_model(), root / "models" / "seed")
        one, two = (
            running.enter_context(
                start_workers(
                    root / f"{workers}-workers",
                    root / "models",
                    workers=workers,
                    python=None,
                    settings=(*SETTINGS, *FEWER),
                )
            )
            for workers in (1, 2)
        )
        one.warm_up()
        two.warm_up()
        found = []
        for seed in range(2, 2 + pairs):
            found.append(tuple(some.run(f"pair-{seed}", seed)[1] for some in (one, two)))
            print("tokens/s: " + ", ".join(f"{rate:,.0f}" for rate in found[-1]), flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    yield Row(
        name="judge + meta-judge stage by one worker with two engine processes",
        against="two workers of one core each",
        ratios=[mine / theirs for mine, theirs in found],
        at_least=0.98,
        note=f"toy task, {SHARDS} shards of 4 prompts a stage; "
        f"{mine:,.0f} against {theirs:,.0f} tokens/s",
    )


def main() -> None:
    """Compare, and fail if the ratio is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=64, help="Judgments per response.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models = root / "models"
        shutil.copytree(get_shipped_seed_model(), models / "seed")
        ratios = []
        for pair in range(options.pairs):
            before, after = (
                judge_seconds(
                    root / f"{pair}-{workers}", models, workers=workers, samples=options.samples
                )
                for workers in (1, 2)
            )
            ratios.append(before / after)
            print(f"the second is {ratios[-1]:.2f} times as fast as the first", flush=True)
    median = statistics.median(ratios)
    print(f"median of {len(ratios)} pairs: {median:.2f}")
    sys.exit(median < options.goal)


if __name__ == "__main__":
    main()
