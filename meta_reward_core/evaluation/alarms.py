"""Alarms on the metrics of an iteration: what they mean and what to try.

`AlarmLimits` defines the limits. Some alarms compare an iteration with the previous one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.evaluation.judge_health import Role
from meta_reward_core.evaluation.judge_metrics import (
    BIN_WIDTH,
    HISTOGRAM_BINS,
    IterationMetrics,
    JudgeMetrics,
    MetaJudgeMetrics,
    PairMetrics,
)
from meta_reward_core.method.parsing import MAX_SCORE

AlarmName = Literal[
    "judge_collapse",
    "judge_drift",
    "judgments_unreadable",
    "verdicts_unreadable",
    "too_few_pairs",
    "pairs_of_few_verdicts",
    "length_growth",
    "one_position_won_everything",
    "meta_judge_follows_score",
    "meta_judge_inconsistent",
]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A problem in an iteration, as shown to users: what it is and what to try."""

    name: AlarmName
    sentence: str
    advice: str


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """Limits above or below which an alarm is raised. They are our choices, not the paper's.

    Attributes:
        share_in_one_bin: maximum share of the scores in one bin of the histogram.
        entropy_bits: minimum entropy of the scores, in bits.
        mean_drift: maximum change of the mean score since the previous iteration.
        parse_rate: minimum share of readable replies.
        yield_rate: minimum share of prompts with a pair.
        length_growth: maximum ratio of the mean response length to that of the previous iteration.
        higher_score_share: maximum share of battles won by the judgment with the higher score.
        inconsistency: maximum share of pairs decided differently in the two orders.
        min_count: minimum number of scores, battles or pairs for an alarm about spread or bias.
    """

    share_in_one_bin: float = 0.8
    entropy_bits: float = 1.0
    mean_drift: float = 0.75
    parse_rate: float = 0.9
    yield_rate: float = 0.1
    length_growth: float = 1.25
    higher_score_share: float = 0.9
    inconsistency: float = 0.5
    min_count: int = 20


def find_alarms(
    now: IterationMetrics,
    *,
    before: IterationMetrics | None = None,
    limits: AlarmLimits | None = None,
    explain: Callable[[Role], str] = lambda _: _READ_SOME,
) -> list[Alarm]:
    """List all problems of an iteration that a user should check before continuing.

    Args:
        now: metrics of the iteration.
        before: metrics of the previous iteration, for comparisons; None for the first iteration.
        limits: limits of the alarms; None: the defaults.
        explain: returns the advice for unreadable replies of a role.
    """
    limits = limits or AlarmLimits()
    alarms: list[Alarm] = []
    if now.judge is not None:
        alarms += _find_judge_alarms(now.judge, before.judge if before else None, limits, explain)
    if now.meta_judge is not None:
        alarms += _find_meta_judge_alarms(now.meta_judge, limits, explain)
    for pairs in now.pairs:
        alarms += _find_pair_alarms(pairs, limits)
    alarms += _find_length_alarms(
        now.response_chars, before.response_chars if before else None, limits
    )
    return alarms


def _find_judge_alarms(
    now: JudgeMetrics,
    before: JudgeMetrics | None,
    limits: AlarmLimits,
    explain: Callable[[Role], str],
) -> list[Alarm]:
    alarms = []
    if now.parse_rate is not None and now.parse_rate < limits.parse_rate:
        alarms.append(
            _make_unreadable_alarm(
                "judgments_unreadable",
                "judgments",
                now.parse_rate,
                now.unscored,
                advice=explain("judge"),
            )
        )
    if _is_collapsed(now, limits):
        alarms.append(_make_collapse_alarm(now))
    drift = _subtract(now.mean, before.mean if before else None)
    has_scale = bool(now.histogram)  # a reward model does not change, and has no scale
    if has_scale and drift is not None and abs(drift) > limits.mean_drift:
        alarms.append(
            Alarm(
                "judge_drift",
                f"The judge's mean score changed by {drift:+.2f} to {now.mean:.2f} "
                "in one iteration.",
                "Compare with human verdicts in an audit before relying on the scores; lower "
                "the learning rate or exclude judge pairs from the next iteration.",
            )
        )
    return alarms


def _is_collapsed(now: JudgeMetrics, limits: AlarmLimits) -> bool:
    if now.scored < limits.min_count or not now.histogram:
        return False
    crowded = max(now.histogram) / now.scored > limits.share_in_one_bin
    return crowded or (now.entropy_bits or 0.0) < limits.entropy_bits


def _make_collapse_alarm(now: JudgeMetrics) -> Alarm:
    crowd = max(now.histogram)
    start = HISTOGRAM_BINS[now.histogram.index(crowd)]
    where = f"at {start:g}" if start == MAX_SCORE else f"from {start:g} to {start + BIN_WIDTH:g}"
    return Alarm(
        "judge_collapse",
        f"{crowd / now.scored:.0%} of the scores are {where} "
        f"(entropy {now.entropy_bits:.2f} bits): the judge barely distinguishes responses.",
        "Hide the score line from the meta-judge, pair only judgments with close scores, or "
        "cap the share of judge pairs; restart from the last checkpoint whose scores vary.",
    )


def _find_meta_judge_alarms(
    now: MetaJudgeMetrics, limits: AlarmLimits, explain: Callable[[Role], str]
) -> list[Alarm]:
    alarms = []
    if now.parse_rate is not None and now.parse_rate < limits.parse_rate:
        alarms.append(
            _make_unreadable_alarm(
                "verdicts_unreadable",
                "verdicts",
                now.parse_rate,
                now.unparsed,
                advice=explain("meta-judge"),
            )
        )
    if now.decided and now.won_by_first in (0.0, 1.0):
        alarms.append(_make_one_position_alarm(now))
    if _is_above(now.won_by_higher_score, limits.higher_score_share, now.unequal_scores, limits):
        alarms.append(
            Alarm(
                "meta_judge_follows_score",
                f"The judgment with the higher score won {now.won_by_higher_score:.0%} of the "
                "battles: the meta-judge follows scores, not reasons.",
                "Hide the score line from the meta-judge, or pair only judgments with close "
                "scores.",
            )
        )
    if _is_above(now.inconsistency, limits.inconsistency, now.both_orders, limits):
        alarms.append(
            Alarm(
                "meta_judge_inconsistent",
                f"In {now.inconsistency:.0%} of the pairs the verdict changed with the order.",
                "Inspect the judge pairs of this iteration before training on them, or use a "
                "stronger base model.",
            )
        )
    return alarms


def _make_one_position_alarm(now: MetaJudgeMetrics) -> Alarm:
    position = "first" if now.won_by_first == 1.0 else "second"
    return Alarm(
        "one_position_won_everything",
        f"The judgment shown {position} won all {now.decided} decided battles, so no judge pair "
        "can be made.",
        "Read some verdicts: the meta-judge ignores the judgments. Use a stronger base model "
        "or another meta-judge template.",
    )


def _find_pair_alarms(pairs: PairMetrics, limits: AlarmLimits) -> list[Alarm]:
    alarms = [_make_few_verdicts_alarm(pairs)] if pairs.few_readable else []
    if pairs.yield_rate is None or pairs.yield_rate >= limits.yield_rate:
        return alarms
    reason = next(iter(pairs.dropped), None)
    why = f" The most frequent reason: {reason}." if reason else ""
    return [
        *alarms,
        Alarm(
            "too_few_pairs",
            f"Only {pairs.yield_rate:.0%} of the prompts gave a pair of kind {pairs.kind}.{why}",
            "See the drop reasons, and raise the number of responses or judgments, the "
            "temperature, or the length limits accordingly.",
        ),
    ]


def _make_few_verdicts_alarm(pairs: PairMetrics) -> Alarm:
    return Alarm(
        "pairs_of_few_verdicts",
        f"In {pairs.few_readable:,} of {pairs.pairs:,} judge pairs, one of the two judgments has "
        "no readable verdict in both orders against most of its opponents.",
        "Set meta_judge.min_readable_share=0.5 to exclude such pairs; battles are not rerun.",
    )


def _find_length_alarms(
    now: float | None, before: float | None, limits: AlarmLimits
) -> list[Alarm]:
    if now is None or not before or now / before <= limits.length_growth:
        return []
    return [
        Alarm(
            "length_growth",
            f"Responses grew from {before:.0f} to {now:.0f} characters in one iteration.",
            "Raise rho, or limit the length of chosen responses.",
        )
    ]


_READ_SOME: Final = (
    "Read some of them: raise the token limit if they are cut off, or train the base model on "
    "the reply format."
)


def _make_unreadable_alarm(
    name: AlarmName, what: str, parse_rate: float, reasons: Mapping[str, int], *, advice: str
) -> Alarm:
    reason = next(iter(reasons), "unknown")
    return Alarm(
        name,
        f"Only {parse_rate:.0%} of the {what} could be read; the most frequent reason: {reason}.",
        advice,
    )


def _is_above(share: float | None, limit: float, count: int, limits: AlarmLimits) -> bool:
    return share is not None and share > limit and count >= limits.min_count


def _subtract(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before
