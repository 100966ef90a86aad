"""How far a judge agrees with a reference, and with itself.

Agreement = share of pairs whose order by the judge is the reference's; a tie of the judge counts
as a disagreement in `agreement` and leaves the set in `agreement_without_ties`. Pairs that the
reference does not order (ties, verdicts that differ with the position) are in neither.

Source: arXiv 2407.19594, tables 3 and 7; arXiv 2401.10020, section 3.2 (exact match, Spearman,
Kendall); Cohen 1960, "A coefficient of agreement for nominal scales"; Fieller, Hartley and
Pearson 1957, "Tests for rank correlation coefficients" (intervals of Spearman and Kendall).
Departs: intervals take all that belongs to one prompt as one observation, which is too wide rather
than too narrow, because pairs of one prompt are not independent.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from meta_reward_core.audit.agreement import cohen_kappa
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.figures import Figure, Finding, Scorecard, finding_if
from meta_reward_core.evaluation.intervals import (
    Z_95,
    bounded_mean_interval,
    graded_mean_interval,
)
from meta_reward_core.evaluation.judge_files import (
    Opinions,
    Order,
    Pair,
    Response,
    pair_orders,
)
from meta_reward_core.parsing import MAX_POINTS, MIN_POINTS

FEW_PROMPTS: Final = 100
"""With fewer prompts the interval is so wide that it is told. Our choice."""

MANY_TIES: Final = 0.3
"""So large a share of ties by the judge is a finding. Our choice."""

_LEAST_PROMPTS: Final = 5  # below, the intervals of correlations have no meaning

GAPS: Final = (0.5, 1.0, 2.0)
"""Where the bins of score differences end; the last is open. Our choice."""

Column = list[float]


def measure_agreement(judge: Opinions, reference: Opinions) -> Scorecard:
    """All that two files of opinions say about the judge.

    Raises:
        EvaluationFileError: they have no pair and no response in common.
    """
    mine, theirs = pair_orders(judge), pair_orders(reference)
    common = sorted(mine.keys() & theirs.keys())
    own, other = _common_scores(judge, reference)
    if not common and not own:
        raise EvaluationFileError(
            f"{judge.name} and {reference.name} have no pair and no response in common; "
            "prompt_id and response_id (or first_id and second_id) must be the same in both."
        )
    figures = [
        *_pair_figures(common, mine, theirs),
        *_score_figures(judge, reference, own, other),
        *self_consistency(judge),
    ]
    return Scorecard(
        benchmark="judge_agreement",
        model=judge.name,
        baseline=reference.name,
        judge=judge.name,
        figures=tuple(figures),
        findings=tuple(_findings(judge, mine, theirs)),
        columns={
            "agreement_by_score_gap": _by_gap(judge, common, mine, theirs),
            "calibration": _calibration(own, other) if _same_scale(reference, own, other) else [],
        },
    )


def _pair_figures(
    common: Sequence[Pair], mine: Mapping[Pair, Order], theirs: Mapping[Pair, Order]
) -> list[Figure]:
    ordered = [pair for pair in common if theirs[pair] != 0]
    decided = [pair for pair in ordered if mine[pair] != 0]
    return [
        _share("agreement", ordered, lambda pair: mine[pair] == theirs[pair]),
        _share("agreement_without_ties", decided, lambda pair: mine[pair] == theirs[pair]),
        _share("judge_ties", ordered, lambda pair: mine[pair] == 0),
        _exact_order(ordered, mine, theirs),
        _kappa([(mine[pair], theirs[pair]) for pair in common]),
    ]


def _share(name: str, pairs: Sequence[Pair], holds: Callable[[Pair], bool]) -> Figure:
    """A share of pairs in percent; its interval is Wilson's for as many prompts."""
    if not pairs:
        return Figure(name, None, 0, absent="no pair to take it from")
    value = 100 * sum(map(holds, pairs)) / len(pairs)
    ends = bounded_mean_interval(value, _prompts(pairs), least=0, most=100)
    return Figure(name, value, len(pairs), ends.low, ends.high)


def _prompts(pairs: Iterable[Pair | Response]) -> int:
    return len({pair[0] for pair in pairs})


def _exact_order(
    ordered: Sequence[Pair], mine: Mapping[Pair, Order], theirs: Mapping[Pair, Order]
) -> Figure:
    """Share of prompts whose every ordered pair the judge orders alike."""
    by_prompt: defaultdict[str, list[bool]] = defaultdict(list)
    for pair in ordered:
        by_prompt[pair[0]].append(mine[pair] == theirs[pair])
    if not by_prompt:
        return Figure("exact_order", None, 0, absent="no pair to take it from")
    value = 100 * sum(map(all, by_prompt.values())) / len(by_prompt)
    ends = bounded_mean_interval(value, len(by_prompt), least=0, most=100)
    return Figure("exact_order", value, len(by_prompt), ends.low, ends.high)


def _kappa(orders: Sequence[tuple[int, int]]) -> Figure:
    """Cohen's kappa of better, worse and tie over all common pairs.

    Which response is named first is arbitrary, so every pair counts in both orientations.
    """
    both = [*orders, *((-one, -other) for one, other in orders)]
    return Figure("cohens_kappa", cohens_kappa(both), len(orders), absent=_why_no_kappa(both))


def cohens_kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement of two raters on categories.

    None without pairs, and where both always say the same one thing (0 / 0).
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(itertools.chain(*pairs)))}
    table = np.zeros((len(names), len(names)))
    for one, other in pairs:
        table[names[one], names[other]] += 1
    return cohen_kappa(table)


def _why_no_kappa(pairs: Sequence[tuple[Any, Any]]) -> str | None:
    if cohens_kappa(pairs) is not None:
        return None
    return "both always say the same" if pairs else "no pair to take it from"


def _common_scores(
    judge: Opinions, reference: Opinions
) -> tuple[dict[Response, float], dict[Response, float]]:
    """Mean scores of the responses that both have scored."""
    common = sorted(judge.scores.keys() & reference.scores.keys())
    own, other = (
        {key: math.fsum(opinions.scores[key]) / len(opinions.scores[key]) for key in common}
        for opinions in (judge, reference)
    )
    return own, other


def _score_figures(
    judge: Opinions,
    reference: Opinions,
    own: Mapping[Response, float],
    other: Mapping[Response, float],
) -> list[Figure]:
    if not judge.scores or not reference.scores:
        return []
    figures = [
        _correlation("spearman", own, other, _spearman, variance=lambda n: 1.06 / (n - 3)),
        _within_prompts(own, other),
        _correlation("kendall", own, other, _kendall, variance=lambda n: 0.437 / (n - 4)),
    ]
    if _same_scale(reference, own, other):
        figures += _exact_figures(own, other)
    return figures


def _spearman(own: Column, other: Column) -> float | None:
    if len(set(own)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import spearmanr  # a third of the start-up time of the site

    return float(spearmanr(own, other).statistic)


def _kendall(own: Column, other: Column) -> float | None:
    if len(set(own)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import kendalltau  # as above

    return float(kendalltau(own, other).statistic)


def _correlation(
    name: str,
    own: Mapping[Response, float],
    other: Mapping[Response, float],
    correlate: Callable[[Column, Column], float | None],
    *,
    variance: Callable[[int], float],
) -> Figure:
    """A rank correlation over all responses; tanh(atanh(r) -+ 1.96 sqrt(variance(prompts)))."""
    value = correlate([own[key] for key in own], [other[key] for key in own])
    if value is None:
        return Figure(name, None, len(own), absent="one of the two is constant")
    prompts = _prompts(own)
    if prompts < _LEAST_PROMPTS:
        return Figure(name, value, len(own), -1.0, 1.0)
    half = Z_95 * math.sqrt(variance(prompts))
    inside = 1 - 1 / prompts  # a correlation of 1 has no finite transform
    middle = math.atanh(min(max(value, -inside), inside))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Figure(name, value, len(own), min(low, value), max(high, value))


def _within_prompts(own: Mapping[Response, float], other: Mapping[Response, float]) -> Figure:
    """Mean over prompts of Spearman's correlation among the responses of one prompt."""
    by_prompt: defaultdict[str, list[Response]] = defaultdict(list)
    for key in own:
        by_prompt[key[0]].append(key)
    found = [
        value
        for keys in by_prompt.values()
        if (value := _spearman([own[k] for k in keys], [other[k] for k in keys])) is not None
    ]
    name = "spearman_within_prompts"
    if not found:
        return Figure(name, None, 0, absent="no prompt has two scores that differ in both")
    value = math.fsum(found) / len(found)
    ends = graded_mean_interval(found, least=-1, most=1)
    return Figure(name, value, len(found), ends.low, ends.high)


def _same_scale(
    reference: Opinions, own: Mapping[Response, float], other: Mapping[Response, float]
) -> bool:
    """Whether both give points from 0 to 5."""
    return (
        bool(own)
        and reference.has_scale
        and all(MIN_POINTS <= value <= MAX_POINTS for value in [*own.values(), *other.values()])
    )


def _exact_figures(own: Mapping[Response, float], other: Mapping[Response, float]) -> list[Figure]:
    """Share of mean scores that round (halves up) to the reference's, and how far they are off."""
    same = [_rounded(own[key]) == _rounded(other[key]) for key in own]
    value = 100 * sum(same) / len(same)
    ends = bounded_mean_interval(value, _prompts(own), least=0, most=100)
    bins = _calibration(own, other)
    return [
        Figure("exact_score", value, len(same), ends.low, ends.high),
        Figure("mean_absolute_error", float(np.mean([abs(own[k] - other[k]) for k in own])),
               len(same)),
        Figure(
            "calibration_error",
            sum(b["count"] * abs(b["judge"] - b["reference"]) for b in bins) / len(own),
            len(own),
        ),
    ]  # fmt: skip


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


def _calibration(
    own: Mapping[Response, float], other: Mapping[Response, float]
) -> list[dict[str, Any]]:
    """Per whole point of the judge: how many, its mean, and the reference's mean."""
    bins: defaultdict[int, list[Response]] = defaultdict(list)
    for key, value in own.items():
        bins[_rounded(value)].append(key)
    return [
        {
            "points": points,
            "count": len(keys),
            "judge": math.fsum(own[key] for key in keys) / len(keys),
            "reference": math.fsum(other[key] for key in keys) / len(keys),
        }
        for points, keys in sorted(bins.items())
    ]


def _by_gap(
    judge: Opinions,
    common: Sequence[Pair],
    mine: Mapping[Pair, Order],
    theirs: Mapping[Pair, Order],
) -> list[dict[str, Any]]:
    """Agreement by how far apart the judge's scores are: a judge that is sure should be right."""
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


def self_consistency(judge: Opinions) -> list[Figure]:
    """Whether the judge says the same again: in the other order, and when asked once more."""
    figures = []
    if judge.verdicts:
        figures += _position_figures(judge)
    again = [said for said in (judge.scores or judge.verdicts).values() if len(said) > 1]
    if again:
        same = [_same_twice(said) for said in again]
        value = 100 * math.fsum(same) / len(same)
        ends = bounded_mean_interval(value, len(same), least=0, most=100)
        figures.append(Figure("same_when_asked_again", value, len(same), ends.low, ends.high))
    repeated = [scores for scores in judge.scores.values() if len(scores) > 1]
    if repeated:
        spread = float(np.mean([np.std(scores, ddof=1) for scores in repeated]))
        figures.append(Figure("deviation_when_asked_again", spread, len(repeated)))
    return [*figures, *_reason_figures(judge)]


def _reason_figures(judge: Opinions) -> list[Figure]:
    """How often the reasons say enough to be compared, and how often they agree with the end."""
    if not judge.reasons:
        return []
    readable = [agrees for agrees in judge.reasons if agrees is not None]
    # Judgments of one response are not independent: the interval takes each response as one.
    size = min(len(readable), len(judge.scores or judge.verdicts))
    return [
        _percentage(
            "reasons_can_be_compared", [a is not None for a in judge.reasons], len(judge.reasons)
        ),
        _percentage("agrees_with_own_reasons", readable, size),
    ]


def _same_twice(said: Sequence[object]) -> float:
    """Probability that two different ones of the answers are equal."""
    counts = Counter(said).values()
    return sum(count * (count - 1) for count in counts) / (len(said) * (len(said) - 1))


def _position_figures(judge: Opinions) -> list[Figure]:
    """Of pairs shown in both orders: how many verdicts agree. Of all verdicts: who is preferred."""
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
        _percentage("position_consistency", list(alike.values()), _prompts_of(alike)),
        _percentage(
            "first_position_wins",
            [verdict == "A" for _, verdict in decided],
            len({prompt for prompt, _ in decided}),
        ),
    ]


def _prompts_of(pairs: Iterable[tuple[str, ...]]) -> int:
    return len({pair[0] for pair in pairs})


def _percentage(name: str, values: Sequence[bool], prompts: int) -> Figure:
    if not values:
        return Figure(name, None, 0, absent="no verdict to take it from")
    value = 100 * sum(values) / len(values)
    ends = bounded_mean_interval(value, prompts, least=0, most=100)
    return Figure(name, value, len(values), ends.low, ends.high)


def _findings(
    judge: Opinions, mine: Mapping[Pair, Order], theirs: Mapping[Pair, Order]
) -> list[Finding]:
    common = mine.keys() & theirs.keys()
    ordered = [pair for pair in common if theirs[pair] != 0]
    ties = [pair for pair in ordered if mine[pair] == 0]
    prompts = {pair[0] for pair in ordered}
    return [
        *finding_if(
            range(judge.missing),
            "judgments_unreadable",
            "Judgments without a score or verdict: {rows}.",
            "They are in no figure. A judge that fails on hard cases looks better than it is.",
        ),
        *finding_if(
            theirs.keys() - mine.keys(),
            "pairs_not_judged",
            "Pairs of the reference that the judge says nothing of: {rows}.",
            "The figures hold for the others alone.",
        ),
        *finding_if(
            [pair for pair in common if theirs[pair] == 0],
            "pairs_without_reference_order",
            "Common pairs that the reference does not order: {rows}.",
            "They are in no agreement; only kappa counts them, as ties.",
        ),
        *finding_if(
            ties if len(ties) > MANY_TIES * len(ordered) else [],
            "judge_ties_often",
            "Pairs that the judge scores alike: {rows}.",
            "Its points are too coarse or pile up in one place; look at the score histogram.",
        ),
        *finding_if(
            prompts if len(prompts) < FEW_PROMPTS else [],
            "few_prompts",
            "There are few prompts: {rows}.",
            "Read the intervals, not the figures.",
        ),
    ]
