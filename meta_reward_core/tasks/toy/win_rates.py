"""The toy task's Table 1: win rates against fixed responses, by ground truth and own judge.

The baseline's responses are sampled once from the distribution that the seed model's actor was
taught: the same texts for every model, experiment and seed, like AlpacaEval's baseline. The win
rate by the ground truth measures the gain of the loop; the win rate by the model's own judge is
what a loop without an external judge would report. Both are shown, so that a self-flattering judge
is visible.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from meta_reward_core.engines.base import Engine, SamplingParams
from meta_reward_core.evaluation.length_controlled_win_rate import compute_length_controlled_rate
from meta_reward_core.evaluation.scorecard import Basis
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Readout, Response
from meta_reward_core.tasks.toy import ground_truth, task

WinRateRow = tuple[str, float | None, int, Basis]


def make_baseline_responses(instructions: Sequence[str], *, seed: int) -> list[str]:
    """Build responses as the seed's actor learns them, with misconceptions and phrases."""
    rng = random.Random(seed)
    return [task.draft_actor_response(rng, instruction).response for instruction in instructions]


def measure_wins(
    engine: Engine,
    instructions: Sequence[str],
    answers: Sequence[str],
    baseline: Sequence[str],
    *,
    judgments: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: Readout = "free",
) -> Iterator[WinRateRow]:
    """Compare responses with the baseline's, by ground truth and by the engine's own judge.

    Yields:
        (metric, percent, count, basis): `win_rate`, and the win rate at equal length and by
        language. A tie counts as half a win. A prompt whose two responses were not both scored is
        excluded from the self-judged metrics.
    """
    true = {
        number: score_win(*(ground_truth.compute_true_quality(instruction, text) for text in pair))
        for number, (instruction, *pair) in enumerate(
            zip(instructions, answers, baseline, strict=True)
        )
    }
    made, _ = judge_responses(
        [
            Response(str(number), f"{number}.{side}", 0, text, 0, "stop")
            for number, pair in enumerate(zip(answers, baseline, strict=True))
            for side, text in zip("mb", pair, strict=True)
        ],
        engine,
        instructions={str(number): text for number, text in enumerate(instructions)},
        template=template,
        rubric="",
        samples=judgments,
        sampling=sampling,
        seed=seed,
        readout=readout,
    )
    scores: dict[str, list[float]] = {}
    for judgment in made:
        if judgment.score is not None:
            scores.setdefault(judgment.response_id, []).append(judgment.score)
    judged = {
        number: score_win(fmean(scores[f"{number}.m"]), fmean(scores[f"{number}.b"]))
        for number in range(len(answers))
        if f"{number}.m" in scores and f"{number}.b" in scores
    }
    shown: tuple[tuple[Basis, Mapping[int, float]], ...] = (
        ("oracle", true),
        ("self_judged", judged),
    )
    for basis, shares in shown:
        for name, value, count in _compute_rates(shares, instructions, answers, baseline):
            yield name, value, count, basis


def score_win(model: float, baseline: float) -> float:
    """Return 1 for a win of the model, 0 for a loss, 0.5 for a tie."""
    return 0.5 if model == baseline else float(model > baseline)


def _compute_rates(
    shares: Mapping[int, float],
    instructions: Sequence[str],
    answers: Sequence[str],
    baseline: Sequence[str],
) -> Iterator[tuple[str, float | None, int]]:
    if not shares:
        yield "win_rate", None, 0
        return
    yield "win_rate", 100 * fmean(shares.values()), len(shares)
    controlled = compute_length_controlled_rate(
        np.array(list(shares.values())),
        baseline_chars=np.array([float(len(baseline[number])) for number in shares]),
        model_chars=np.array([float(len(answers[number])) for number in shares]),
        difficulty=None,
        rounds=2,
        seed=0,
    )
    # If the lasso removes every difference, its rate is always 50. The unpenalised regression is
    # used then, so that means over seeds include the runs in which the model equals the baseline.
    rate = controlled.unpenalised if controlled.rate is None else controlled.rate
    yield "length_controlled_win_rate", rate, len(shares)
    by_language: dict[str, list[float]] = {}
    for number, share in shares.items():
        by_language.setdefault(_get_language(instructions[number]), []).append(share)
    for language in task.LANGUAGES:
        won = by_language.get(language, [])
        yield f"win_rate.{language}", 100 * fmean(won) if won else None, len(won)


def _get_language(instruction: str) -> str:
    parsed = task.parse_instruction(instruction)
    return parsed[0] if parsed is not None else ""
