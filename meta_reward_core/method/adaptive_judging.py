"""Find the responses that can still be chosen or rejected while their judgments are being sampled.

Judgments are drawn in rounds; after each, a response that can no longer get into the best tier of
its prompt, nor into the worst one, gets no more of them. The mean that a response will have in the
end is predicted from the scores it has: an interval that closes as judgments run out. Nothing
here knows of models or texts.

Source: an option, off by default; the paper draws all judgments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meta_reward_core.method.parsing import MAX_SCORE

JUDGING_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class PartialScore:
    """Scores of a response so far.

    Attributes:
        scores: of its readable judgments.
        remaining: judgments that it would still get.
    """

    scores: Sequence[float]
    remaining: int


def split_into_rounds(samples: int, *, at_least: int) -> list[int]:
    """Plan the judgments per response of each round; the first has at least `at_least`."""
    first = min(samples, max(at_least, math.ceil(samples / JUDGING_ROUNDS)))
    rest, rounds = samples - first, JUDGING_ROUNDS - 1
    sizes = [first, *(rest // rounds + (number < rest % rounds) for number in range(rounds))]
    return [size for size in sizes if size]


def find_still_in_play(
    judged: Mapping[str, PartialScore], *, rho: float, deviations: float
) -> set[str]:
    """Find the responses of one prompt that can still enter its top or bottom tier.

    Args:
        judged: by response.
        rho: width of the tiers; see `pairing.select_actor_pair`.
        deviations: half the width of each prediction, in its standard deviations.
    """
    ends = {
        name: bound_final_mean(one, deviations=deviations)
        for name, one in judged.items()
        if one.scores or one.remaining
    }
    if not ends:
        return set()
    lows, highs = zip(*ends.values(), strict=True)
    least_of_best = (1 - rho) * max(lows) + rho * min(lows)
    most_of_worst = (1 - rho) * min(highs) + rho * max(highs)
    return {
        name for name, (low, high) in ends.items() if high >= least_of_best or low <= most_of_worst
    }


def bound_final_mean(judged: PartialScore, *, deviations: float) -> tuple[float, float]:
    """Bound the final mean score of a response.

    With mean m and variance v of n scores, the sum of l more is m l with the variance
    v l + v l^2 / n: what chance adds, and what is not known of m. One imagined judgment, a point
    away from the mean, keeps a response whose judgments agree from being certain to go on so.
    """
    count, remaining, total = len(judged.scores), judged.remaining, math.fsum(judged.scores)
    if not count:
        return 0.0, MAX_SCORE
    mean = total / count
    variance = (math.fsum((score - mean) ** 2 for score in judged.scores) + 1) / (count + 1)
    width = deviations * math.sqrt(variance * (remaining + remaining**2 / count))
    lowest, highest = (
        total / (count + remaining),
        (total + MAX_SCORE * remaining) / (count + remaining),
    )
    off = width / (count + remaining)
    return max(lowest, mean - off), min(highest, mean + off)
