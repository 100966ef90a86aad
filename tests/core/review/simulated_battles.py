"""Populations of pairs and of responses whose truth is known, and batches drawn from them."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meta_reward_core.review.judge_results import AuditedResponse, estimate_judge_results
from meta_reward_core.review.meta_judge_results import (
    AuditedPair,
    MetaJudgeResults,
    Winner,
    estimate_decided_agreement,
    estimate_meta_judge_results,
)
from meta_reward_core.review.sampling_units import (
    JudgedPair,
    Outcome,
    SamplingUnit,
    ScoredResponse,
    build_pair_units,
    build_response_units,
)
from meta_reward_core.review.stratified_estimators import Estimate
from meta_reward_core.review.stratified_sampling import (
    SamplingFrame,
    name_sample_stratum,
    pool_frames,
    sample_items,
)
from meta_reward_core.storage.records import Judgment, ResponseScore

Figures = Mapping[str, Estimate]

DRAWN_BY_IT = ("position", "the one shown first wins, by meta-judge")
"""Strata that say themselves what is asked: nothing varies, and the interval may only be wide."""


@dataclass(frozen=True, slots=True)
class World:
    """Pairs that a meta-judge compared, and what people would answer to each."""

    pairs: Mapping[str, JudgedPair]
    people: Mapping[str, Outcome]
    units: Sequence[SamplingUnit]

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

    def answered(self, key: str, stratum: str) -> AuditedPair:
        """A pair with people's answer to it."""
        pair = self.pairs[key]
        return AuditedPair(
            stratum=stratum,
            human=self.people[key],
            forward=pair.forward,
            backward=pair.backward,
            higher_score=_larger(pair.first.score, pair.second.score),
            longer=_larger(len(pair.first.text), len(pair.second.text)),
            higher_elo=_larger(pair.elo_first, pair.elo_second),
            shown_left="first" if len(key + pair.first.text) % 2 else "second",
            groups={},
        )

    def find(self, rows: Sequence[AuditedPair], frame: SamplingFrame) -> Figures:
        """Every figure of answered pairs, by name."""
        return pair_figures(estimate_meta_judge_results(rows, frame))


def _larger(first: float | None, second: float | None) -> Winner | None:
    if first is None or second is None or first == second:
        return None
    return "first" if first > second else "second"


def pair_figures(found: MetaJudgeResults) -> Figures:
    """Every figure of a meta-judge that has an interval, by name."""
    biases = {
        f"{bias.name}, by {who}": estimate
        for bias in found.biases
        for who, estimate in (("meta-judge", bias.meta_judge), ("people", bias.people))
    }
    return {
        "agreement without ties": found.agreement_decided,
        "agreement with ties": found.agreement,
        "Elo names the winner": found.elo,
        "kappa": found.kappa,
    } | biases


@dataclass(frozen=True, slots=True)
class ScoredWorld:
    """Responses that a judge scored, and the points that people would give to each."""

    scores: Mapping[str, ResponseScore]
    people: Mapping[str, float]
    units: Sequence[SamplingUnit]

    def answered(self, key: str, stratum: str) -> AuditedResponse:
        """A response with people's points."""
        return AuditedResponse(stratum, self.people[key], self.scores[key].mean or 0.0, {})

    def find(self, rows: Sequence[AuditedResponse], frame: SamplingFrame) -> Figures:
        """Every figure of answered responses, by name."""
        found = estimate_judge_results(rows, frame)
        return {
            "people less judge": found.difference,
            "Spearman": found.spearman,
            "Kendall": found.kendall,
        }


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
        elo_first, elo_second = (
            sum(0.5 for won in (forward, backward) if won == side) + rng.gauss(0, 1)
            for side in ("first", "second")
        )
        pair = JudgedPair(first, second, forward, backward, elo_first, elo_second, number % 5 == 0)
        pairs[pair.key] = pair
        people[pair.key] = truth
    return World(pairs, people, build_pair_units(pairs.values()))


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


def simulate_responses(count: int, *, noise: float, seed: int) -> ScoredWorld:
    """A judge that is too generous to long responses, and of whom people differ by some noise."""
    rng = random.Random(seed)
    scores: dict[str, ResponseScore] = {}
    people: dict[str, float] = {}
    for number in range(count):
        quality, length = rng.gauss(2.8, 1.1), rng.randint(80, 900)
        noisy = [quality + length / 1500 + rng.gauss(0, 0.7) for _ in range(5)]
        points = [float(min(5, max(0, round(one)))) for one in noisy]
        mean = sum(points) / len(points)
        variance = sum((one - mean) ** 2 for one in points) / len(points)
        key = f"p{number}.0"
        scores[key] = ResponseScore(f"p{number}", key, 0, 5, mean, variance, length, 20, "stop")
        people[key] = float(min(5, max(0, round(quality + rng.gauss(0, noise)))))
    units = build_response_units(
        ScoredResponse(score, number % 4 == 0) for number, score in enumerate(scores.values())
    )
    return ScoredWorld(scores, people, units)


def find_truth(world: World | ScoredWorld) -> dict[str, float]:
    """Every figure, by name, where everything is answered."""
    rows = [world.answered(unit.key, "all") for unit in world.units]
    found = world.find(rows, SamplingFrame({"all": len(rows)}))  # type: ignore[arg-type]
    return {name: estimate.value for name, estimate in found.items() if estimate.value is not None}


def coverages(
    world: World | ScoredWorld, *, strategy: str, size: int, runs: Iterable[int]
) -> dict[str, float]:
    """For each figure the share of batches whose interval holds its truth."""
    truth = find_truth(world)
    held: Counter[str] = Counter()
    count = 0
    for seed in runs:
        sample = sample_items(world.units, strategy=strategy, size=size, rng=random.Random(seed))
        rows = [world.answered(item.key, item.stratum) for item in sample.items]
        frame = SamplingFrame({stratum.name: stratum.population for stratum in sample.strata})
        found = world.find(rows, frame)  # type: ignore[arg-type]
        held.update(name for name, value in truth.items() if holds(found[name], value))
        count += 1
    return {name: held[name] / count for name in truth}


def holds(found: Estimate, truth: float) -> bool:
    """Whether an interval holds a truth; without an interval it does not."""
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def audit(world: World, *, strategy: str, size: int, seed: int, answered: float = 1.0) -> Estimate:
    """Draw a batch, answer it as people would, and estimate the meta-judge's accuracy."""
    rng = random.Random(seed)
    sample = sample_items(world.units, strategy=strategy, size=size, rng=rng)
    given = sample.items[: round(answered * len(sample.items))]
    rows = [world.answered(item.key, item.stratum) for item in given]
    frame = SamplingFrame({stratum.name: stratum.population for stratum in sample.strata})
    return estimate_decided_agreement(rows, frame, confidence=0.95)


def audit_twice(world: World, *, strategies: tuple[str, str], size: int, seed: int) -> Estimate:
    """Draw a batch by each strategy, the second half as large, and pool what people answer."""
    rows: list[AuditedPair] = []
    frames: dict[str, SamplingFrame] = {}
    answers: dict[str, int] = {}
    for number, strategy in enumerate(strategies):
        name, rng = f"batch {number}", random.Random(f"{seed} {number}")
        sample = sample_items(world.units, strategy=strategy, size=size // (1 + number), rng=rng)
        frames[name] = SamplingFrame(
            {stratum.name: stratum.population for stratum in sample.strata}
        )
        answers[name] = len(sample.items)
        rows += [
            world.answered(item.key, name_sample_stratum(name, item.stratum))
            for item in sample.items
        ]
    return estimate_decided_agreement(rows, pool_frames(frames, answers), confidence=0.95)


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
    return sum(holds(one, world.accuracy) for one in found) / len(found)
