"""Find the judgments of a response that can still become its highest or lowest rated judgment.

Battles run in rounds; after each round, a judgment that can no longer become chosen or rejected
battles only judgments that still can. The final balance of a judgment, wins minus losses, is
predicted from its current balance, with an interval that narrows as battles are decided. Nothing
here depends on models.

Source: an option, off by default; the paper fights all battles.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

OrderedPair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WinRecord:
    """Wins and losses of a judgment so far.

    Attributes:
        net: battles won minus battles lost; ties and unreadable verdicts count as neither.
        finished: number of the judgment's battles that have run.
        remaining: number of the judgment's planned battles that have not run yet.
    """

    net: int
    finished: int
    remaining: int


def split_into_rounds(orders: Sequence[OrderedPair]) -> list[list[OrderedPair]]:
    """Split ordered pairs into rounds in which all judgments battle about equally often.

    The judgments are placed on a circle. Round r contains, in both orders, the pairs that are r + 1
    places apart, so that every judgment battles two others per round. The judgments keep the order
    in which they first appear.
    """
    names = list(dict.fromkeys(name for order in orders for name in order))
    place = {name: index for index, name in enumerate(names)}
    rounds: dict[int, list[OrderedPair]] = {}
    for order in orders:
        apart = abs(place[order[0]] - place[order[1]])
        rounds.setdefault(min(apart, len(names) - apart), []).append(order)
    return [rounds[distance] for distance in sorted(rounds)]


def tally_win_records(
    orders: Sequence[OrderedPair], verdicts: Mapping[OrderedPair, str | None]
) -> dict[str, WinRecord]:
    """Add up the win records of the judgments of one response.

    Args:
        orders: all planned battles.
        verdicts: verdicts of the finished battles: A, B, tie or None.
    """
    nets = {name: 0 for order in orders for name in order}
    finished, planned = dict.fromkeys(nets, 0), dict.fromkeys(nets, 0)
    for order in orders:
        for name in order:
            planned[name] += 1
            finished[name] += order in verdicts
        won = {"A": 1, "B": -1}.get(verdicts.get(order) or "", 0)
        nets[order[0]] += won
        nets[order[1]] -= won
    return {
        name: WinRecord(net, finished[name], planned[name] - finished[name])
        for name, net in nets.items()
    }


def find_undecided_judgments(standings: Mapping[str, WinRecord], *, deviations: float) -> set[str]:
    """Find the judgments that can still reach an undecided rank.

    Args:
        deviations: half-width of the prediction intervals, in standard deviations.
    """
    ends = {name: bound_net_wins(now, deviations=deviations) for name, now in standings.items()}
    best_low = max(low for low, _ in ends.values())
    worst_high = min(high for _, high in ends.values())
    top = {name for name, (_, high) in ends.items() if high >= best_low}
    bottom = {name for name, (low, _) in ends.items() if low <= worst_high}
    return {name for place in (top, bottom) if len(place) > 1 for name in place}


def bound_net_wins(now: WinRecord, *, deviations: float) -> tuple[float, float]:
    """Bound the final number of wins minus losses of a judgment.

    With mean m and variance v per battle, both estimated from n battles, the sum of l more battles
    is m l with the variance v l + v l^2 / n (random variation, and the uncertainty of m). One added
    tie prevents certainty for a judgment that has only won.
    """
    mean = now.net / (now.finished + 1)
    spread = math.sqrt((1 - mean**2) * (now.remaining + now.remaining**2 / max(now.finished, 1)))
    middle, width = now.net + mean * now.remaining, deviations * spread
    low = max(middle - width, now.net - now.remaining)
    return low, min(middle + width, now.net + now.remaining)


def select_remaining_battles(
    orders: Collection[OrderedPair], undecided: Collection[str]
) -> list[OrderedPair]:
    """Select the battles that involve a judgment whose rank is undecided."""
    return [order for order in orders if order[0] in undecided or order[1] in undecided]
