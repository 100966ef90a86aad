"""What `judge.early_stop_z` saves and costs, and how many battles identical judgments save.

    python benchmarks/adaptive_judging.py                   # simulated
    python benchmarks/adaptive_judging.py --miniature 60    # the real miniature's judge too

All judgments are drawn once; then the code of the method goes through its rounds and is given the
judgments that were drawn. So what differs is what was left out alone. Equal pairs: the same
response is chosen and the same rejected, or neither way has a pair. Same meta-judged: the response
whose judgments battle is the same one.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from miniature_files import miniature_files
from table import Row

from meta_reward_core.method.adaptive_judging import split_into_rounds
from meta_reward_core.method.judging import JudgmentsByResponse, sample_adaptively
from meta_reward_core.method.meta_judging import make_tie_break_rng
from meta_reward_core.method.pairing import (
    ActorPair,
    DropReason,
    score_responses,
    select_actor_pair,
    select_distinct_judgments,
    select_most_varied_response,
)
from meta_reward_core.storage.records import Judgment, Response, ResponseScore

RESPONSES, JUDGMENTS = 7, 11
DEVIATIONS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 100.0)
RHO = 0.32
EQUAL_WANTED = 0.99


@dataclass(frozen=True)
class Drawn:
    """Responses with all their judgments."""

    responses: list[Response]
    judgments: Mapping[str, Sequence[Judgment]]


@dataclass(frozen=True)
class Trial:
    """What one width of the prediction gave; shares of judgments, prompts, prompts."""

    deviations: float
    drawn: float
    equal: float
    same_varied: float


def simulate(prompts: int, *, spread: float, seed: int) -> Drawn:
    """Responses whose true points are spread so far apart, and a judge that errs by 0.8 points."""
    rng = random.Random(seed)
    responses: list[Response] = []
    judgments: dict[str, list[Judgment]] = {}
    for number in range(prompts):
        for sample in range(RESPONSES):
            name, truth = f"p{number}.r{sample}", rng.gauss(3, spread)
            text = "x" * rng.randint(200, 3000)
            responses.append(Response(f"p{number}", name, sample, text, 100, "stop"))
            judgments[name] = [
                _judgment(f"p{number}", name, judged, min(5, max(0, round(rng.gauss(truth, 0.8)))))
                for judged in range(JUDGMENTS)
            ]
    return Drawn(responses, judgments)


def _judgment(prompt: str, response: str, sample: int, points: float) -> Judgment:
    name = f"{response}.j{sample}"
    return Judgment(prompt, response, name, sample, name, float(points), None, 100)


def read_miniature(prompts: int, *, seed: int) -> Drawn:
    """What the miniature's seed model answers and judges."""
    with miniature_files(prompts, stages=("sample", "generate", "judge"), seed=seed) as files:
        by_response: defaultdict[str, list[Judgment]] = defaultdict(list)
        for judgment in files.read_records(Judgment):
            by_response[judgment.response_id].append(judgment)
        return Drawn(files.read_records(Response), by_response)


def replay(everything: Drawn, *, deviations: float, rho: float) -> JudgmentsByResponse:
    """The judgments that would have been drawn."""

    def draw(some: Sequence[Response], first: int, count: int) -> JudgmentsByResponse:
        names = [response.response_id for response in some]
        return {name: everything.judgments[name][first : first + count] for name in names}

    samples = max(map(len, everything.judgments.values()))
    rounds = split_into_rounds(samples, at_least=1)
    return sample_adaptively(
        everything.responses,
        draw,
        rounds=rounds,
        rho=rho,
        early_stop_z=deviations,
        min_valid_judgments=1,
    )


@dataclass(frozen=True)
class Choice:
    """What a prompt's judgments lead to."""

    pair: tuple[str, str] | None
    varied: str | None


def choices(everything: Drawn, judgments: JudgmentsByResponse, *, rho: float) -> list[Choice]:
    """By prompt."""
    flat = [judgment for had in judgments.values() for judgment in had]
    families: defaultdict[str, list[ResponseScore]] = defaultdict(list)
    for score in score_responses(everything.responses, flat):
        families[score.prompt_id].append(score)
    return [_choose(prompt, scores, rho) for prompt, scores in families.items()]


def _choose(prompt: str, scores: Sequence[ResponseScore], rho: float) -> Choice:
    pair = select_actor_pair(scores, rho=rho)
    varied = select_most_varied_response(scores, rng=make_tie_break_rng(1, prompt))
    return Choice(
        (pair.chosen_response_id, pair.rejected_response_id)
        if isinstance(pair, ActorPair)
        else None,
        None if isinstance(varied, DropReason) else varied.response_id,
    )


def try_widths(everything: Drawn, *, rho: float) -> list[Trial]:
    """Every width of the prediction, on the same judgments."""
    wanted = choices(everything, everything.judgments, rho=rho)
    planned = sum(map(len, everything.judgments.values()))
    trials = []
    for deviations in DEVIATIONS:
        judgments = replay(everything, deviations=deviations, rho=rho)
        found = choices(everything, judgments, rho=rho)
        both = list(zip(found, wanted, strict=True))
        trials.append(
            Trial(
                deviations,
                sum(map(len, judgments.values())) / planned,
                sum(one.pair == other.pair for one, other in both) / len(both),
                sum(one.varied == other.varied for one, other in both) / len(both),
            )
        )
    return trials


def battles_without_identical(everything: Drawn) -> tuple[int, int]:
    """Battles of all readable judgments of the meta-judged responses, and of the distinct ones."""
    chosen = [one.varied for one in choices(everything, everything.judgments, rho=RHO)]
    groups = [everything.judgments[name] for name in chosen if name]
    readable = [sum(one.score is not None for one in group) for group in groups]
    distinct = [select_distinct_judgments(group) for group in groups]
    fought = [0 if isinstance(found, DropReason) else len(found) for found in distinct]
    return sum(n * (n - 1) for n in readable), sum(n * (n - 1) for n in fought)


def row_of(name: str, runs: Sequence[Sequence[Trial]]) -> Row:
    """All judgments by those that were drawn, at the least width with 99% equal pairs."""
    chosen = [next(trial for trial in run if trial.equal >= EQUAL_WANTED) for run in runs]
    minimum = min(one.same_varied for one in chosen)
    widths = sorted({one.deviations for one in chosen})
    note = (
        f"at early_stop_z {widths[0]:g} to {widths[-1]:g}; pairs equal "
        f"{min(one.equal for one in chosen):.1%} or more; the same response meta-judged "
        f"{minimum:.1%} or more"
    )
    return Row(name, "all judgments", [1 / one.drawn for one in chosen], None, note)


def measure(*, pairs: int) -> Iterator[Row]:
    """Simulated responses of two spreads, then the miniature's judge."""
    for spread in (0.5, 1.0):
        seeds = range(1, pairs + 1)
        runs = [try_widths(simulate(500, spread=spread, seed=seed), rho=RHO) for seed in seeds]
        yield row_of(f"hopeless responses, simulated, spread by {spread:g} points", runs)
    drawn = [read_miniature(60, seed=seed) for seed in range(1, pairs + 1)]
    runs = [try_widths(one, rho=RHO) for one in drawn]
    yield row_of("hopeless responses, the miniature's judge", runs)
    fought = [battles_without_identical(one) for one in drawn]
    yield Row(
        "identical judgments battle once, the miniature",
        "all readable judgments battle",
        [everything / distinct for everything, distinct in fought],
        None,
        "battles; always on, part of the method",
    )


def show(title: str, trials: Sequence[Trial]) -> None:
    print(f"\n{title}\n\n| early_stop_z | judgments drawn | equal pairs | same meta-judged |")
    print("|--:|--:|--:|--:|")
    for one in trials:
        print(f"| {one.deviations:g} | {one.drawn:.1%} | {one.equal:.1%} | {one.same_varied:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--miniature", type=int, default=0, metavar="PROMPTS")
    options = parser.parse_args()
    for spread in (0.5, 1.0):
        everything = simulate(options.prompts, spread=spread, seed=options.seed)
        for rho in (0.0, RHO):
            title = f"Simulated, {options.prompts:,} prompts, spread {spread:g}, rho {rho:g}"
            show(title, try_widths(everything, rho=rho))
    if options.miniature:
        everything = read_miniature(options.miniature, seed=options.seed)
        for rho in (0.0, RHO):
            show(f"The miniature, {options.miniature} prompts, rho {rho:g}",
                 try_widths(everything, rho=rho))  # fmt: skip
        battles, distinct = battles_without_identical(everything)
        print(f"\n{battles:,} battles of all readable judgments, {distinct:,} of distinct ones")


if __name__ == "__main__":
    main()
