"""Results about the judge for the whole iteration, from a batch of responses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meta_reward_core.evaluation.rater_agreement import (
    make_weighted_kendall,
    make_weighted_spearman,
)
from meta_reward_core.review.stratified_estimators import (
    Estimate,
    SurveyDesign,
    estimate_mean,
    estimate_statistic,
)
from meta_reward_core.review.stratified_sampling import SamplingFrame


@dataclass(frozen=True, slots=True)
class AuditedResponse:
    """A response with a human score and the judge's mean score, both 0 to 5."""

    stratum: str
    human: float
    judge: float
    groups: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DifferenceGroup:
    """Human score minus judge score within one group."""

    division: str
    name: str
    difference: Estimate


@dataclass(frozen=True, slots=True)
class JudgeResults:
    """Results of a batch of responses. `difference` is human score minus judge score."""

    answers: int
    spearman: Estimate
    kendall: Estimate
    difference: Estimate
    groups: tuple[DifferenceGroup, ...]
    coverage: float | None
    sentences: tuple[str, ...]


def estimate_judge_results(
    responses: Sequence[AuditedResponse], frame: SamplingFrame, *, confidence: float = 0.95
) -> JudgeResults:
    """Estimate how the judge's scores relate to human scores."""
    design = frame.make_design(found.stratum for found in responses)
    human = np.array([found.human for found in responses])
    judge = np.array([found.judge for found in responses])
    spearman, kendall = (
        estimate_statistic(
            design, measure(human, judge), count=len(responses), confidence=confidence
        )
        for measure in (make_weighted_spearman, make_weighted_kendall)
    )
    gaps = [found.human - found.judge for found in responses]
    difference = estimate_mean(design, gaps, confidence=confidence)
    return JudgeResults(
        answers=len(responses),
        spearman=spearman,
        kendall=kendall,
        difference=difference,
        groups=tuple(_estimate_difference_groups(responses, gaps, design, confidence)),
        coverage=design.coverage,
        sentences=tuple(_describe_results(spearman, difference)),
    )


def _estimate_difference_groups(
    responses: Sequence[AuditedResponse],
    gaps: Sequence[float],
    design: SurveyDesign,
    confidence: float,
) -> Iterable[DifferenceGroup]:
    names = sorted({item for found in responses for item in found.groups.items()})
    for division, name in names:
        values = [
            gap if found.groups.get(division) == name else None
            for found, gap in zip(responses, gaps, strict=True)
        ]
        yield DifferenceGroup(division, name, estimate_mean(design, values, confidence=confidence))


def _describe_results(correlation: Estimate, difference: Estimate) -> Iterable[str]:
    if correlation.low is None or difference.low is None or difference.high is None:
        yield "There are too few answers to compare judge scores with human scores."
        return
    if correlation.low > 0:
        yield "Responses with higher human scores get higher scores from the judge."
    else:
        yield "The judge's scores are not shown to correlate with human scores."
    if difference.high < 0:
        yield f"The judge is too generous, by {-(difference.value or 0.0):.2f} points on average."
    elif difference.low > 0:
        yield f"The judge is too strict, by {difference.value or 0.0:.2f} points on average."
