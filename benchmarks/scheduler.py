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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SHARD_SECONDS = 60.0
"""Approximate duration of a shard of 64 prompts on eight devices."""
VARIATION = 0.3
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
    yield f"  claims a second of one client: {1 / means['claim']:.0f}"
    of_shard = sum(means[name] for name in ("claim", "finish", "advance"))
    busy_share = workers * (of_shard / SHARD_SECONDS + means["beat"] + means["may continue"])
    yield (
        f"  {of_shard * 1000:.1f} ms of driver for a shard; {workers} workers with shards of "
        f"{SHARD_SECONDS:.0f} s and a beat a second: {busy_share:.0%} of one client's time"
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
        given = json.dumps([shards, workers, shard_seconds, variation])
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

    shards, workers, shard_seconds, variation = json.loads(given)
    found = simulate(
        Path(folder),
        shards=shards,
        workers=workers,
        shard_seconds=shard_seconds,
        variation=variation,
    )
    print(json.dumps(found))


def show_idle_shares() -> None:
    """Compute the idle share of eight engines before training, for equal stages and the paper's."""
    from meta_reward_core.planning.gpu_estimate import DEVICES, plan_on_hardware
    from meta_reward_core.recipes.loader import load_recipe

    paper = load_recipe("paper-llama3-8b")
    plan = plan_on_hardware(paper, 1, device=DEVICES["h100"], devices=8, workers=1)
    advised = plan.advised_shard_size or paper.prompts_per_shard
    drawn = [one for one in plan.stages if one.stage != "train"]
    print("8 engines, one iteration before its training; barriers leave 16.7% idle with 20 shards")
    for shards in (20, -(-paper.sample.prompts // advised)):
        stages = {one.stage: one.device_hours * 3600 / shards for one in drawn}
        for title, seconds in (("equal stages", EVEN), ("stages as on H100", stages)):
            for variation in (0.0, 0.1):
                found = run("sqlite", shards, 8, shard_seconds=seconds, variation=variation)
                print(
                    f"  {shards} shards, {title}, times varied by {variation:.0%}: "
                    f"{found['idle_share']:.1%} idle",
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
