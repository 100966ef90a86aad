"""Metrics by which arms are compared, with intervals from one run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.evaluation.confidence_intervals import (
    Z_95,
    Interval,
    compute_bounded_mean_interval,
)
from meta_reward_core.evaluation.scorecard import Basis
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun
from meta_reward_core.reporting.seed_statistics import Key, SeedEstimate, estimate_over_seeds

_MIN_CORRELATION_ITEMS: Final = 5


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric of M_t.

    Attributes:
        bounds: lowest and highest possible value of the metric; None if unbounded.
        items: number of independent items behind the metric, so that items of one prompt count
            once: `count` unchanged, or the recipe's judged held-out responses. `none`: a single run
            has no interval.
    """

    title: str
    subject: str
    metric: str
    basis: Basis = "oracle"
    decimals: int = 3
    bounds: tuple[float, float] | None = None
    items: Literal["count", "judge_items", "none"] = "count"

    def get_value(self, run: ExperimentRun, number: int) -> float | None:
        """Return the metric of M_number of a run."""
        return run.get_metric(number, self.subject, self.metric, self.basis)[0]

    def compute_interval(self, run: ExperimentRun, number: int) -> Interval | None:
        """Compute the 95% interval over items for one run."""
        value, count = run.get_metric(number, self.subject, self.metric, self.basis)
        if self.items == "judge_items":
            count = min(count, run.recipe.evaluation.judge_items)
        if value is None or self.bounds is None or not count or self.items == "none":
            return None
        if self.metric == "spearman":
            return _compute_correlation_interval(value, count)
        lowest, highest = self.bounds
        return compute_bounded_mean_interval(value, count, lowest=lowest, highest=highest)


def clip_to_bounds(metric: MetricSpec, interval: Interval) -> Interval:
    """Clip an interval to the possible values of the metric."""
    lowest, highest = metric.bounds or (-math.inf, math.inf)
    return Interval(max(lowest, interval.low), min(highest, interval.high))


def _compute_correlation_interval(value: float, count: int) -> Interval | None:
    """Compute Fisher's z interval with Bonett and Wright's (2000) variance for Spearman."""
    if count < _MIN_CORRELATION_ITEMS or abs(value) >= 1:
        return None
    half = Z_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
    return Interval(math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half))


QUALITY: Final = (
    MetricSpec("true quality of sampled responses, 0 to 5", "actor", "true_quality", bounds=(0, 5)),
    MetricSpec(
        "true quality of greedy responses, 0 to 5", "actor", "true_quality_greedy", bounds=(0, 5)
    ),
    MetricSpec("win rate by the ground truth, %", "actor", "win_rate", decimals=1, bounds=(0, 100)),
    MetricSpec(
        "length-controlled win rate by the ground truth, %",
        "actor",
        "length_controlled_win_rate",
        decimals=1,
        bounds=(0, 100),
        items="none",
    ),
    MetricSpec(
        "win rate by its own judge, %",
        "actor",
        "win_rate",
        basis="self_judged",
        decimals=1,
        bounds=(0, 100),
    ),
    MetricSpec(
        "length-controlled win rate by its own judge, %",
        "actor",
        "length_controlled_win_rate",
        basis="self_judged",
        decimals=1,
        bounds=(0, 100),
        items="none",
    ),
    MetricSpec("length of responses, words", "actor", "length_words", decimals=1),
)
JUDGE: Final = (
    MetricSpec(
        "share of single judgments that are exact",
        "judge",
        "single_judgment_exact",
        bounds=(0, 1),
        items="judge_items",
    ),
    MetricSpec(
        "correct order of two responses",
        "judge",
        "order_agreement",
        bounds=(0, 1),
        items="judge_items",
    ),
    MetricSpec("Spearman correlation with the ground truth", "judge", "spearman", bounds=(-1, 1)),
    MetricSpec("readable judgments", "judge", "parse_rate", bounds=(0, 1), items="judge_items"),
)
BIAS: Final = (
    MetricSpec("score gained by ten filler words", "judge", "points_per_10_words"),
    MetricSpec("mean score of the same held-out responses", "judge", "mean_score"),
    MetricSpec("meta-judge right, share", "meta_judge", "accuracy", bounds=(0, 1)),
    MetricSpec(
        "same pairs, with the better one shown first",
        "meta_judge",
        "accuracy_better_first",
        bounds=(0, 1),
    ),
    MetricSpec(
        "same pairs, with the better one shown second",
        "meta_judge",
        "accuracy_better_second",
        bounds=(0, 1),
    ),
)
PRIMARY: Final = (QUALITY[0], QUALITY[1], JUDGE[0], JUDGE[1])
"""Primary metrics, chosen before any run; all others are exploratory."""
COMPARED: Final = (*QUALITY, *JUDGE, *BIAS[:3])


def collect_values(arm: Arm, metric: MetricSpec, number: int) -> dict[Key, float]:
    """Collect the metric of M_number from each run of an arm that has it."""
    return {
        (run.seed_model, run.seed): value
        for run in arm.runs
        if (value := metric.get_value(run, number)) is not None
    }


def estimate_metric(arm: Arm, metric: MetricSpec, number: int) -> SeedEstimate:
    """Estimate the mean over the runs of an arm."""
    return estimate_over_seeds(collect_values(arm, metric, number))


def find_last_model(arms: Sequence[Arm]) -> int:
    """Return the last model that every arm with runs has."""
    return min((arm.iterations for arm in arms if arm.runs), default=0)
