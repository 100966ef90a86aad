"""True quality of toy-task models, by the oracle, on held-out items.

Only the evaluation stage and the gate of base models use this, never a step that trains or selects.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from meta_reward_core.tasks.protocol import ItemResult
from meta_reward_core.tasks.toy import ground_truth, task
from meta_reward_core.tasks.toy.win_rates import make_baseline_responses, measure_wins, score_win

HELD_OUT_SEED = 20_240_719
"""Seed of the held-out items, which are the same for every model, experiment and seed."""

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
) -> list[Measurement | ItemResult]:
    """Measure a model in its three roles.

    Returns:
        Measurements with the basis `oracle`, and the win rate also by the model's own judge; then
        the results on each held-out item. The items are the same for every model, so that changes
        between models can be paired.
    """
    seeded = partial(derive_seed, seed, "oracle")
    instructions = task.sample_held_out_prompts(prompts, seed=HELD_OUT_SEED)
    answers = _generate_responses(engine, instructions, actor, seed=seeded("actor"))
    greedy = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=actor.max_new_tokens)
    most_likely = _generate_responses(engine, instructions, greedy, seed=seeded("actor"))
    baseline = make_baseline_responses(instructions, seed=HELD_OUT_SEED)
    wins = measure_wins(
        engine,
        instructions,
        answers,
        baseline,
        judgments=judgments,
        sampling=judge,
        template=judge_template,
        seed=seeded("wins"),
        readout=score_readout,
    )
    judged = judge_held_out_items(
        engine,
        items=judge_items,
        judgments=judgments,
        sampling=judge,
        template=judge_template,
        seed=seeded("judge"),
        readout=score_readout,
    )
    verdicts = compare_held_out_judgments(
        engine,
        comparisons=comparisons,
        sampling=meta_judge,
        template=meta_judge_template,
        seed=seeded("meta-judge"),
        readout=verdict_readout,
    )
    return [
        *(
            Measurement(model, "actor", *metric, "oracle")
            for metric in _measure_actor(instructions, answers, most_likely)
        ),
        *(Measurement(model, "actor", *metric) for metric in wins),
        *(Measurement(model, "judge", *metric, "oracle") for metric in _measure_judged(judged)),
        *(
            Measurement(model, "meta_judge", *metric, "oracle")
            for metric in _measure_verdicts(verdicts)
        ),
        *_list_actor_items(instructions, answers, most_likely, baseline),
        *_list_judge_items(judged),
        *_list_items("meta_judge.accuracy", enumerate(map(float, verdicts.right))),
    ]


def _list_items(metric: str, values: Iterable[tuple[int, float]]) -> list[ItemResult]:
    return [ItemResult(str(item), str(item), metric, 0, value) for item, value in values]


def _list_actor_items(
    instructions: Sequence[str],
    answers: Sequence[str],
    most_likely: Sequence[str],
    baseline: Sequence[str],
) -> list[ItemResult]:
    quality = list(map(ground_truth.compute_true_quality, instructions, answers))
    of_most_likely = map(ground_truth.compute_true_quality, instructions, most_likely)
    of_baseline = map(ground_truth.compute_true_quality, instructions, baseline)
    wins = (100 * score_win(*pair) for pair in zip(quality, of_baseline, strict=True))
    return [
        *_list_items("actor.true_quality", enumerate(quality)),
        *_list_items("actor.true_quality_greedy", enumerate(of_most_likely)),
        *_list_items("actor.win_rate", enumerate(wins)),
        *_list_items("actor.length_chars", enumerate(map(float, map(len, answers)))),
    ]


def _list_judge_items(judged: "JudgedItems") -> list[ItemResult]:
    """Share of exact judgments of an item, and of correct orders relative to other items."""
    exact: dict[int, list[float]] = {item: [] for item in range(len(judged.quality))}
    for judgment in judged.judgments:
        item = int(judgment.response_id)
        exact[item].append(float(judgment.score == judged.quality[item]))
    shares: dict[int, list[float]] = {}
    for a, b, agrees in judged.iter_ordered_pairs():
        shares.setdefault(a, []).append(agrees)
        shares.setdefault(b, []).append(agrees)
    return [
        *_list_items(
            "judge.single_judgment_exact",
            ((item, fmean(found)) for item, found in exact.items() if found),
        ),
        *_list_items(
            "judge.order_agreement", ((item, fmean(shares[item])) for item in sorted(shares))
        ),
        *_list_filler_items(judged),
    ]


def _list_filler_items(judged: "JudgedItems") -> list[ItemResult]:
    """Linearized contribution of each item to the slope of the score's error over ten words.

    Their mean is the slope, and the variance of their mean is that of the slope (White 1980,
    Econometrica 48).
    """
    lengths, errors = judged.list_errors()
    if len(set(lengths)) < 2 or len(set(judged.compute_means().values())) < 2:
        return []
    words, off = np.array(lengths, dtype=float), np.array(errors)
    centered = words - words.mean()
    slope = float(centered @ off / (centered @ centered))
    residuals = off - off.mean() - slope * centered
    own = 10 * (slope + len(words) * centered * residuals / (centered @ centered))
    return _list_items(
        "judge.points_per_10_words", zip(judged.compute_means(), own.tolist(), strict=True)
    )


def _measure_actor(
    instructions: Sequence[str], sampled: Sequence[str], most_likely: Sequence[str]
) -> MetricRows:
    for name, answers in (("true_quality", sampled), ("true_quality_greedy", most_likely)):
        qualities = map(ground_truth.compute_true_quality, instructions, answers)
        yield name, fmean(qualities), len(instructions)
    yield "length_chars", fmean(map(len, sampled)), len(instructions)
    yield "length_words", fmean(len(answer.split()) for answer in sampled), len(instructions)


def _generate_responses(
    engine: Engine, instructions: Sequence[str], sampling: SamplingParams, *, seed: int
) -> list[str]:
    asked = [
        build_actor_conversation(instruction, system_prompt=None) for instruction in instructions
    ]
    return [c[0].text for c in engine.sample(asked, 1, sampling=sampling, seed=seed)]


@dataclass(frozen=True, slots=True)
class JudgedItems:
    """Held-out responses of known quality and the judgments of them.

    Attributes:
        quality: true quality of each item.
        words: length of each item.
        judgments: judgments of the items; `response_id` is the number of the item.
    """

    quality: Sequence[float]
    words: Sequence[int]
    judgments: Sequence[Judgment]

    def compute_means(self) -> dict[int, float]:
        """Mean score of each item that has a scored judgment."""
        by_item: dict[int, list[float]] = {}
        for judgment in self.judgments:
            if judgment.score is not None:
                by_item.setdefault(int(judgment.response_id), []).append(judgment.score)
        return {item: fmean(scores) for item, scores in by_item.items()}

    def list_errors(self) -> tuple[list[int], list[float]]:
        """Number of words of each item with a score, and its mean score minus its quality."""
        means = self.compute_means()
        return (
            [self.words[item] for item in means],
            [mean - self.quality[item] for item, mean in means.items()],
        )

    def iter_ordered_pairs(self) -> Iterator[tuple[int, int, float]]:
        """Yield pairs of items of different quality, with 1 if mean scores order them correctly."""
        means, truth = self.compute_means(), self.quality
        for a, b in combinations(means, 2):
            if truth[a] != truth[b]:
                yield a, b, float((means[a] - means[b]) * (truth[a] - truth[b]) > 0)


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
        (metric, value, count): share of exact judgments, share of readable judgments, order
        agreement and Spearman correlation of mean scores with the true quality, the mean score, and
        the change of the score for ten words of filler.
    """
    return _measure_judged(
        judge_held_out_items(
            engine,
            items=items,
            judgments=judgments,
            sampling=sampling,
            template=template,
            seed=seed,
            readout=readout,
        )
    )


def judge_held_out_items(
    engine: Engine,
    *,
    items: int,
    judgments: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: Readout = "free",
) -> JudgedItems:
    """Judge responses of known quality and of all lengths."""
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
    quality = [quality for _, _, quality in held_out]
    return JudgedItems(quality, [len(item[1].split()) for item in held_out], made)


def _measure_judged(judged: JudgedItems) -> MetricRows:
    made = judged.judgments
    scored = [judgment for judgment in made if judgment.score is not None]
    exact = sum(judgment.score == judged.quality[int(judgment.response_id)] for judgment in scored)
    yield "single_judgment_exact", exact / len(made), len(made)
    yield "parse_rate", len(scored) / len(made), len(made)
    yield (
        "mean_score",
        _compute_mean_or_none([_require_score(judgment) for judgment in scored]),
        len(scored),
    )
    yield from _measure_means(judged)


def _measure_means(judged: JudgedItems) -> MetricRows:
    means, truth = judged.compute_means(), judged.quality
    ordered = [agrees for _, _, agrees in judged.iter_ordered_pairs()]
    yield "order_agreement", _compute_mean_or_none(ordered), len(ordered)
    from scipy.stats import spearmanr  # a third of the start-up time of commands

    given = list(means.values())
    true = [truth[item] for item in means]
    yield (
        "spearman",
        _compute_unless_constant(lambda: spearmanr(given, true).statistic, given),
        len(given),
    )
    lengths, errors = judged.list_errors()
    slope = _compute_unless_constant(lambda: 10 * np.polyfit(lengths, errors, 1)[0], given)
    yield "points_per_10_words", slope, len(given)


@dataclass(frozen=True, slots=True)
class HeldOutVerdicts:
    """Verdicts on pairs of judgments in which one judgment is better by the ground truth.

    Attributes:
        right: whether each verdict is correct.
        better: position of the better judgment.
    """

    right: Sequence[bool]
    better: Sequence[str]


def measure_meta_judge(
    engine: Engine,
    *,
    comparisons: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: VerdictReadout = "free",
) -> MetricRows:
    """Measure the meta-judge on pairs of judgments in which the better judgment is known.

    Yields:
        (metric, value, count): accuracy; and accuracy if the better judgment is shown first, and if
        it is shown second. An unreadable verdict counts as wrong.
    """
    return _measure_verdicts(
        compare_held_out_judgments(
            engine,
            comparisons=comparisons,
            sampling=sampling,
            template=template,
            seed=seed,
            readout=readout,
        )
    )


def compare_held_out_judgments(
    engine: Engine,
    *,
    comparisons: int,
    sampling: SamplingParams,
    template: PromptTemplate,
    seed: int,
    readout: VerdictReadout = "free",
) -> HeldOutVerdicts:
    """Compare pairs of judgments in which one judgment is better by the ground truth."""
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
    return HeldOutVerdicts(
        [battle.verdict == row.better for battle, row in zip(battles, rows, strict=True)],
        [row.better for row in rows],
    )


def _measure_verdicts(verdicts: HeldOutVerdicts) -> MetricRows:
    right, places = verdicts.right, verdicts.better
    yield "accuracy", fmean(right), len(right)
    for position, name in (("A", "accuracy_better_first"), ("B", "accuracy_better_second")):
        subset = [hit for hit, place in zip(right, places, strict=True) if place == position]
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
