"""Populations of pairs whose truth is known, and batches drawn from them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meta_reward_core.audit.estimates import Estimate
from meta_reward_core.audit.frames import Frame, in_sample, pool_frames
from meta_reward_core.audit.pair_findings import AuditedPair, estimate_decided_agreement
from meta_reward_core.audit.sampling import draw_sample
from meta_reward_core.audit.units import JudgedPair, Outcome, Unit, describe_pairs
from meta_reward_core.records import Judgment


@dataclass(frozen=True, slots=True)
class World:
    """Pairs that a meta-judge compared, and what people would answer to each."""

    pairs: Mapping[str, JudgedPair]
    people: Mapping[str, Outcome]
    units: Sequence[Unit]

    @property
    def accuracy(self) -> float:
        """Share of all decided verdicts that name people's winner, ties of people left out."""
        right, counted = 0, 0
        for key, pair in self.pairs.items():
            truth = self.people[key]
            decided = [won for won in (pair.forward, pair.backward) if won in ("first", "second")]
            if truth != "tie":
                right += sum(won == truth for won in decided)
                counted += len(decided)
        return right / counted


def simulate(count: int, *, accuracy: float, seed: int) -> World:
    """A meta-judge that is right more often where scores are far apart, and leans to the front."""
    rng = random.Random(seed)
    pairs: dict[str, JudgedPair] = {}
    people: dict[str, Outcome] = {}
    for number in range(count):
        first, second = (_judgment(rng, number, side) for side in "ab")
        truth: Outcome = rng.choices(("first", "second", "tie"), (45, 45, 10))[0]
        gap = abs((first.score or 0.0) - (second.score or 0.0))
        sure = min(0.99, accuracy + 0.08 * (gap - 1))
        leans = rng.random() < 0.15
        forward, backward = (
            "first" if leans else _verdict(rng, truth, sure),
            "second" if leans else _verdict(rng, truth, sure),
        )
        pair = JudgedPair(
            first, second, forward, backward, rng.gauss(0, 1), rng.gauss(0, 1), number % 5 == 0
        )
        pairs[pair.key] = pair
        people[pair.key] = truth
    return World(pairs, people, describe_pairs(pairs.values()))


def _judgment(rng: random.Random, number: int, side: str) -> Judgment:
    text = "word " * rng.randint(3, 40)
    score = float(rng.randint(0, 5))
    return Judgment(f"p{number}", f"p{number}.0", f"p{number}.0.{side}", 0, text, score, None, 1)


def _verdict(rng: random.Random, truth: Outcome, sure: float) -> Outcome | None:
    if rng.random() < 0.03:
        return None
    if truth == "tie":
        return rng.choice(("first", "second", "tie"))
    other: Outcome = "second" if truth == "first" else "first"
    return truth if rng.random() < sure else other


def audit(world: World, *, strategy: str, size: int, seed: int, answered: float = 1.0) -> Estimate:
    """Draw a batch, answer it as people would, and estimate the meta-judge's accuracy."""
    rng = random.Random(seed)
    sample = draw_sample(world.units, strategy=strategy, size=size, rng=rng)
    given = sample.drawn[: round(answered * len(sample.drawn))]
    rows = [_answered(world.pairs[drawn.key], drawn.stratum, world.people) for drawn in given]
    frame = Frame({stratum.name: stratum.population for stratum in sample.strata})
    return estimate_decided_agreement(rows, frame, confidence=0.95)


def audit_twice(world: World, *, strategies: tuple[str, str], size: int, seed: int) -> Estimate:
    """Draw a batch by each strategy, the second half as large, and pool what people answer."""
    rows: list[AuditedPair] = []
    frames: dict[str, Frame] = {}
    answers: dict[str, int] = {}
    for number, strategy in enumerate(strategies):
        name, rng = f"batch {number}", random.Random(f"{seed} {number}")
        sample = draw_sample(world.units, strategy=strategy, size=size // (1 + number), rng=rng)
        frames[name] = Frame({stratum.name: stratum.population for stratum in sample.strata})
        answers[name] = len(sample.drawn)
        rows += [
            _answered(world.pairs[drawn.key], in_sample(name, drawn.stratum), world.people)
            for drawn in sample.drawn
        ]
    return estimate_decided_agreement(rows, pool_frames(frames, answers), confidence=0.95)


def _answered(pair: JudgedPair, stratum: str, people: Mapping[str, Outcome]) -> AuditedPair:
    return AuditedPair(
        stratum, people[pair.key], pair.forward, pair.backward, None, None, "first", {}
    )


def coverage(
    world: World, *, strategy: str, size: int, runs: Sequence[int], answered: float = 1.0
) -> float:
    """Share of batches whose interval holds the true accuracy."""
    found = [
        audit(world, strategy=strategy, size=size, seed=seed, answered=answered) for seed in runs
    ]
    return share_that_holds(world, found)


def share_that_holds(world: World, found: Sequence[Estimate]) -> float:
    """Share of estimates whose interval holds the true accuracy."""
    held = [
        one.low is not None and one.high is not None and one.low <= world.accuracy <= one.high
        for one in found
    ]
    return sum(held) / len(held)
