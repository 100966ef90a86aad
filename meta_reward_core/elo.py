"""Elo ratings of judgments from their battle matrices: thousands of small problems at once.

Knows nothing of judgments: matrices in, ratings out.

Source: arXiv 2407.19594, section 2.2 (maximum likelihood of the battle matrix).
Departs from the paper: a small L2 prior, without which a judgment that wins every battle has no
finite rating.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

STEP_TOLERANCE = 1e-11
"""Newton stops at a step shorter than this, relative to 1 + the largest rating."""

_MAX_STEPS = 200
_NEAR = 1e-5  # so near, steps shrink quadratically; one that does not is rounding alone
_TOGETHER = 512  # problems whose arrays stay in a processor's cache


def fit_elo(matrices: Sequence[Array], *, prior: float = 1e-4) -> list[Array]:
    """Fit the ratings of every battle matrix.

    Each problem maximises sum_{m,n} B[m,n] log sigmoid(e_m - e_n) - prior * sum_m e_m^2, which is
    strictly concave, by damped Newton steps. Problems of one size are solved
    together; a problem's result does not depend on its companions.

    Args:
        matrices: float64 arrays of shape [n_i, n_i] with entries >= 0; the diagonal is ignored.
        prior: weight of the L2 prior on natural-log ratings, > 0.

    Returns:
        One float64 array of shape [n_i] per matrix, in order: ratings in nats (a difference d
        means a win with probability sigmoid(d)), centred on zero.

    Raises:
        ValueError: a matrix is not square, has a negative or non-finite entry, or prior <= 0.
        ArithmeticError: Newton did not arrive; no matrix that is known does that.
    """
    if not (np.isfinite(prior) and prior > 0):
        raise ValueError(f"prior must be a positive number, not {prior}.")
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        groups[_checked_size(place, matrix)].append(place)
    ratings: list[Array] = [np.zeros(0)] * len(matrices)
    for places in groups.values():
        for begin in range(0, len(places), _TOGETHER):
            some = places[begin : begin + _TOGETHER]
            fitted = _fit_together(_stacked(matrices, some), prior)
            for place, rating in zip(some, fitted.T, strict=True):
                ratings[place] = rating.copy()
    return ratings


def _checked_size(place: int, matrix: Array) -> int:
    """The n of an [n, n] matrix."""
    shape = np.shape(matrix)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"Battle matrix {place} has shape {shape}; it must be square.")
    return int(shape[0])


def _stacked(matrices: Sequence[Array], places: Sequence[int]) -> Array:
    """Matrices of one size as one array [n, n, p]: arithmetic then runs along the problems."""
    stack = np.array([matrices[place] for place in places], dtype=np.float64)
    wrong = ~(np.isfinite(stack) & (stack >= 0)).all(axis=(1, 2))
    if wrong.any():
        place = places[int(wrong.argmax())]
        raise ValueError(f"Battle matrix {place} has a negative or non-finite entry.")
    return np.ascontiguousarray(np.moveaxis(stack, 0, -1))


class _Pairs:
    """The wins between the two of each unordered pair, [k, p], and what ratings make of them."""

    def __init__(self, won: Array, lost: Array, size: int, prior: float) -> None:
        self.won, self.lost, self.size, self.prior = won, lost, size, prior
        self.first, self.second = np.triu_indices(size, 1)

    def of(self, problems: Places) -> "_Pairs":
        """The same for some of the problems."""
        return _Pairs(self.won[:, problems], self.lost[:, problems], self.size, self.prior)

    def first_guess(self) -> Array:
        """Centred ratings [n, p] that the shares of wins suggest."""
        wins = _total(self._spread(self.won, self.lost).swapaxes(0, 1))
        losses = _total(self._spread(self.lost, self.won).swapaxes(0, 1))
        return _centred(np.log((wins + 0.5) / (losses + 0.5)))

    def derivatives(self, ratings: Array) -> tuple[Array, Array]:
        """Gradient [n, p] and negated Hessian [n, n, p] of the objective at centred ratings."""
        gap = ratings[self.first] - ratings[self.second]
        tail = np.exp(-np.abs(gap))
        likely = 1 / (1 + tail)
        unlikely = tail * likely
        ahead = gap > 0
        pull = self.won * np.where(ahead, unlikely, likely)
        pull -= self.lost * np.where(ahead, likely, unlikely)
        weight = (self.won + self.lost) * likely * unlikely
        gradient = _total(self._spread(pull, -pull).swapaxes(0, 1)) - 2 * self.prior * ratings
        weights = self._spread(weight, weight)
        weights_of_each = _total(weights)
        trace = _total(weights_of_each)
        # Moving all ratings together changes next to nothing and is never wanted: stiffen that
        # direction, or rounding would be magnified by 1 / prior along it.
        curvature = trace / self.size - weights
        diagonal = np.arange(self.size)
        curvature[diagonal, diagonal] += weights_of_each + 2 * self.prior + 1e-15 * trace
        return gradient, curvature

    def _spread(self, above: Array, below: Array) -> Array:
        """Values of pairs [k, p] as matrices [n, n, p] with zeros on the diagonal."""
        spread = np.zeros((self.size, self.size, above.shape[1]))
        spread[self.first, self.second] = above
        spread[self.second, self.first] = below
        return spread


def _fit_together(wins: Array, prior: float) -> Array:
    """Ratings [n, p] of p problems [n, n, p]."""
    size = len(wins)
    if size < 2:
        return np.zeros(wins.shape[1:])
    first, second = np.triu_indices(size, 1)
    everything = _Pairs(wins[first, second], wins[second, first], size, prior)
    ratings = np.zeros(wins.shape[1:])
    active: Places = np.flatnonzero((everything.won + everything.lost).any(axis=0))
    pairs = everything.of(active)
    now, reach = pairs.first_guess(), np.full(len(active), np.inf)
    for _ in range(_MAX_STEPS):
        if active.size == 0:
            return ratings
        now, length = _newton_step(pairs, now)
        ratings[:, active] = now
        arrived = (length <= STEP_TOLERANCE) | ((length <= _NEAR) & (length >= reach / 2))
        reach = length
        if arrived.any():
            on = np.flatnonzero(~arrived)
            active, now, reach, pairs = active[on], now[:, on], reach[on], pairs.of(on)
    raise ArithmeticError(f"{active.size} of {wins.shape[2]} Elo problems did not converge.")


def _newton_step(pairs: _Pairs, ratings: Array) -> tuple[Array, Array]:
    """One damped step: new centred ratings [n, p], and the step's relative length [p].

    The third derivative of the objective along a step that changes no gap by more than d is at
    most d times the second. So log(1 + d) / d of the step always gains, wherever it begins, and
    no objective need be computed to find out (Sun and Tran-Dinh 2019, arXiv 1703.04599).
    """
    gradient, curvature = pairs.derivatives(ratings)
    step = _centred(_solve(curvature, gradient))
    change = step.max(axis=0) - step.min(axis=0)
    damping = np.log1p(change) / np.where(change > 0, change, 1)
    moved = ratings + np.where(change > _NEAR, damping, 1) * step
    return moved, np.abs(step).max(axis=0) / (1 + np.abs(ratings).max(axis=0))


def _solve(matrices: Array, right: Array) -> Array:
    """Solutions [n, p] of p systems [n, n, p], all positive definite: no pivot is needed.

    Elimination along the problems: for systems this small a call of LAPACK for each costs more.
    """
    size = len(right)
    rows = np.concatenate([matrices, right[:, None]], axis=1)
    for at in range(size - 1):
        factors = rows[at + 1 :, at] / rows[at, at]
        rows[at + 1 :, at + 1 :] -= factors[:, None] * rows[at, at + 1 :]
    solution = np.empty_like(right)
    for at in reversed(range(size)):
        solution[at] = rows[at, size]
        for known in range(at + 1, size):
            solution[at] -= rows[at, known] * solution[known]
        solution[at] /= rows[at, at]
    return solution


def _centred(values: Array) -> Array:
    """Values [n, p] less their mean over n."""
    return values - _total(values) / len(values)


def _total(terms: Array) -> Array:
    """Sum over the first axis, in order; numpy's order depends on how many problems there are."""
    return reduce(np.add, terms)
