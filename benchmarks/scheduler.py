"""Cost of the scheduler with a million prompts and a hundred workers: real code, simulated engine.

    python benchmarks/scheduler.py                                  # 1,000 and 4,000 shards a stage
    python benchmarks/scheduler.py --shards 15625 --databases postgres      # 1,000,000 prompts
    python benchmarks/scheduler.py --idle                    # 8 engines: idle share before training

Claims, finishes, stages, heartbeats and the reconciler are the project's own, with their rows and
manifests. Only the engine is simulated: a shard ends after a random time, on a clock that jumps,
and writes a manifest without tables. The broker is a list. One process plays all workers in turn,
so each result is the cost of one client on a database without other clients.

It simulates the stages from `sample` to `pair_judge`; the training that follows is one shard.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SECONDS_PER_SHARD = 2.0
"""Time of a shard outside of its engine, as plans assume it."""
SHARD_SECONDS = 60.0
"""Approximate duration of a shard of 64 prompts on eight devices."""
VARIATION = 0.3
ENGINES = 8
EVEN = dict.fromkeys(("generate", "judge", "meta_judge"), SHARD_SECONDS)


def report(found: dict[str, Any], workers: int) -> Iterator[str]:
    """Format the results of one simulation."""
    yield f"{found['shards']:,} shards of {found['simulated_seconds'] / 3600:.1f} simulated hours"
    means: dict[str, float] = {}
    for name, spent in found["spent"].items():
        seconds, busy = zip(*spent, strict=True)
        means[name] = sum(seconds) / len(seconds)
        yield (
            f"  {name:26} {len(seconds):7,} times, mean {means[name] * 1000:8.1f} ms "
            f"({sum(busy) / len(busy) * 1000:.1f} ms of this CPU), longest "
            f"{max(seconds) * 1000:8.0f} ms, together {sum(seconds):7.1f} s"
        )
    yield f"  claims per second of one client: {1 / means['claim']:.0f}"
    of_shard = sum(means[name] for name in ("claim", "finish", "advance"))
    busy_share = workers * (of_shard / SHARD_SECONDS + means["beat"] + means["may continue"])
    yield (
        f"  {of_shard * 1000:.1f} ms of driver for a shard; {workers} workers with shards of "
        f"{SHARD_SECONDS:.0f} s and one heartbeat per second: {busy_share:.0%} of one client's time"
    )


@contextmanager
def database(kind: str, root: Path) -> Iterator[str]:
    """Yield the address of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{root / 'db.sqlite3'}"
        return
    from tests.services import postgres

    with postgres() as url:
        yield url


def run(
    kind: str,
    shards: int,
    workers: int,
    *,
    shard_seconds: Mapping[str, float] = EVEN,
    variation: float = VARIATION,
    measured_shards: int = 0,
    seed: int = 1,
) -> dict[str, Any]:
    """Simulate in a child process with its own settings."""
    with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as url:
        environment = {
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "DATABASE_URL": url,
            "META_REWARD_VAR": f"{folder}/var",
            "META_REWARD_ARTIFACT_ROOT": f"{folder}/artifacts",
            "META_REWARD_LEASE_SECONDS": "86400",
        }
        given = json.dumps([shards, workers, shard_seconds, variation, measured_shards, seed])
        child = [sys.executable, __file__, "--child", folder, given]
        done = subprocess.run(
            child, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _simulate(folder: str, given: str) -> None:
    """Runs in the child process, whose settings define its database."""
    import django

    django.setup()
    from simulated_workers import simulate

    shards, workers, shard_seconds, variation, measured_shards, seed = json.loads(given)
    found = simulate(
        Path(folder),
        shards=shards,
        workers=workers,
        shard_seconds=shard_seconds,
        variation=variation,
        measured_shards=measured_shards,
        seed=seed,
    )
    print(json.dumps(found))


def plan_h100_seconds() -> dict[str, float]:
    """Return the planned device-seconds of each stage of the paper's first iteration on H100."""
    from meta_reward_core.planning.gpu_estimate import DEVICES, plan_on_hardware
    from meta_reward_core.recipes.loader import load_recipe

    plan = plan_on_hardware(
        load_recipe("paper-llama3-8b"), 1, device=DEVICES["h100"], devices=ENGINES, workers=1
    )
    return {one.stage: one.device_hours * 3600 for one in plan.stages if one.stage != "train"}


def show_idle_shares() -> None:
    """Idle share of eight engines before training, and the least that any order can reach.

    An earlier experiment has measured how long a shard of each stage takes.
    """
    from meta_reward_core.planning.cost_estimate import (
        MeasuredThroughput,
        StageRate,
        plan_iteration,
    )
    from meta_reward_core.planning.shard_size import estimate_shard_size
    from meta_reward_core.recipes.loader import load_recipe

    paper, h100 = load_recipe("paper-llama3-8b"), plan_h100_seconds()
    rates = {
        plan.stage: StageRate(1.0, plan.calls / h100[plan.stage], SECONDS_PER_SHARD)
        for plan in plan_iteration(paper, 1)
        if plan.stage in h100
    }
    chosen = estimate_shard_size(
        paper.model_copy(update={"prompts_per_shard": None}),
        engines=ENGINES,
        measured=MeasuredThroughput("plan", rates),
    )
    print(f"{ENGINES} engines, one iteration before its training")
    print(f"default size of shards on H100: {chosen.describe()}")
    for shards in (20, chosen.shards):
        stages = {stage: seconds / shards for stage, seconds in h100.items()}
        for title, seconds in (("equal stages", EVEN), ("stages as on H100", stages)):
            for variation, seeds in ((0.0, 1), (0.1, 5)):
                _show_idle_share(shards, title, seconds, variation, seeds)


def _show_idle_share(
    shards: int, title: str, seconds: Mapping[str, float], variation: float, seeds: int
) -> None:
    from meta_reward_core.planning.shard_schedule import compute_least_seconds

    idle, limits = [], []
    for seed in range(seeds):
        found = run(
            "sqlite", shards, ENGINES, shard_seconds=seconds, variation=variation,
            measured_shards=ENGINES, seed=seed,
        )  # fmt: skip
        least = compute_least_seconds(found["shard_seconds"], engines=ENGINES)
        idle.append(found["idle_share"])
        limits.append(1 - sum(found["shard_seconds"]) / (ENGINES * least))
    print(
        f"  {shards} shards, {title}, times varied by {variation:.0%}: {fmean(idle):.1%} idle "
        f"({min(idle):.1%} to {max(idle):.1%}), no order below {abs(fmean(limits)):.1%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 4000], help="of a stage")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument(
        "--idle",
        action="store_true",
        help="Report the idle share of 8 engines instead of the costs.",
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _simulate(*options.child)
        return
    if options.idle:
        show_idle_shares()
        return
    for kind in options.databases:
        for shards in options.shards:
            print(f"\n{kind}, {shards:,} shards a stage, {options.workers} workers")
            print(*report(run(kind, shards, options.workers), options.workers), sep="\n")


if __name__ == "__main__":
    main()
