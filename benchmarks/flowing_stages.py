"""A whole iteration of five shards a stage on two devices: flowing stages against barriers.

    python benchmarks/table.py flowing_stages --pairs 2 --collect pairs.json    # several times

`run_iteration --engine-processes 2` on the toy task, two cores. With barriers each stage waits for
the last shard of the one before; nothing else differs, and the files must be equal. The computed
limit is the time of barriers with the measured shards, over the least time that any order of the
same shards can take on two devices: half of their sum, or that of whole shards; what runs before
and after the generating stages counts in both.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

from table import Row

sys.path.insert(0, str(Path(__file__).parents[1]))

from meta_reward_core.planning.shard_schedule import compute_least_seconds
from meta_reward_core.recipes.dataflow import STREAMED_INPUTS, WHOLE_INPUTS
from tests.workers.cluster import WorkerSite, make_site

DEVICES, SHARDS = 2, 5
STAGE_NAMES = ("generate", "judge", "meta_judge")
SETTINGS = (
    f"sample.prompts={4 * SHARDS}", "prompts_per_shard=4", "actor.samples=40", "judge.samples=32",
    "meta_judge.max_judgments=8", "train_on=[[actor,judge]]", "training.epochs=1",
    "engine.threads=1", "evaluation.ground_truth=false",
)  # fmt: skip
TRACE = (
    "select t.name, a.started, a.finished from experiments_attempt a "
    "join experiments_shard s on s.id = a.shard_id "
    "join experiments_stage t on t.id = s.stage_id where a.status = 'finished' order by 2"
)
Span = tuple[str, float, float]
"""Stage, begin and end of a shard in seconds."""


def run(site: WorkerSite, mode: str) -> tuple[float, list[Span]]:
    """Run an iteration; return its seconds and the spans of its shards."""
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    began = time.perf_counter()
    finished = site.call(
        __file__, mode, *site.experiment_options(), "--engine-processes", str(DEVICES), *changes
    )
    seconds = time.perf_counter() - began
    assert finished.returncode == 0, finished.stdout
    spans = [
        (name, *(datetime.fromisoformat(at).timestamp() for at in (start, end)))
        for name, start, end in site.rows(TRACE)
    ]
    return seconds, spans


def compute_limit(seconds: float, spans: list[Span]) -> float:
    """Compute the largest possible gain over a run with barriers."""
    sampled = [(name, end - start) for name, start, end in spans if name in STAGE_NAMES]
    begin = min(start for name, start, _ in spans if name in STAGE_NAMES)
    end = max(end for name, _, end in spans if name in STAGE_NAMES)
    rest = seconds - (end - begin)
    least = compute_least_seconds([each for _, each in sampled], engines=DEVICES)
    return seconds / (rest + least)


def describe_overlap(spans: list[Span]) -> str:
    """Count the shards of a later stage that started before the stage before it had ended."""
    counts = []
    for before, after in itertools.pairwise(STAGE_NAMES):
        ended = max(end for name, _, end in spans if name == before)
        early = sum(name == after and start < ended for name, start, _ in spans)
        counts.append(f"{early} of {after}")
    return " and ".join(counts)


def measure(*, pairs: int) -> Iterator[Row]:
    """Run iterations in turn."""
    ratios, limits, seconds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for pair in range(pairs):
            sites = {mode: make_site(root / f"{mode}-{pair}") for mode in ("flowing", "barriers")}
            (flowing, trace), (barriers, spans) = (run(site, mode) for mode, site in sites.items())
            assert sites["flowing"].digests() == sites["barriers"].digests()
            ratios.append(barriers / flowing)
            limits.append(compute_limit(barriers, spans))
            seconds.append((flowing, barriers))
            for name, start, end in trace:
                print(f"{name:10} {start - trace[0][1]:6.1f} to {end - trace[0][1]:6.1f} s")
            print(f"{ratios[-1]:.3f} of at most {limits[-1]:.3f}", flush=True)
    flowing, barriers = (statistics.median(column) for column in zip(*seconds, strict=True))
    yield Row(
        name=f"whole iteration of {SHARDS} shards a stage on two devices, stages that overlap",
        against="barriers between stages, same files",
        ratios=ratios,
        at_least=1.15,
        note=f"{flowing:.1f} s against {barriers:.1f} s, toy task; computed limit "
        f"{statistics.median(limits):.3g}; before the stage before had ended, "
        f"{describe_overlap(trace)} began",
    )


def run_command() -> None:
    """In a child: the command, with stages that wait for each other or not."""
    from workers.__main__ import main

    mode, *arguments = sys.argv[1:]
    whole, streamed = WHOLE_INPUTS, STREAMED_INPUTS
    if mode == "barriers":
        whole = {name: (*whole[name], *inputs) for name, inputs in streamed.items()}
        streamed = dict.fromkeys(streamed, ())
    sys.argv = ["manage.py", "run_iteration", *arguments]
    runner = "meta_reward_core.runner"
    with patch(f"{runner}.WHOLE_INPUTS", whole), patch(f"{runner}.STREAMED_INPUTS", streamed):
        main()


if __name__ == "__main__":
    run_command()
