"""Run the miniature's arms over several loop seeds and write what the oracle says of them.

    python benchmarks/miniature_arms.py --seeds 3 --processes 2 --output docs/miniature_arms.md

Arms are the shipped recipes; every run goes through `python -m meta_reward_core`, so a run that
was killed goes on where it was. Runs lie under META_REWARD_ARTIFACT_ROOT, named by arm and seed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ARMS = {
    "Meta-Rewarding": "miniature",
    "Self-Rewarding": "miniature-self-rewarding",
    "no length control": "miniature-no-length-control",
}
FIGURES = {
    "true quality, sampled": ("actor", "true_quality"),
    "true quality, greedy": ("actor", "true_quality_greedy"),
    "length, words": ("actor", "length_words"),
    "single judgment exact": ("judge", "single_judgment_exact"),
    "order agreement": ("judge", "order_agreement"),
    "Spearman": ("judge", "spearman"),
    "points per 10 words": ("judge", "points_per_10_words"),
    "mean score": ("judge", "mean_score"),
    "parse rate": ("judge", "parse_rate"),
    "meta-judge accuracy": ("meta_judge", "accuracy"),
}
Trajectory = dict[tuple[str, str], list[float]]


def run(recipe: str, seed: int, iterations: int, folder: Path) -> Trajectory:
    """Run one arm with one seed; return figure -> values of M0, M1, ..."""
    name = f"{recipe}-{seed}"
    result = folder / f"{name}.json"
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run(
            [
                *(sys.executable, "-m", "meta_reward_core", "--experiment", name),
                *("--recipe", recipe, "--seed", str(seed)),
                *("--iterations", str(iterations), "--json", str(result)),
            ],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return read_trajectory(json.loads(result.read_text())["iterations"])


def read_trajectory(iterations: Sequence[dict[str, Any]]) -> Trajectory:
    trajectory: Trajectory = {}
    for summary in iterations:
        for row in summary["truth"]:
            key = (row["subject"], row["metric"])
            trajectory.setdefault(key, [row["before"]]).append(row["after"])
    return trajectory


def table(arm: str, trajectories: Sequence[Trajectory]) -> Iterator[str]:
    """One Markdown table: mean and spread (standard deviation over seeds) per model."""
    models = len(trajectories[0]["actor", "true_quality"])
    yield f"**{arm}**, {len(trajectories)} loop seeds, mean (standard deviation)"
    yield ""
    yield "| figure | " + " | ".join(f"M{t}" for t in range(models)) + " |"
    yield "|---|" + "--:|" * models
    for label, key in FIGURES.items():
        cells = []
        for t in range(models):
            values = [trajectory[key][t] for trajectory in trajectories]
            spread = f" ({stdev(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    folder = Path(os.environ.get("META_REWARD_ARTIFACT_ROOT", "var/artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(recipe, seed) for seed in range(1, options.seeds + 1) for recipe in ARMS.values()]
    with ThreadPoolExecutor(options.processes) as pool:
        runs = {
            (recipe, seed): pool.submit(run, recipe, seed, options.iterations, folder)
            for recipe, seed in jobs
        }
        done = {job: future.result() for job, future in runs.items()}
    lines: list[str] = []
    for arm, recipe in ARMS.items():
        lines += table(arm, [done[recipe, seed] for seed in range(1, options.seeds + 1)])
    options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
