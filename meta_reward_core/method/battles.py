"""Battles of judgments: position bias, and the battle matrix that corrects for it.

Outcomes are keyed by the ids of the two judgments, never by position: a missing battle leaves a
zero in its own cell and does not affect other cells.

Source: arXiv 2407.19594, section 2.2 (position weights and battle matrix).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meta_reward_core.errors import ArtifactError
from meta_reward_core.storage.records import Battle


@dataclass(frozen=True, slots=True)
class PositionWeights:
    """Weight of a win in each position, from all battles of an iteration.

    Attributes:
        first: weight w1 of a win by the judgment shown first, in [0, 1].
        second: weight w2 of a win by the judgment shown second, 1 - w1.
        wins_first: battles won by the first position.
        wins_second: battles won by the second position.
        ties: stated ties.
        unparsed: replies without a readable verdict; not ties.
    """

    first: float
    second: float
    wins_first: int
    wins_second: int
    ties: int
    unparsed: int

    @property
    def one_position_won_everything(self) -> bool:
        """Whether all wins were in one position, which makes every battle matrix zero."""
        return (self.wins_first == 0) != (self.wins_second == 0)


def compute_position_weights(battles: Iterable[Battle]) -> PositionWeights:
    """Compute the weights of wins, lower for the position that wins more often.

    w1 = wins_second / (wins_first + wins_second) and w2 = 1 - w1; 0.5 each without any win.
    Battles may come from several shards and in any order.
    """
    counts = Counter(battle.verdict for battle in battles)
    return compute_weights_from_counts(
        wins_first=counts["A"], wins_second=counts["B"], ties=counts["tie"], unparsed=counts[None]
    )


def compute_weights_from_counts(
    *, wins_first: int, wins_second: int, ties: int = 0, unparsed: int = 0
) -> PositionWeights:
    """Compute position weights from win counts."""
    wins = wins_first + wins_second
    first = wins_second / wins if wins else 0.5
    second = wins_first / wins if wins else 0.5
    return PositionWeights(first, second, wins_first, wins_second, ties, unparsed)


def compute_readable_shares(battles: Iterable[Battle]) -> dict[str, float]:
    """Share of a judgment's opponents against which all its battles have a readable verdict.

    Usually these are both orders; skipped orders (`adaptive_battles`) do not count.

    Args:
        battles: the battles of one response.

    Returns:
        Share by judgment id, for each judgment that battled.
    """
    readable: dict[tuple[str, str], bool] = {}
    for battle in battles:
        names = (battle.first_judgment_id, battle.second_judgment_id)
        for pair in (names, names[::-1]):
            readable[pair] = readable.get(pair, True) and battle.verdict is not None
    shares: defaultdict[str, list[bool]] = defaultdict(list)
    for (judgment_id, _), is_readable in readable.items():
        shares[judgment_id].append(is_readable)
    return {judgment_id: sum(found) / len(found) for judgment_id, found in shares.items()}


def build_battle_matrix(
    judgment_ids: Sequence[str], battles: Iterable[Battle], weights: PositionWeights
) -> npt.NDArray[np.float64]:
    """Build the matrix of weighted wins of each judgment over every other judgment.

    B[m, n] = w1 * 1{m shown first won} + w2 * 1{m shown second won}. A tie, an unreadable reply and
    a skipped battle add nothing.

    Args:
        judgment_ids: the n judgments of one response; row and column order of the matrix.
        battles: battles among exactly these judgments, each ordered pair at most once.
        weights: position weights of the whole iteration.

    Returns:
        float64 of shape [n, n], zero on the diagonal, entries in [0, 1].

    Raises:
        ArtifactError: a battle refers to a judgment that is not listed, pairs a judgment with
            itself, or occurs twice.
    """
    index = {judgment_id: place for place, judgment_id in enumerate(judgment_ids)}
    matrix = np.zeros((len(index), len(index)), dtype=np.float64)
    seen: set[tuple[str, str]] = set()
    for battle in battles:
        key = _check_battle_key(battle, index, seen)
        seen.add(key)
        first, second = index[key[0]], index[key[1]]
        if battle.verdict == "A":
            matrix[first, second] += weights.first
        elif battle.verdict == "B":
            matrix[second, first] += weights.second
    return matrix


def _check_battle_key(
    battle: Battle, index: dict[str, int], seen: set[tuple[str, str]]
) -> tuple[str, str]:
    """Return the ordered pair of judgment indices of a battle."""
    key = (battle.first_judgment_id, battle.second_judgment_id)
    where = f"Battle {key[0]} against {key[1]} of response {battle.response_id}"
    unknown = [judgment_id for judgment_id in key if judgment_id not in index]
    if unknown:
        raise ArtifactError(f"{where}: {unknown[0]} is not among the judgments given.")
    if key[0] == key[1]:
        raise ArtifactError(f"{where}: a judgment cannot battle itself.")
    if key in seen:
        raise ArtifactError(f"{where} is listed twice; each order must occur once.")
    return key
