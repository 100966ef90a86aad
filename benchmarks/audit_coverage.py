"""How often the audit's 95% intervals hold the truth: 1,000 simulated batches for each strategy.

Pooled batches, too: two of different strategies, the second half as large.

    python -m benchmarks.audit_coverage

Then the miniature: 20 batches at three levels of the meta-judge's noise, answered by the oracle.
It exits with 1 if a strategy leaves 93 to 97%, or a level holds the truth in fewer than 17.
"""

import argparse
import sys

from meta_reward_core.audit.sampling import STRATEGIES_OF
from tests.core.audit.miniature_battles import NOISE, audited_world, fight
from tests.core.audit.simulated_battles import (
    audit_twice,
    coverage,
    share_that_holds,
    simulate,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--population", type=int, default=2000)
    parser.add_argument("--size", type=int, default=200)
    options = parser.parse_args()
    strategies = STRATEGIES_OF["judgments"]
    failed = False
    for accuracy in (0.5, 0.7, 0.9):
        world = simulate(options.population, accuracy=accuracy, seed=1)
        for strategy in strategies:
            held = coverage(world, strategy=strategy, size=options.size, runs=range(options.runs))
            failed |= not 0.93 <= held <= 0.97
            print(f"truth {world.accuracy:.3f}  {strategy:10}  {held:.1%}", flush=True)
        for pooled in (("uniform", "certainty"), ("uncertain", "score_gap")):
            found = [audit_twice(world, strategies=pooled, size=options.size, seed=seed)
                     for seed in range(options.runs)]  # fmt: skip
            held = share_that_holds(world, found)
            failed |= not 0.93 <= held <= 0.97
            print(f"truth {world.accuracy:.3f}  {' and '.join(pooled)}, pooled  {held:.1%}")
    for name, noise in NOISE.items():
        world = audited_world(fight(200, noise=noise, seed=11))
        for strategy in strategies:
            held = coverage(world, strategy=strategy, size=150, runs=range(20))
            failed |= held < 17 / 20
            print(f"miniature, {name} ({world.accuracy:.3f})  {strategy:10}  {held * 20:.0f} of 20")
    sys.exit(failed)


if __name__ == "__main__":
    main()
