"""True quality of toy-task models, by the oracle, on held-out items.

Only the evaluation stage and the seed's gate call this; no step that trains or selects does.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from statistics import fmean

import numpy as np

from meta_reward_core.engines.base import Engine, SamplingParams
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.evaluation.scorecard import Measurement
from meta_reward_core.method.generation import build_actor_conversation
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.meta_judging import PlannedBattle, run_battles
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Readout, Response, VerdictReadout
from meta_reward_core.tasks.toy import ground_truth, task
from meta_reward_core.tasks.toy.win_rates import make_baseline_responses, measure_wins

HELD_OUT_SEED = 20_240_719
"""The held-out items are the same for every model, experiment and seed."""

MetricRows = Iterator[tuple[str, float | None, int]]


def measure_model(
    engine: Engine,
    model: str,
    *,
    prompts: int,
    judge_items: int,
    judgments: int,
    comparisons: int,
    actor: SamplingParams,
    judge: SamplingParams,
    meta_judge: SamplingParams,
    judge_template: PromptTemplate,
    meta_judge_template: PromptTemplate,
    seed: int,
    score_readout: Readout = "free",
    verdict_readout: VerdictReadout = "free",
) -> list[Measurement]:
    """Measure a model in its three roles.

    Returns:
        Measurements whose basis is `oracle`; of the win rate also by the model's own judge.
    """
    seeded = partial(derive_seed, seed, "oracle")
    instructions = task.sample_held_out_prompts(prompts, seed=HELD_OUT_SEED)
    answers = _generate_responses(engine, instructions, actor, seed=seeded("actor"))
    actor_metrics = _measure_actor(engine, instructions, answers, actor, seed=seeded("actor"))
    wins = measure_wins(
        engine,
        instructions,
        answers,
        make_baseline_responses(instructions, seed=HELD_OUT_SEED),
        judgments=judgments,
        sampling=judge,
        template=judge_template,
        seed=seeded("wins"),
        readout=score_readout,
    )
    judge_metrics = measure_judge(
        engine,
        items=judge_items,
        judgments=judgments,
        sampling=judge,
        template=judge_template,
        seed=seeded("judge"),
        readout=score_readout,
    )
    meta_judge_metrics = measure_meta_judge(
        engine,
        comparisons=comparisons,
        sampling=meta_judge,
        template=meta_judge_template,
        seed=seeded("meta-judge"),
        readout=verdict_readout,
    )
    return [
        *(Measurement(model, "actor", *metric, "oracle") for metric in actor_metrics),
        *(Measurement(model, "actor", *metric) for metric in wins),
        *(Measurement(model, "judge", *metric, "oracle") for metric in judge_metrics),
        *(Measurement(model, "meta_judge", *metric, "oracle") for metric in meta_judge_metrics),
    ]


def _measure_actor(
    engine: Engine,
    instructions: Sequence[str],
    drawn: Sequence[str],
    sampling: SamplingParams,
    *,
    seed: int,
) -> MetricRows:
    greedy = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=sampling.max_new_tokens)
    most_likely = _generate_responses(engine, instructions, greedy, seed=seed)
    for name, answers in (("true_quality", drawn), ("true_quality_greedy", most_likely)):
        qualities = map(ground_truth.compute_true_quality, instructions, answers)
        yield name, fmean(qualities), len(instructions)
    yield "length_chars", fmean(map(len, drawn)), len(instructions)
    yield "length_words", fmean(len(answer.split()) for answer in drawn), len(instructions)


def _generate_responses(
    engine: Engine, instructions: Sequence[str], sampling: SamplingParams, *, seed: int
) -> list[str]:
    asked = [
        build_actor_conversation(instruction, system_prompt=None) for instruction in instructions
    ]
    return [c[0].text for c in engine.sample(asked, 1, sampling=sampling, seed=seed)]


def measure_judge(
    engine: Engine,
    *,
    items: int,
    judgments: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: Readout = "free",
) -> MetricRows:
    """Measure the judge on responses of known quality and of all lengths.

    Yields:
        (metric, value, count): how often a single judgment is exact, the share that can be read,
        order agreement and Spearman correlation of mean scores with the truth, the mean score,
        and how many points ten words of filler are worth to it.
    """
    held_out = task.sample_held_out_judge_items(items, seed=HELD_OUT_SEED)
    asked = [
        Response(str(index), str(index), 0, response, 0, "stop")
        for index, (_, response, _) in enumerate(held_out)
    ]
    made, _ = judge_responses(
        asked,
        engine,
        instructions={str(index): item[0] for index, item in enumerate(held_out)},
        template=template,
        rubric="",
        samples=judgments,
        sampling=sampling,
        seed=seed,
        readout=readout,
    )
    truth = [quality for _, _, quality in held_out]
    scored = [judgment for judgment in made if judgment.score is not None]
    exact = sum(judgment.score == truth[int(judgment.response_id)] for judgment in scored)
    yield "single_judgment_exact", exact / len(made), len(made)
    yield "parse_rate", len(scored) / len(made), len(made)
    yield (
        "mean_score",
        _compute_mean_or_none([_require_score(judgment) for judgment in scored]),
        len(scored),
    )
    yield from _measure_means(scored, truth, [len(item[1].split()) for item in held_out])


def _measure_means(
    scored: Sequence[Judgment], truth: Sequence[float], words: Sequence[int]
) -> MetricRows:
    by_item: dict[int, list[float]] = {}
    for judgment in scored:
        by_item.setdefault(int(judgment.response_id), []).append(_require_score(judgment))
    means = {item: fmean(scores) for item, scores in by_item.items()}
    ordered = [
        (means[a] - means[b]) * (truth[a] - truth[b])
        for a, b in combinations(means, 2)
        if truth[a] != truth[b]
    ]
    agreement = _compute_mean_or_none([float(product > 0) for product in ordered])
    yield "order_agreement", agreement, len(ordered)
    from scipy.stats import spearmanr  # a third of the start-up time of commands

    given = list(means.values())
    true = [truth[item] for item in means]
    yield (
        "spearman",
        _compute_unless_constant(lambda: spearmanr(given, true).statistic, given),
        len(given),
    )
    errors = [mean - truth[item] for item, mean in means.items()]
    lengths = [words[item] for item in means]
    slope = _compute_unless_constant(lambda: 10 * np.polyfit(lengths, errors, 1)[0], given)
    yield "points_per_10_words", slope, len(given)


def measure_meta_judge(
    engine: Engine,
    *,
    comparisons: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: VerdictReadout = "free",
) -> MetricRows:
    """Measure the meta-judge on pairs of judgments with a known better one.

    Yields:
        (metric, value, count): accuracy, and accuracy where the better one stands first and
        where it stands second; an unreadable verdict is not a right one.
    """
    rows = list(task.generate_gate_comparisons(comparisons, seed=HELD_OUT_SEED))
    battles, _ = run_battles(
        [
            PlannedBattle(
                row.instruction,
                row.response,
                _make_judgment(index, "a", row.judgment_a),
                _make_judgment(index, "b", row.judgment_b),
            )
            for index, row in enumerate(rows)
        ],
        engine,
        template=template,
        rubric="",
        hide_score_line=False,
        sampling=sampling,
        seed=seed,
        readout=readout,
    )
    right = [battle.verdict == row.better for battle, row in zip(battles, rows, strict=True)]
    yield "accuracy", fmean(right), len(right)
    for position, name in (("A", "accuracy_better_first"), ("B", "accuracy_better_second")):
        subset = [hit for hit, row in zip(right, rows, strict=True) if row.better == position]
        yield name, _compute_mean_or_none([float(hit) for hit in subset]), len(subset)


def _make_judgment(index: int, side: str, text: str) -> Judgment:
    return Judgment(str(index), str(index), f"{index}.{side}", 0, text, 0.0, None, 0)


def _require_score(judgment: Judgment) -> float:
    if judgment.score is None:
        raise ValueError(f"judgment {judgment.judgment_id} has no score")
    return judgment.score


def _compute_mean_or_none(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _compute_unless_constant(compute: Callable[[], float], given: Sequence[float]) -> float | None:
    """Compute a correlation or slope; None for constants."""
    return float(compute()) if len(set(given)) > 1 else None
