"""Judge and meta-judge stages by one worker with two engine processes, against two workers.

    python benchmarks/table.py two_workers

Each of the two workers has one core, each engine process too. Models stay loaded between runs.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from table import Row
from two_engines import SETTINGS, SHARDS, start_workers

FEWER = (f"sample.prompts={4 * SHARDS}", "prompts_per_shard=4", "judge.samples=64")


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure one worker with two engine processes and two workers in turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        one, two = (
            running.enter_context(
                start_workers(
                    root / f"{workers}-workers",
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
