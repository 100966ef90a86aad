"""Coverage of the audit's 95% intervals: 1,000 simulated batches for each strategy.

Every metric of pairs and responses, at several true values; then pooled batches: two with different
strategies, the second half as large.

    python -m benchmarks.audit_coverage                              # 30 minutes of one core
    python -m benchmarks.audit_coverage --accuracy 0.7 --noise 0.8   # one true value of each kind

Finally the toy task: 20 batches at three noise levels of the meta-judge, answered by the oracle.
The exit code is 1 if a metric's coverage is outside 93 to 97%, or if fewer than 17 batches of a
level cover the true value.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping

from meta_reward_core.review.sampling_units import UnitKind
from meta_reward_core.review.stratified_sampling import STRATEGIES_BY_KIND
from tests.core.review.miniature_battles import NOISE, audited_world, fight
from tests.core.review.simulated_battles import (
    DRAWN_BY_IT,
    ScoredWorld,
    World,
    audit_twice,
    coverage,
    coverages,
    find_truth,
    share_that_holds,
    simulate,
    simulate_responses,
)

POOLED = (("uniform", "certainty"), ("uncertain", "score_gap"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--population", type=int, default=2000)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--accuracy", type=float, nargs="*", default=(0.5, 0.7, 0.9))
    parser.add_argument("--noise", type=float, nargs="*", default=(0.4, 0.8, 1.6),
                        help="Standard deviation between auditors, in points.")  # fmt: skip
    options = parser.parse_args()
    shares = [
        share
        for kind, name, world in worlds(options)
        for share in print_world(kind, name, world, options)
    ]
    outside = [share for share in shares if not 0.93 <= share <= 0.97]
    print(f"\n{len(shares)} figures, {len(outside)} of them outside 93 to 97%\n")
    sys.exit(bool(outside) | print_miniature())


def worlds(options: argparse.Namespace) -> Iterator[tuple[UnitKind, str, World | ScoredWorld]]:
    population = options.population
    for accuracy in options.accuracy:
        world = simulate(population, accuracy=accuracy, seed=1)
        yield "judgments", f"accuracy {world.accuracy:.3f}", world
    for noise in options.noise:
        yield "responses", f"noise {noise}", simulate_responses(population, noise=noise, seed=1)


def print_world(
    kind: UnitKind, name: str, world: World | ScoredWorld, options: argparse.Namespace
) -> list[float]:
    """Print a table of metrics by strategy, and return its shares."""
    strategies, runs = STRATEGIES_BY_KIND[kind], range(options.runs)
    truth = find_truth(world)
    held: dict[str, Mapping[str, float]] = {
        strategy: coverages(world, strategy=strategy, size=options.size, runs=runs)
        for strategy in strategies
    }
    print(f"\n| {kind}, {name} | truth | {' | '.join(strategies)} |")
    print(f"|---|{'--:|' * (1 + len(strategies))}")
    for metric, value in truth.items():
        cells = " | ".join(f"{held[strategy][metric]:.1%}" for strategy in strategies)
        print(f"| {metric} | {value:.3f} | {cells} |", flush=True)
    shares = [
        share
        for strategy, metrics in held.items()
        for metric, share in metrics.items()
        if (strategy, metric) != DRAWN_BY_IT
    ]
    return shares + (print_pooled(world, options) if isinstance(world, World) else [])


def print_pooled(world: World, options: argparse.Namespace) -> list[float]:
    shares = []
    for strategies in POOLED:
        found = [
            audit_twice(world, strategies=strategies, size=options.size, seed=seed)
            for seed in range(options.runs)
        ]
        shares.append(share_that_holds(world, found))
        print(f"agreement without ties, {' and '.join(strategies)} pooled: {shares[-1]:.1%}")
    return shares


def print_miniature() -> bool:
    """Print how many of 20 batches cover the true value; return whether too few did."""
    failed = False
    for name, noise in NOISE.items():
        world = audited_world(fight(200, noise=noise, seed=11))
        for strategy in STRATEGIES_BY_KIND["judgments"]:
            held = coverage(world, strategy=strategy, size=150, runs=range(20))
            failed |= held < 17 / 20
            print(f"miniature, {name} ({world.accuracy:.3f})  {strategy:10}  {held * 20:.0f} of 20")
    return failed


if __name__ == "__main__":
    main()
