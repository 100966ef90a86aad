"""Agreement of a judge with a reference, and with itself.

Agreement is the share of pairs that the judge orders like the reference. A tie of the judge counts
as a disagreement in `agreement` and is excluded from `agreement_without_ties`. Pairs that the
reference does not order (ties, verdicts that change with the position) are excluded from both.

Source: arXiv 2407.19594, tables 3 and 7; arXiv 2401.10020, section 3.2 (exact match, Spearman,
Kendall); Cohen 1960, "A coefficient of agreement for nominal scales"; Fieller, Hartley and
Pearson 1957, "Tests for rank correlation coefficients" (intervals of Spearman and Kendall).
Departs from these: intervals treat all pairs of one prompt as one observation, because they are not
independent; the intervals are therefore too wide rather than too narrow.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.confidence_intervals import (
    Z_95,
    compute_bounded_mean_interval,
    compute_graded_mean_interval,
)
from meta_reward_core.evaluation.judge_metrics import compute_spearman
from meta_reward_core.evaluation.rater_agreement import compute_cohen_kappa
from meta_reward_core.evaluation.ratings_io import (
    EPSILON,
    PairKey,
    PairPreference,
    Ratings,
    ResponseKey,
    compute_pair_preferences,
)
from meta_reward_core.evaluation.score_baselines import (
    FloatArray,
    measure_score_entropy,
    measure_shuffled_scores,
)
from meta_reward_core.evaluation.scorecard import DataIssue, Metric, Scorecard, make_issue_if_any
from meta_reward_core.method.parsing import MAX_SCORE, MIN_SCORE

FEW_PROMPTS: Final = 100
"""With fewer prompts, the interval is wide enough to be reported as an issue. Our choice."""

MANY_TIES: Final = 0.3
"""A larger share of ties by the judge is reported as an issue. Our choice."""

_MIN_PROMPTS: Final = 5  # with fewer, intervals of correlations are meaningless

GAPS: Final = (0.5, 1.0, 2.0)
"""Upper ends of the bins of score differences; the last bin is open. Our choice."""

Column = list[float]


def measure_agreement(judge: Ratings, reference: Ratings) -> Scorecard:
    """Compute all metrics of a judge from two files of ratings.

    Raises:
        EvaluationFileError: the files have no pair and no response in common.
    """
    mine, theirs = compute_pair_preferences(judge), compute_pair_preferences(reference)
    common = sorted(mine.keys() & theirs.keys())
    own, other = _compute_common_scores(judge, reference)
    if not common and not own:
        raise EvaluationFileError(
            f"{judge.name} and {reference.name} have no pair and no response in common; "
            "prompt_id and response_id (or first_id and second_id) must be the same in both."
        )
    metrics = [
        *_make_pair_metrics(common, mine, theirs),
        *_make_score_metrics(judge, reference, own, other),
        *_make_baseline_metrics(judge, theirs, own, other),
        *measure_self_consistency(judge),
    ]
    return Scorecard(
        benchmark="judge_agreement",
        model=judge.name,
        baseline=reference.name,
        judge=judge.name,
        metrics=tuple(metrics),
        issues=tuple(_find_issues(judge, mine, theirs)),
        columns={
            "agreement_by_score_gap": _compute_agreement_by_gap(judge, common, mine, theirs),
            "calibration": _compute_calibration(own, other)
            if _has_same_scale(reference, own, other)
            else [],
        },
    )


def _make_pair_metrics(
    common: Sequence[PairKey],
    mine: Mapping[PairKey, PairPreference],
    theirs: Mapping[PairKey, PairPreference],
) -> list[Metric]:
    ordered = [pair for pair in common if theirs[pair] != 0]
    decided = [pair for pair in ordered if mine[pair] != 0]
    return [
        _make_share_metric("agreement", ordered, lambda pair: mine[pair] == theirs[pair]),
        _make_share_metric(
            "agreement_without_ties", decided, lambda pair: mine[pair] == theirs[pair]
        ),
        _make_share_metric("judge_ties", ordered, lambda pair: mine[pair] == 0),
        _make_exact_order_metric(ordered, mine, theirs),
        _make_kappa_metric([(mine[pair], theirs[pair]) for pair in common]),
    ]


def _make_share_metric(
    name: str, pairs: Sequence[PairKey], holds: Callable[[PairKey], bool]
) -> Metric:
    """Compute a share of pairs in percent, with Wilson's interval over prompts."""
    if not pairs:
        return Metric(name, None, 0, absent="no pairs to compute this metric from")
    value = 100 * sum(map(holds, pairs)) / len(pairs)
    ends = compute_bounded_mean_interval(value, _count_prompts(pairs), lowest=0, highest=100)
    return Metric(name, value, len(pairs), ends.low, ends.high)


def _count_prompts(pairs: Iterable[PairKey | ResponseKey]) -> int:
    return len({pair[0] for pair in pairs})


def _make_exact_order_metric(
    ordered: Sequence[PairKey],
    mine: Mapping[PairKey, PairPreference],
    theirs: Mapping[PairKey, PairPreference],
) -> Metric:
    """Compute the share of prompts with all ordered pairs in the order of the reference."""
    by_prompt: defaultdict[str, list[bool]] = defaultdict(list)
    for pair in ordered:
        by_prompt[pair[0]].append(mine[pair] == theirs[pair])
    if not by_prompt:
        return Metric("exact_order", None, 0, absent="no pairs to compute this metric from")
    value = 100 * sum(map(all, by_prompt.values())) / len(by_prompt)
    ends = compute_bounded_mean_interval(value, len(by_prompt), lowest=0, highest=100)
    return Metric("exact_order", value, len(by_prompt), ends.low, ends.high)


def _make_kappa_metric(preferences: Sequence[tuple[int, int]]) -> Metric:
    """Compute Cohen's kappa of better, worse and tie over all common pairs.

    Which response of a pair comes first is arbitrary, so every pair counts in both orientations.
    """
    both = [*preferences, *((-one, -other) for one, other in preferences)]
    return Metric(
        "cohens_kappa",
        compute_label_kappa(both),
        len(preferences),
        absent=_explain_missing_kappa(both),
    )


def compute_label_kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Compute (observed - expected) / (1 - expected) agreement of two raters.

    None without pairs, and if both are constant (0 / 0).
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(itertools.chain(*pairs)))}
    table = np.zeros((len(names), len(names)))
    for one, other in pairs:
        table[names[one], names[other]] += 1
    return compute_cohen_kappa(table)


def _explain_missing_kappa(pairs: Sequence[tuple[Any, Any]]) -> str | None:
    if compute_label_kappa(pairs) is not None:
        return None
    return "both are constant" if pairs else "no pairs to compute this metric from"


def _compute_common_scores(
    judge: Ratings, reference: Ratings
) -> tuple[dict[ResponseKey, float], dict[ResponseKey, float]]:
    """Compute mean scores of the responses that both the judge and the reference scored."""
    common = sorted(judge.scores.keys() & reference.scores.keys())
    own, other = (
        {key: math.fsum(opinions.scores[key]) / len(opinions.scores[key]) for key in common}
        for opinions in (judge, reference)
    )
    return own, other


def _make_score_metrics(
    judge: Ratings,
    reference: Ratings,
    own: Mapping[ResponseKey, float],
    other: Mapping[ResponseKey, float],
) -> list[Metric]:
    if not judge.scores or not reference.scores:
        return []
    metrics = [
        _make_correlation_metric(
            "spearman", own, other, compute_spearman, variance=lambda n: 1.06 / (n - 3)
        ),
        _make_within_prompts_metric(own, other),
        _make_correlation_metric(
            "kendall", own, other, _compute_kendall, variance=lambda n: 0.437 / (n - 4)
        ),
    ]
    if _has_same_scale(reference, own, other):
        metrics += _make_exact_metrics(own, other)
    return metrics


def _make_baseline_metrics(
    judge: Ratings,
    theirs: Mapping[PairKey, PairPreference],
    own: Mapping[ResponseKey, float],
    other: Mapping[ResponseKey, float],
) -> list[Metric]:
    """Measure the variation of the judge's scores, and the result of shuffled scores."""
    if not own:
        return []
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for (prompt, _), scores in judge.scores.items():
        by_prompt[prompt] += scores
    place = {key: number for number, key in enumerate(own)}
    ordered = [
        (place[pair[0], pair[1]], place[pair[0], pair[2]], order)
        for pair, order in theirs.items()
        if order != 0 and {(pair[0], pair[1]), (pair[0], pair[2])} <= place.keys()
    ]
    first, second, orders = np.array(ordered, dtype=np.int64).reshape(-1, 3).T

    def compute_agreement(scores: FloatArray) -> FloatArray:
        if not ordered:
            return np.full(len(scores), np.nan)
        right: FloatArray = ((scores[:, first] - scores[:, second]) * orders > EPSILON).mean(axis=1)
        return 100 * right

    ranks = _standardize_ranks(list(other.values()))
    return [
        measure_score_entropy(by_prompt),
        measure_shuffled_scores(
            "agreement_of_shuffled_scores", list(own.values()), compute_agreement
        ),
        # Spearman's correlation is Pearson's correlation of the ranks, and a shuffle only permutes
        # the ranks.
        measure_shuffled_scores(
            "spearman_of_shuffled_scores",
            _standardize_ranks(list(own.values())).tolist(),
            lambda shuffled: shuffled @ ranks / len(ranks),
        ),
    ]


def _standardize_ranks(values: Column) -> FloatArray:
    """Ranks with mean 0 and variance 1; NaN where all are equal."""
    from scipy.stats import rankdata  # a third of the start-up time of the site

    ranks: FloatArray = np.asarray(rankdata(values), dtype=np.float64)
    spread = ranks.std()
    standardized: FloatArray = (ranks - ranks.mean()) / (spread if spread > 0 else np.nan)
    return standardized


def _compute_kendall(own: Column, other: Column) -> float | None:
    if len(set(own)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import kendalltau  # a third of the start-up time of the site

    return float(kendalltau(own, other).statistic)


def _make_correlation_metric(
    name: str,
    own: Mapping[ResponseKey, float],
    other: Mapping[ResponseKey, float],
    correlate: Callable[[Column, Column], float | None],
    *,
    variance: Callable[[int], float],
) -> Metric:
    """Compute a rank correlation with tanh(atanh(r) -+ 1.96 sqrt(variance(prompts)))."""
    value = correlate([own[key] for key in own], [other[key] for key in own])
    if value is None:
        return Metric(name, None, len(own), absent="one of the two is constant")
    prompts = _count_prompts(own)
    if prompts < _MIN_PROMPTS:
        return Metric(name, value, len(own), -1.0, 1.0)
    half = Z_95 * math.sqrt(variance(prompts))
    inside = 1 - 1 / prompts  # a correlation of 1 has no finite transform
    middle = math.atanh(min(max(value, -inside), inside))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Metric(name, value, len(own), min(low, value), max(high, value))


def _make_within_prompts_metric(
    own: Mapping[ResponseKey, float], other: Mapping[ResponseKey, float]
) -> Metric:
    """Compute the mean over prompts of Spearman's correlation within each prompt."""
    by_prompt: defaultdict[str, list[ResponseKey]] = defaultdict(list)
    for key in own:
        by_prompt[key[0]].append(key)
    found = [
        value
        for keys in by_prompt.values()
        if (value := compute_spearman([own[k] for k in keys], [other[k] for k in keys])) is not None
    ]
    name = "spearman_within_prompts"
    if not found:
        return Metric(name, None, 0, absent="no prompt has two scores that differ in both")
    value = math.fsum(found) / len(found)
    ends = compute_graded_mean_interval(found, lowest=-1, highest=1)
    return Metric(name, value, len(found), ends.low, ends.high)


def _has_same_scale(
    reference: Ratings, own: Mapping[ResponseKey, float], other: Mapping[ResponseKey, float]
) -> bool:
    """Whether both use scores from 0 to 5."""
    return (
        bool(own)
        and reference.has_scale
        and all(MIN_SCORE <= value <= MAX_SCORE for value in [*own.values(), *other.values()])
    )


def _make_exact_metrics(
    own: Mapping[ResponseKey, float], other: Mapping[ResponseKey, float]
) -> list[Metric]:
    """Compute the share of rounded mean scores that equal the reference, and the errors."""
    same = [_round_half_up(own[key]) == _round_half_up(other[key]) for key in own]
    value = 100 * sum(same) / len(same)
    ends = compute_bounded_mean_interval(value, _count_prompts(own), lowest=0, highest=100)
    bins = _compute_calibration(own, other)
    return [
        Metric("exact_score", value, len(same), ends.low, ends.high),
        Metric("mean_absolute_error", float(np.mean([abs(own[k] - other[k]) for k in own])),
               len(same)),
        Metric(
            "calibration_error",
            sum(b["count"] * abs(b["judge"] - b["reference"]) for b in bins) / len(own),
            len(own),
        ),
    ]  # fmt: skip


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _compute_calibration(
    own: Mapping[ResponseKey, float], other: Mapping[ResponseKey, float]
) -> list[dict[str, Any]]:
    """Compute for each rounded judge score the count, the judge's mean and the reference's mean."""
    bins: defaultdict[int, list[ResponseKey]] = defaultdict(list)
    for key, value in own.items():
        bins[_round_half_up(value)].append(key)
    return [
        {
            "points": score,
            "count": len(keys),
            "judge": math.fsum(own[key] for key in keys) / len(keys),
            "reference": math.fsum(other[key] for key in keys) / len(keys),
        }
        for score, keys in sorted(bins.items())
    ]


def _compute_agreement_by_gap(
    judge: Ratings,
    common: Sequence[PairKey],
    mine: Mapping[PairKey, PairPreference],
    theirs: Mapping[PairKey, PairPreference],
) -> list[dict[str, Any]]:
    """Compute agreement by the gap between the judge's scores."""
    if not judge.scores:
        return []
    means = {key: math.fsum(scores) / len(scores) for key, scores in judge.scores.items()}
    bins: defaultdict[int, list[bool]] = defaultdict(list)
    for pair in common:
        if mine[pair] and theirs[pair]:
            gap = abs(means[pair[0], pair[1]] - means[pair[0], pair[2]])
            bins[int(np.searchsorted(GAPS, gap))].append(mine[pair] == theirs[pair])
    return [
        {
            "gap_above": (0.0, *GAPS)[place],
            "gap_up_to": (*GAPS, None)[place],
            "count": len(right),
            "agreement": 100 * sum(right) / len(right),
        }
        for place, right in sorted(bins.items())
    ]


def measure_self_consistency(judge: Ratings) -> list[Metric]:
    """Measure whether the judge agrees with itself in the other order and in repeats."""
    metrics = []
    if judge.verdicts:
        metrics += _make_position_metrics(judge)
    again = [said for said in (judge.scores or judge.verdicts).values() if len(said) > 1]
    if again:
        same = [_compute_repeat_agreement(said) for said in again]
        value = 100 * math.fsum(same) / len(same)
        ends = compute_bounded_mean_interval(value, len(same), lowest=0, highest=100)
        metrics.append(Metric("same_when_asked_again", value, len(same), ends.low, ends.high))
    repeated = [scores for scores in judge.scores.values() if len(scores) > 1]
    if repeated:
        spread = float(np.mean([np.std(scores, ddof=1) for scores in repeated]))
        metrics.append(Metric("deviation_when_asked_again", spread, len(repeated)))
    return [*metrics, *_make_rationale_metrics(judge)]


def _make_rationale_metrics(judge: Ratings) -> list[Metric]:
    """Compute how often reasons can be compared, and how often they match the result."""
    if not judge.reasons:
        return []
    readable = [agrees for agrees in judge.reasons if agrees is not None]
    # Judgments of one response are not independent: the interval counts each response once.
    size = min(len(readable), len(judge.scores or judge.verdicts))
    return [
        _make_percentage_metric(
            "reasons_can_be_compared", [a is not None for a in judge.reasons], len(judge.reasons)
        ),
        _make_percentage_metric("agrees_with_own_reasons", readable, size),
    ]


def _compute_repeat_agreement(said: Sequence[object]) -> float:
    """Compute the probability that two different answers are equal."""
    counts = Counter(said).values()
    return sum(count * (count - 1) for count in counts) / (len(said) * (len(said) - 1))


def _make_position_metrics(judge: Ratings) -> list[Metric]:
    """Compute agreement of both orders, and which position is preferred."""
    turned = {"A": "B", "B": "A", "tie": "tie"}
    alike = {
        (prompt, *sorted((first, second))): turned[said[0]]
        == judge.verdicts[prompt, second, first][0]
        for (prompt, first, second), said in judge.verdicts.items()
        if (prompt, second, first) in judge.verdicts
    }
    decided = [
        (shown[0], verdict) for shown, said in judge.verdicts.items() for verdict in said
        if verdict != "tie"
    ]  # fmt: skip
    return [
        _make_percentage_metric(
            "position_consistency", list(alike.values()), _count_pair_prompts(alike)
        ),
        _make_percentage_metric(
            "first_position_wins",
            [verdict == "A" for _, verdict in decided],
            len({prompt for prompt, _ in decided}),
        ),
    ]


def _count_pair_prompts(pairs: Iterable[tuple[str, ...]]) -> int:
    return len({pair[0] for pair in pairs})


def _make_percentage_metric(name: str, values: Sequence[bool], prompts: int) -> Metric:
    if not values:
        return Metric(name, None, 0, absent="no verdicts to compute this metric from")
    value = 100 * sum(values) / len(values)
    ends = compute_bounded_mean_interval(value, prompts, lowest=0, highest=100)
    return Metric(name, value, len(values), ends.low, ends.high)


def _find_issues(
    judge: Ratings, mine: Mapping[PairKey, PairPreference], theirs: Mapping[PairKey, PairPreference]
) -> list[DataIssue]:
    common = mine.keys() & theirs.keys()
    ordered = [pair for pair in common if theirs[pair] != 0]
    ties = [pair for pair in ordered if mine[pair] == 0]
    prompts = {pair[0] for pair in ordered}
    return [
        *make_issue_if_any(
            range(judge.missing),
            "judgments_unreadable",
            "Judgments without a score or verdict: {rows}.",
            "They are excluded from all metrics, so a judge that fails on hard cases looks "
            "better than it is.",
        ),
        *make_issue_if_any(
            theirs.keys() - mine.keys(),
            "pairs_not_judged",
            "Pairs of the reference without a verdict of the judge: {rows}.",
            "The metrics describe only the other pairs.",
        ),
        *make_issue_if_any(
            [pair for pair in common if theirs[pair] == 0],
            "pairs_without_reference_order",
            "Common pairs that are ties in the reference: {rows}.",
            "They are excluded from agreement; only kappa counts them, as ties.",
        ),
        *make_issue_if_any(
            ties if len(ties) > MANY_TIES * len(ordered) else [],
            "judge_ties_often",
            "Pairs that the judge gives equal scores: {rows}.",
            "Its scores are too coarse or nearly all the same; check the score histogram.",
        ),
        *make_issue_if_any(
            prompts if len(prompts) < FEW_PROMPTS else [],
            "few_prompts",
            "Small sample: {rows}.",
            "Rely on the intervals, not the point estimates.",
        ),
    ]
