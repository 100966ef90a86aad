"""What an iteration looks like from above: spread of points, biases, lengths, and alarms.

Pure functions of records and columns. The mean of nothing is None, never 0. Shares are in
[0, 1], lengths in characters unless named otherwise.

Source: arXiv 2407.19594, section 4 (score, position and length bias of judge and meta-judge).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from meta_reward_core.method.parsing import JUDGMENT_CUT_OFF, MAX_SCORE, PROMPT_REFUSED
from meta_reward_core.storage.records import Battle, Dropped, Judgment, PairKind, ResponseScore

BIN_WIDTH: Final = 0.5

HISTOGRAM_BINS: Final = tuple(k * BIN_WIDTH for k in range(int(MAX_SCORE / BIN_WIDTH) + 1))
"""Where each bin begins: [0, .5), [.5, 1), ... [4.5, 5), and exactly 5 alone, because a judge
that collapses piles up there."""


@dataclass(frozen=True, slots=True)
class JudgeMetrics:
    """How the judge used its points.

    Attributes:
        judgments: how many were written.
        scored: how many carry points.
        parse_rate: scored / judgments.
        mean: of the points.
        histogram: count per bin of `HISTOGRAM_BINS`.
        entropy_bits: of the histogram; 0 for one value only, at most log2(11) = 3.46.
        share_at_max: share of the points that are exactly 5.
        unscored: count per reason, most frequent first.
    """

    judgments: int
    scored: int
    parse_rate: float | None
    mean: float | None
    histogram: tuple[int, ...]
    entropy_bits: float | None
    share_at_max: float | None
    unscored: dict[str, int]


@dataclass(frozen=True, slots=True)
class MetaJudgeMetrics:
    """How the meta-judge decided. "Decided" means a verdict A or B; ties and unparsed are not.

    Attributes:
        battles: orders fought.
        decided: how many named a winner.
        ties: stated ties.
        parse_rate: readable verdicts (ties among them) / battles.
        won_by_first: share of decided battles that the judgment shown first won.
        won_by_second: the rest of them.
        both_orders: pairs of judgments with a readable verdict in both orders.
        inconsistency: share of those whose two verdicts name different outcomes.
        unequal_scores: decided battles of judgments with different points.
        won_by_higher_score: share of those that the higher points won.
        unequal_lengths: decided battles of judgments of different length.
        won_by_longer: share of those that the longer judgment won.
        unparsed: count per reason, most frequent first.
    """

    battles: int
    decided: int
    ties: int
    parse_rate: float | None
    won_by_first: float | None
    won_by_second: float | None
    both_orders: int
    inconsistency: float | None
    unequal_scores: int
    won_by_higher_score: float | None
    unequal_lengths: int
    won_by_longer: float | None
    unparsed: dict[str, int]


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """The pairs of one kind. pairs + dropped = prompts.

    Attributes:
        dropped: count per reason, most frequent first.
        yield_rate: pairs / prompts.
        chosen_chars: mean length of the chosen texts.
        rejected_chars: mean length of the rejected texts.
    """

    kind: PairKind
    pairs: int
    dropped: dict[str, int]
    yield_rate: float | None
    chosen_chars: float | None
    rejected_chars: float | None


@dataclass(frozen=True, slots=True)
class IterationMetrics:
    """All that the alarms look at; a part that was not measured is None or absent.

    Attributes:
        response_chars: mean length of the responses.
        score_length_correlation: Spearman of a response's mean score with its length.
        pairs: per scheduled kind.
    """

    judge: JudgeMetrics | None = None
    meta_judge: MetaJudgeMetrics | None = None
    pairs: tuple[PairMetrics, ...] = ()
    response_chars: float | None = None
    score_length_correlation: float | None = None


AlarmName = Literal[
    "judge_collapse",
    "judge_drift",
    "judgments_unreadable",
    "verdicts_unreadable",
    "too_few_pairs",
    "length_growth",
    "one_position_won_everything",
    "meta_judge_follows_score",
    "meta_judge_inconsistent",
]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that went wrong in an iteration, for people: what is the case, what to try."""

    name: AlarmName
    sentence: str
    advice: str


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """When an alarm rings. Our choices, not the paper's.

    Attributes:
        share_in_one_bin: largest share of the points in one bin of the histogram.
        entropy_bits: smallest entropy of the points.
        mean_drift: largest change of the mean points from the iteration before.
        parse_rate: smallest share of readable replies.
        yield_rate: smallest share of prompts with a pair.
        length_growth: largest ratio of the mean response length to the iteration before.
        higher_score_share: largest share of battles won by the higher points.
        inconsistency: largest share of pairs decided differently in the two orders.
        least_count: fewer points, battles or pairs than this say nothing about a spread or a bias.
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


def compute_mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    collected = list(values)
    return math.fsum(collected) / len(collected) if collected else None


def compute_score_histogram(scores: Iterable[float]) -> tuple[int, ...]:
    """Count of the points in each bin of `HISTOGRAM_BINS`.

    Raises:
        ValueError: points outside [0, 5].
    """
    counts = [0] * len(HISTOGRAM_BINS)
    for score in scores:
        if not 0 <= score <= MAX_SCORE:
            raise ValueError(f"Points must lie between 0 and {MAX_SCORE:g}, not {score}.")
        counts[int(score / BIN_WIDTH)] += 1
    return tuple(counts)


def compute_entropy_bits(counts: Sequence[int]) -> float | None:
    """Shannon entropy of a histogram in bits; None when it is empty."""
    total = sum(counts)
    if total == 0:
        return None
    shares = [count / total for count in counts if count]
    return abs(math.fsum(share * math.log2(share) for share in shares))


class JudgeTally:
    """Counts judgments, part by part: nothing of their texts stays."""

    def __init__(self) -> None:
        self._points = Counter[float]()
        self._unscored = Counter[str]()

    def add(self, judgments: Iterable[Judgment]) -> None:
        """Count some more."""
        for judgment in judgments:
            if judgment.score is None:
                self._unscored[judgment.unscored_reason or "unknown"] += 1
            else:
                self._points[judgment.score] += 1

    def measures(self) -> JudgeMetrics:
        """Spread and readability of the points of all that were counted."""
        scored = self._points.total()
        judgments = scored + self._unscored.total()
        histogram = compute_score_histogram(self._points.elements())
        return JudgeMetrics(
            judgments=judgments,
            scored=scored,
            parse_rate=_compute_share(scored, judgments),
            mean=compute_mean(self._points.elements()),
            histogram=histogram,
            entropy_bits=compute_entropy_bits(histogram),
            share_at_max=_compute_share(histogram[-1], scored),
            unscored=_sort_by_frequency(self._unscored),
        )


class MetaJudgeTally:
    """Counts battles, part by part: nothing of their texts stays."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._unparsed = Counter[str]()

    def add(self, battles: Sequence[Battle], judgments: Mapping[str, Judgment]) -> None:
        """Count some more.

        Args:
            battles: all of a response, or none.
            judgments: those that battled, by judgment id; what is not among them enters no bias.
        """
        unparsed = [battle for battle in battles if battle.verdict is None]
        agreements = _compare_orders(battles)
        by_score = _list_wins_of_larger(battles, {name: j.score for name, j in judgments.items()})
        by_length = _list_wins_of_larger(
            battles, {name: len(j.text) for name, j in judgments.items()}
        )
        self._unparsed.update(battle.unparsed_reason or "unknown" for battle in unparsed)
        self._counts.update(
            {
                "battles": len(battles),
                "won_by_first": sum(battle.verdict == "A" for battle in battles),
                "won_by_second": sum(battle.verdict == "B" for battle in battles),
                "ties": sum(battle.verdict == "tie" for battle in battles),
                "both_orders": len(agreements),
                "inconsistent": agreements.count(False),
                "unequal_scores": len(by_score),
                "won_by_higher_score": sum(by_score),
                "unequal_lengths": len(by_length),
                "won_by_longer": sum(by_length),
            }
        )

    def measures(self) -> MetaJudgeMetrics:
        """Position, score and length bias over all that were counted."""
        counts = self._counts
        decided = counts["won_by_first"] + counts["won_by_second"]
        return MetaJudgeMetrics(
            battles=counts["battles"],
            decided=decided,
            ties=counts["ties"],
            parse_rate=_compute_share(
                counts["battles"] - self._unparsed.total(), counts["battles"]
            ),
            won_by_first=_compute_share(counts["won_by_first"], decided),
            won_by_second=_compute_share(counts["won_by_second"], decided),
            both_orders=counts["both_orders"],
            inconsistency=_compute_share(counts["inconsistent"], counts["both_orders"]),
            unequal_scores=counts["unequal_scores"],
            won_by_higher_score=_compute_share(
                counts["won_by_higher_score"], counts["unequal_scores"]
            ),
            unequal_lengths=counts["unequal_lengths"],
            won_by_longer=_compute_share(counts["won_by_longer"], counts["unequal_lengths"]),
            unparsed=_sort_by_frequency(self._unparsed),
        )


def measure_meta_judge(
    battles: Sequence[Battle], judgments: Mapping[str, Judgment]
) -> MetaJudgeMetrics:
    """Position, score and length bias of the meta-judge in these battles alone."""
    tally = MetaJudgeTally()
    tally.add(battles, judgments)
    return tally.measures()


def measure_pairs(
    kind: PairKind,
    *,
    chosen_chars: Sequence[int],
    rejected_chars: Sequence[int],
    dropped: Iterable[Dropped],
) -> PairMetrics:
    """Yield and lengths of the pairs of one kind; drops of another kind are passed over.

    Args:
        kind: actor or judge.
        chosen_chars: length of each pair's chosen text.
        rejected_chars: length of each pair's rejected text.
        dropped: what gave no pair.
    """
    reasons = count_drops_by_reason(dropped, kind)
    pairs = len(chosen_chars)
    return PairMetrics(
        kind=kind,
        pairs=pairs,
        dropped=reasons,
        yield_rate=_compute_share(pairs, pairs + sum(reasons.values())),
        chosen_chars=compute_mean(chosen_chars),
        rejected_chars=compute_mean(rejected_chars),
    )


def count_drops_by_reason(dropped: Iterable[Dropped], kind: PairKind) -> dict[str, int]:
    """How many prompts gave no pair of a kind, per reason, most frequent first."""
    return _sort_by_frequency(Counter(drop.reason for drop in dropped if drop.kind == kind))


def compute_spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation of two columns; None for fewer than two rows or a constant column.

    Raises:
        ValueError: the columns differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"Columns of {len(first)} and {len(second)} rows cannot correlate.")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr  # a third of the start-up time of the site

    return float(spearmanr(first, second).statistic)


def compute_score_length_correlation(scores: Iterable[ResponseScore]) -> float | None:
    """Spearman of a response's mean points with its length in characters, over scored ones."""
    scored = [(score.mean, score.length_chars) for score in scores if score.mean is not None]
    return compute_spearman([mean for mean, _ in scored], [length for _, length in scored])


def find_alarms(
    now: IterationMetrics,
    *,
    before: IterationMetrics | None = None,
    limits: AlarmLimits | None = None,
) -> list[Alarm]:
    """Everything about an iteration that a person should look at before going on.

    Args:
        now: the iteration.
        before: the one before it, for what compares two; None for the first.
        limits: when an alarm rings; our defaults if None.
    """
    limits = limits or AlarmLimits()
    alarms: list[Alarm] = []
    if now.judge is not None:
        alarms += _find_judge_alarms(now.judge, before.judge if before else None, limits)
    if now.meta_judge is not None:
        alarms += _find_meta_judge_alarms(now.meta_judge, limits)
    for pairs in now.pairs:
        alarms += _find_pair_alarms(pairs, limits)
    alarms += _find_length_alarms(
        now.response_chars, before.response_chars if before else None, limits
    )
    return alarms


def _find_judge_alarms(
    now: JudgeMetrics, before: JudgeMetrics | None, limits: AlarmLimits
) -> list[Alarm]:
    alarms = []
    if now.parse_rate is not None and now.parse_rate < limits.parse_rate:
        alarms.append(
            _make_unreadable_alarm(
                "judgments_unreadable", "judgments", now.parse_rate, now.unscored
            )
        )
    if _is_collapsed(now, limits):
        alarms.append(_make_collapse_alarm(now))
    drift = _subtract(now.mean, before.mean if before else None)
    if drift is not None and abs(drift) > limits.mean_drift:
        alarms.append(
            Alarm(
                "judge_drift",
                f"The judge's mean points moved by {drift:+.2f} to {now.mean:.2f} "
                "in one iteration.",
                "Compare with human verdicts in the audit before trusting the scores; lower the "
                "learning rate or leave judge pairs out of the next iteration.",
            )
        )
    return alarms


def _is_collapsed(now: JudgeMetrics, limits: AlarmLimits) -> bool:
    if now.scored < limits.min_count:
        return False
    crowded = max(now.histogram) / now.scored > limits.share_in_one_bin
    return crowded or (now.entropy_bits or 0.0) < limits.entropy_bits


def _make_collapse_alarm(now: JudgeMetrics) -> Alarm:
    crowd = max(now.histogram)
    start = HISTOGRAM_BINS[now.histogram.index(crowd)]
    where = f"at {start:g}" if start == MAX_SCORE else f"from {start:g} to {start + BIN_WIDTH:g}"
    return Alarm(
        "judge_collapse",
        f"{crowd / now.scored:.0%} of the points lie {where} "
        f"(entropy {now.entropy_bits:.2f} bits): the judge hardly tells responses apart.",
        "Hide the score line from the meta-judge, pair only judgments of close points, or cap "
        "the share of judge pairs; begin again from the last checkpoint whose points spread.",
    )


def _find_meta_judge_alarms(now: MetaJudgeMetrics, limits: AlarmLimits) -> list[Alarm]:
    alarms = []
    if now.parse_rate is not None and now.parse_rate < limits.parse_rate:
        alarms.append(
            _make_unreadable_alarm("verdicts_unreadable", "verdicts", now.parse_rate, now.unparsed)
        )
    if now.decided and now.won_by_first in (0.0, 1.0):
        alarms.append(_make_one_position_alarm(now))
    if _is_above(now.won_by_higher_score, limits.higher_score_share, now.unequal_scores, limits):
        alarms.append(
            Alarm(
                "meta_judge_follows_score",
                f"The judgment with the higher points won {now.won_by_higher_score:.0%} of the "
                "battles: the meta-judge follows points, not reasons.",
                "Hide the score line from the meta-judge, or pair only judgments of close points.",
            )
        )
    if _is_above(now.inconsistency, limits.inconsistency, now.both_orders, limits):
        alarms.append(
            Alarm(
                "meta_judge_inconsistent",
                f"In {now.inconsistency:.0%} of the pairs the verdict changed with the order.",
                "Train judge pairs of this iteration with care: look at them first, or use a "
                "stronger seed model.",
            )
        )
    return alarms


def _make_one_position_alarm(now: MetaJudgeMetrics) -> Alarm:
    position = "first" if now.won_by_first == 1.0 else "second"
    return Alarm(
        "one_position_won_everything",
        f"The judgment shown {position} won all {now.decided} decided battles, so no judge pair "
        "can be made.",
        "Read some verdicts: the meta-judge ignores the judgments. Use a stronger seed model or "
        "another meta-judge template.",
    )


def _find_pair_alarms(pairs: PairMetrics, limits: AlarmLimits) -> list[Alarm]:
    if pairs.yield_rate is None or pairs.yield_rate >= limits.yield_rate:
        return []
    reason = next(iter(pairs.dropped), None)
    why = f" The most frequent reason: {reason}." if reason else ""
    return [
        Alarm(
            "too_few_pairs",
            f"Only {pairs.yield_rate:.0%} of the prompts gave a pair of kind {pairs.kind}.{why}",
            "See the drop reasons: raise the number of responses or judgments, the temperature, "
            "or the length limits that drop pairs.",
        )
    ]


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


_READABLE_BY: Final[Mapping[str, str]] = {
    PROMPT_REFUSED: "The prompt and the longest reply exceed what the model takes: lower "
    "max_new_tokens, shorten the template, or take a model with a longer context.",
    JUDGMENT_CUT_OFF: "Raise max_new_tokens of the judge, or for verdicts of the meta-judge: "
    "replies end before they name their score or winner.",
}


def _make_unreadable_alarm(
    name: AlarmName, what: str, parse_rate: float, reasons: Mapping[str, int]
) -> Alarm:
    reason = next(iter(reasons), "unknown")
    return Alarm(
        name,
        f"Only {parse_rate:.0%} of the {what} could be read; the most frequent reason: {reason}.",
        _READABLE_BY.get(
            reason,
            "Read some of them: raise the token limit if they are cut off, or train the seed model "
            "on the reply format.",
        ),
    )


def _is_above(share: float | None, limit: float, count: int, limits: AlarmLimits) -> bool:
    return share is not None and share > limit and count >= limits.min_count


def _subtract(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


def _compare_orders(battles: Sequence[Battle]) -> list[bool]:
    """Per pair of judgments readable in both orders: do both orders name the same outcome?"""
    outcome = {
        (
            battle.prompt_id,
            battle.response_id,
            battle.first_judgment_id,
            battle.second_judgment_id,
        ): _get_winner(battle)
        for battle in battles
        if battle.verdict is not None
    }
    return [
        won == outcome[prompt, response, second, first]
        for (prompt, response, first, second), won in outcome.items()
        if first < second and (prompt, response, second, first) in outcome
    ]


def _get_winner(battle: Battle) -> str | None:
    """The judgment that won; None for a tie."""
    winners = {"A": battle.first_judgment_id, "B": battle.second_judgment_id}
    return winners.get(battle.verdict or "")


def _list_wins_of_larger(
    battles: Sequence[Battle], amount: Mapping[str, float | None]
) -> list[bool]:
    """Per decided battle of unequal amounts: did the larger amount win?"""
    wins = []
    for battle in battles:
        if battle.verdict not in ("A", "B"):
            continue
        first = amount.get(battle.first_judgment_id)
        second = amount.get(battle.second_judgment_id)
        if first is not None and second is not None and first != second:
            wins.append((battle.verdict == "A") == (first > second))
    return wins


def _compute_share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _sort_by_frequency(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
