"""Savings and costs of `meta_judge.adaptive_z`, compared with running all battles.

    python benchmarks/adaptive_battles.py                   # simulated at paper scale
    python benchmarks/adaptive_battles.py --miniature 60    # the real miniature's meta-judge too

All 110 battles of each response run once; then the method replays its rounds with the recorded
verdicts. So pairs and position weights differ only because of skipped battles. Equal
pairs: both ways have the same chosen and the same rejected judgment, or neither has a pair.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from miniature_files import miniature_files
from table import Row

from meta_reward_core.method.battles import compute_position_weights
from meta_reward_core.method.judge_pairs import JudgedPrompts, rate_judgments
from meta_reward_core.method.meta_judging import ComparisonSet, PlannedBattle, run_adaptive_battles
from meta_reward_core.method.pairing import DropReason, JudgePair, select_judge_pair
from meta_reward_core.storage.records import (
    Battle,
    Judgment,
    Prompt,
    Response,
    ResponseScore,
    Verdict,
)
from meta_reward_core.storage.schemas import to_records

JUDGMENTS = 11
PRIOR = 1e-4
DEVIATIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 100.0)
EQUAL_WANTED = 0.99
FIRST_WINS_BY = 0.2
"""Advantage of the first position in logits: about 55 to 45."""


@dataclass(frozen=True)
class Fought:
    """Responses with all battles."""

    fielded: list[ComparisonSet]
    battles: list[Battle]


@dataclass(frozen=True)
class Trial:
    """Result for one prediction width."""

    deviations: float
    fought: float
    equal: float
    weight_moved: float


def simulate(prompts: int, *, spread: float, seed: int) -> Fought:
    """Simulate judgments of normal strengths, and a meta-judge with Bradley-Terry errors."""
    rng = random.Random(seed)
    fielded, battles = [], []
    for number in range(prompts):
        judgments = tuple(_judgment(number, sample) for sample in range(JUDGMENTS))
        strength = {one.judgment_id: rng.gauss(0, spread) for one in judgments}
        score = ResponseScore(f"p{number}", f"r{number}", 0, JUDGMENTS, 3.0, 1.0, 100, 25, "stop")
        fielded.append(ComparisonSet(score, judgments))
        for first, second in permutations(judgments, 2):
            ahead = strength[first.judgment_id] - strength[second.judgment_id] + FIRST_WINS_BY
            verdict: Verdict = "A" if rng.random() < 1 / (1 + np.exp(-ahead)) else "B"
            battles.append(_battle(first, second, verdict))
    return Fought(fielded, battles)


def _judgment(number: int, sample: int) -> Judgment:
    name = f"r{number}.j{sample}"
    return Judgment(f"p{number}", f"r{number}", name, sample, name, 3.0, None, 100)


def _battle(first: Judgment, second: Judgment, verdict: Verdict) -> Battle:
    return Battle(
        first.prompt_id,
        first.response_id,
        first.judgment_id,
        second.judgment_id,
        text="",
        verdict=verdict,
        unparsed_reason=None,
        tokens=0,
    )


def fight_miniature(prompts: int, *, seed: int) -> Fought:
    """Let the toy base model answer, judge, and compare all distinct judgments."""
    stages = ("sample", "generate", "judge", "meta_judge")
    with miniature_files(prompts, stages=stages, seed=seed) as files:
        judged = JudgedPrompts.from_records(
            to_records(files.read("prompts"), Prompt),
            files.read_records(Response),
            files.read_records(Judgment),
            files.read_records(ResponseScore),
        )
        found = [
            judged.select_comparison_set(prompt, seed=seed, max_judgments=None)
            for prompt in judged.prompts
        ]
        fielded = [one for one in found if isinstance(one, ComparisonSet)]
        return Fought(fielded, files.read_records(Battle))


def pairs_of(fielded: Sequence[ComparisonSet], battles: Sequence[Battle]) -> list[tuple[str, ...]]:
    """Return the chosen and the rejected judgment of each response; empty if there is no pair."""
    weights = compute_position_weights(battles)
    grouped: dict[str, list[Battle]] = {}
    for battle in battles:
        grouped.setdefault(battle.response_id, []).append(battle)
    ratings = rate_judgments(fielded, grouped, weights=weights, prior=PRIOR)
    elo = {rating.judgment_id: rating.elo for rating in ratings}
    selected = (select_judge_pair(one.judgments, elo, weights=weights) for one in fielded)
    return [_names(pair) for pair in selected]


def _names(pair: JudgePair | DropReason) -> tuple[str, ...]:
    if isinstance(pair, DropReason):
        return ()
    return pair.chosen_judgment_id, pair.rejected_judgment_id


def replay(everything: Fought, *, deviations: float) -> list[Battle]:
    """Return the battles that would have run, with the recorded verdicts."""
    given = {(one.first_judgment_id, one.second_judgment_id): one for one in everything.battles}
    judgments = {one.judgment_id: one for field in everything.fielded for one in field.judgments}
    planned = [PlannedBattle("", "", judgments[a], judgments[b]) for a, b in given]

    def fight(some: Sequence[PlannedBattle], *_: int) -> list[Battle]:
        return [given[one.first.judgment_id, one.second.judgment_id] for one in some]

    return run_adaptive_battles(planned, fight, adaptive_z=deviations)


def try_widths(everything: Fought) -> list[Trial]:
    """Evaluate every prediction width on the same battles."""
    wanted, all_weights = (
        pairs_of(everything.fielded, everything.battles),
        compute_position_weights(everything.battles),
    )
    trials = []
    for deviations in DEVIATIONS:
        battles = replay(everything, deviations=deviations)
        pairs = pairs_of(everything.fielded, battles)
        equal = sum(map(tuple.__eq__, pairs, wanted)) / len(wanted)
        moved = compute_position_weights(battles).first - all_weights.first
        trials.append(Trial(deviations, len(battles) / len(everything.battles), equal, moved))
    return trials


@cache
def _simulated(prompts: int, spread: float, seed: int) -> tuple[Trial, ...]:
    return tuple(try_widths(simulate(prompts, spread=spread, seed=seed)))


def row_of(name: str, runs: Sequence[Sequence[Trial]]) -> Row:
    """Compute the ratio of all battles to those run, at the smallest width with 99% equal pairs."""
    chosen = [next(trial for trial in run if trial.equal >= EQUAL_WANTED) for run in runs]
    trial = chosen[len(chosen) // 2]
    saved = 1 - float(np.median([one.fought for one in chosen]))
    note = (
        f"{saved:.0%} of the calls saved at adaptive_z {trial.deviations:g}; pairs equal "
        f"{min(one.equal for one in chosen):.1%} or more; w1 moves by at most "
        f"{max(abs(one.weight_moved) for one in chosen):.4f}"
    )
    return Row(name, "all 110 battles", [1 / one.fought for one in chosen], None, note)


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure simulated judgments of three spreads, then the toy task's meta-judge."""
    for spread in (0.5, 1.5, 3.0):
        runs = [_simulated(1000, spread, seed) for seed in range(1, pairs + 1)]
        yield row_of(f"adaptive battles, simulated, strengths spread by {spread:g} logits", runs)
    runs = [tuple(try_widths(fight_miniature(60, seed=seed))) for seed in range(1, pairs + 1)]
    yield row_of("adaptive battles, the miniature's meta-judge", runs)


def show(title: str, trials: Sequence[Trial]) -> None:
    print(f"\n{title}\n\n| adaptive_z | battles fought | equal pairs | w1 moves by |")
    print("|--:|--:|--:|--:|")
    for one in trials:
        print(f"| {one.deviations:g} | {one.fought:.1%} | {one.equal:.1%} "
              f"| {one.weight_moved:+.4f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--miniature", type=int, default=0, metavar="PROMPTS")
    options = parser.parse_args()
    for spread in (0.5, 1.5, 3.0):
        title = f"Simulated, {options.prompts:,} prompts, strengths spread by {spread:g} logits"
        show(title, try_widths(simulate(options.prompts, spread=spread, seed=options.seed)))
    if options.miniature:
        everything = fight_miniature(options.miniature, seed=options.seed)
        title = f"The miniature, {len(everything.fielded)} responses"
        show(title, try_widths(everything))


if __name__ == "__main__":
    main()
