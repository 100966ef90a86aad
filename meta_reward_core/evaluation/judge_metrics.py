"""Metrics of the judge, the meta-judge and the pairs of an iteration: spread, biases, lengths.

Pure functions of records and columns. The mean of an empty list is None, never 0. Shares are in
[0, 1], lengths in characters unless named otherwise.

Source: arXiv 2407.19594, section 4 (score, position and length bias of judge and meta-judge).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.method.parsing import MAX_SCORE
from meta_reward_core.storage.records import Battle, Dropped, Judgment, PairKind, ResponseScore

BIN_WIDTH: Final = 0.5

HISTOGRAM_BINS: Final = tuple(k * BIN_WIDTH for k in range(int(MAX_SCORE / BIN_WIDTH) + 1))
"""Lower bound of each bin: [0, .5), [.5, 1), ... [4.5, 5), and exactly 5, because the scores of a
judge that collapses concentrate there."""


@dataclass(frozen=True, slots=True)
class JudgeMetrics:
    """Distribution of the judge's scores.

    Attributes:
        judgments: number of judgments.
        scored: number of judgments that have a score.
        parse_rate: scored / judgments.
        mean: mean of the scores.
        histogram: count per bin of `HISTOGRAM_BINS`; empty for a reward model, whose scores have no
            scale.
        entropy_bits: entropy of the histogram in bits; 0 if all scores are equal, at most log2(11)
            = 3.46.
        share_at_max: share of the scores that are exactly 5.
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
    """Statistics of the meta-judge's verdicts.

    A battle is "decided" if its verdict is A or B, not a tie or unreadable.

    Attributes:
        battles: number of battles; each presentation order is one battle.
        decided: number of battles with a winner.
        ties: number of verdicts that are a tie.
        parse_rate: readable verdicts, including ties, divided by battles.
        won_by_first: share of decided battles won by the judgment shown first.
        won_by_second: share of decided battles won by the judgment shown second.
        both_orders: number of pairs of judgments with a readable verdict in both orders.
        inconsistency: share of these pairs whose two verdicts differ in outcome.
        unequal_scores: number of decided battles between judgments with different scores.
        won_by_higher_score: share of these battles won by the judgment with the higher score.
        unequal_lengths: number of decided battles between judgments of different lengths.
        won_by_longer: share of these battles won by the longer judgment.
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
        few_readable: number of judge pairs in which a judgment has a readable verdict in both
            orders against less than half of its opponents.
    """

    kind: PairKind
    pairs: int
    dropped: dict[str, int]
    yield_rate: float | None
    chosen_chars: float | None
    rejected_chars: float | None
    few_readable: int = 0


@dataclass(frozen=True, slots=True)
class IterationMetrics:
    """All inputs of the alarms; unmeasured parts are None or absent.

    Attributes:
        response_chars: mean length of the responses.
        score_length_correlation: Spearman's correlation of mean score and length over responses.
        pairs: metrics of the pairs, by scheduled kind.
    """

    judge: JudgeMetrics | None = None
    meta_judge: MetaJudgeMetrics | None = None
    pairs: tuple[PairMetrics, ...] = ()
    response_chars: float | None = None
    score_length_correlation: float | None = None


def compute_mean(values: Iterable[float]) -> float | None:
    """Compute the arithmetic mean; None for an empty list."""
    collected = list(values)
    return math.fsum(collected) / len(collected) if collected else None


def compute_score_histogram(scores: Iterable[float]) -> tuple[int, ...]:
    """Count the scores in each bin of `HISTOGRAM_BINS`.

    Raises:
        ValueError: a score is outside [0, 5].
    """
    counts = [0] * len(HISTOGRAM_BINS)
    for score in scores:
        if not 0 <= score <= MAX_SCORE:
            raise ValueError(f"Scores must be between 0 and {MAX_SCORE:g}, not {score}.")
        counts[int(score / BIN_WIDTH)] += 1
    return tuple(counts)


def compute_entropy_bits(counts: Sequence[int]) -> float | None:
    """Compute Shannon entropy of a histogram in bits; None if it is empty."""
    total = sum(counts)
    if total == 0:
        return None
    shares = [count / total for count in counts if count]
    return abs(math.fsum(share * math.log2(share) for share in shares))


class JudgeTally:
    """Counts of judgments, partition by partition, without their texts."""

    def __init__(self) -> None:
        self._points = Counter[float]()
        self._unscored = Counter[str]()
        self._has_scale = True

    def add(self, judgments: Iterable[Judgment]) -> None:
        """Count more judgments."""
        for judgment in judgments:
            if judgment.readout == "reward_model":
                self._has_scale = False
            if judgment.score is None:
                self._unscored[judgment.unscored_reason or "unknown"] += 1
            else:
                self._points[judgment.score] += 1

    def compute_metrics(self) -> JudgeMetrics:
        """Compute spread and readability of all counted scores."""
        scored = self._points.total()
        judgments = scored + self._unscored.total()
        histogram = compute_score_histogram(self._points.elements()) if self._has_scale else ()
        return JudgeMetrics(
            judgments=judgments,
            scored=scored,
            parse_rate=_compute_share(scored, judgments),
            mean=compute_mean(self._points.elements()),
            histogram=histogram,
            entropy_bits=compute_entropy_bits(histogram),
            share_at_max=_compute_share(histogram[-1], scored) if histogram else None,
            unscored=_sort_by_frequency(self._unscored),
        )


class MetaJudgeTally:
    """Counts of battles, partition by partition, without their texts."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._unparsed = Counter[str]()

    def add(self, battles: Sequence[Battle], judgments: Mapping[str, Judgment]) -> None:
        """Add battles to the counts.

        Args:
            battles: battles to add; those of one response must be added in the same call.
            judgments: the judgments that battled, by judgment id; battles of other judgments do not
                count towards score and length bias.
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

    def compute_metrics(self) -> MetaJudgeMetrics:
        """Compute position, score and length bias of all counted battles."""
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
    """Compute position, score and length bias of the meta-judge in these battles."""
    tally = MetaJudgeTally()
    tally.add(battles, judgments)
    return tally.compute_metrics()


def measure_pairs(
    kind: PairKind,
    *,
    chosen_chars: Sequence[int],
    rejected_chars: Sequence[int],
    dropped: Iterable[Dropped],
    few_readable: int = 0,
) -> PairMetrics:
    """Compute yield and lengths of the pairs of one kind; drops of other kinds are ignored.

    Args:
        kind: actor or judge.
        chosen_chars: length of each pair's chosen text.
        rejected_chars: length of each pair's rejected text.
        dropped: the prompts without a pair.
        few_readable: see `PairMetrics`.
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
        few_readable=few_readable,
    )


def count_drops_by_reason(dropped: Iterable[Dropped], kind: PairKind) -> dict[str, int]:
    """Count the prompts without a pair of a kind by reason, most frequent first."""
    return _sort_by_frequency(Counter(drop.reason for drop in dropped if drop.kind == kind))


def compute_spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Compute Spearman's correlation; None for fewer than two rows or a constant column.

    Raises:
        ValueError: the columns differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"Columns of {len(first)} and {len(second)} rows cannot be correlated.")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr  # a third of the start-up time of the site

    return float(spearmanr(first, second).statistic)


def compute_score_length_correlation(scores: Iterable[ResponseScore]) -> float | None:
    """Compute Spearman's correlation of mean score and length in characters of scored responses."""
    scored = [(score.mean, score.length_chars) for score in scores if score.mean is not None]
    return compute_spearman([mean for mean, _ in scored], [length for _, length in scored])


def _compare_orders(battles: Sequence[Battle]) -> list[bool]:
    """Return for each pair with readable verdicts in both orders whether they agree."""
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
    """Return the judgment that won; None for a tie."""
    winners = {"A": battle.first_judgment_id, "B": battle.second_judgment_id}
    return winners.get(battle.verdict or "")


def _list_wins_of_larger(
    battles: Sequence[Battle], amount: Mapping[str, float | None]
) -> list[bool]:
    """Return for each decided battle with different amounts whether the larger amount won."""
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
