"""Elo ratings of judgments from their battle matrices: thousands of small problems at once.

Knows nothing of judgments: matrices in, ratings out.

Source: arXiv 2407.19594, section 2.2 (maximum likelihood of the battle matrix).
Departs from the paper: a small L2 prior, without which a judgment that wins every battle has no
finite rating.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

STEP_TOLERANCE = 1e-7
"""Newton stops after a step shorter than this, relative to 1 + the largest rating: another one
would be about as long as its square."""

_MAX_STEPS = 200
_STEPS_TOGETHER = 6  # then the few that need more go on with those of other groups
_SAFE = 1.0  # a full step that changes no gap by more always gains
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
        fitted = _fit_together(_stacked(matrices, places), prior)
        for place, rating in zip(places, np.ascontiguousarray(fitted.T), strict=True):
            ratings[place] = rating
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
        begins = [0, *np.cumsum(range(size - 1, 0, -1)).tolist()]
        self.of_first = [slice(*ends) for ends in pairwise(begins)]

    def of(self, problems: Places) -> "_Pairs":
        """The same for some of the problems."""
        return _Pairs(self.won[:, problems], self.lost[:, problems], self.size, self.prior)

    def first_guess(self) -> Array:
        """Centred ratings [n, p] that the shares of wins suggest.

        Whoever never loses is held by the prior alone, as if by a loss of some hundred priors. The
        factor is what opponents of unlike strength take from the logarithm.
        """
        little = 100 * self.prior
        wins = self._sums(self.won, self.lost) + little
        losses = self._sums(self.lost, self.won) + little
        return _centred(1.3 * np.log(wins / losses))

    def system(self, ratings: Array) -> Array:
        """Newton's equations at centred ratings, [n, n + 1, p].

        The upper triangle of the negated Hessian of the objective, and its gradient beside it; the
        lower triangle is left unset.
        """
        size = self.size
        strength = np.exp(ratings)
        first, second = strength[self.first], strength[self.second]
        both = first + second
        first /= both
        second /= both
        pull = self.won * second
        pull -= self.lost * first
        weight = self.won + self.lost
        weight *= first
        weight *= second
        system = np.empty((size, size + 1, ratings.shape[1]))
        system[:, size] = self._sums(pull, -pull) - 2 * self.prior * ratings
        weights_of_each = self._sums(weight, weight)
        trace = _total(weights_of_each)
        # Moving all ratings together changes next to nothing and is never wanted: stiffen that
        # direction, or rounding would be magnified by 1 / prior along it.
        stiff = trace / size
        for one, pairs in enumerate(self.of_first):
            np.subtract(stiff, weight[pairs], out=system[one, one + 1 : size])
        diagonal = np.arange(size)
        system[diagonal, diagonal] = weights_of_each + (stiff + 2 * self.prior + 1e-15 * trace)
        return system

    def _sums(self, above: Array, below: Array) -> Array:
        """Sums [n, p] over each one's pairs: `above` where it is the first, else `below`."""
        sums = np.zeros((self.size, above.shape[1]))
        for one, pairs in enumerate(self.of_first):
            sums[one] += _total(above[pairs])
            sums[one + 1 :] += below[pairs]
        return sums


def _fit_together(wins: Array, prior: float) -> Array:
    """Ratings [n, p] of p problems [n, n, p]."""
    size = len(wins)
    ratings = np.zeros(wins.shape[1:])
    if size < 2:
        return ratings
    first, second = np.triu_indices(size, 1)
    pairs = _Pairs(wins[first, second], wins[second, first], size, prior)
    active: Places = np.flatnonzero((pairs.won + pairs.lost).any(axis=0))
    ratings[:, active] = pairs.of(active).first_guess()
    reach = np.full(wins.shape[2], np.inf)
    for _ in range(0, _MAX_STEPS, _STEPS_TOGETHER):
        groups = [active[at : at + _TOGETHER] for at in range(0, active.size, _TOGETHER)]
        if not groups:
            return ratings
        active = np.concatenate([_improve(pairs, group, ratings, reach) for group in groups])
    raise ArithmeticError(f"{active.size} of {wins.shape[2]} Elo problems did not converge.")


def _improve(everything: _Pairs, active: Places, ratings: Array, reach: Array) -> Places:
    """Make some steps with the ratings [n, p] of `active`; returns who has not arrived.

    Args:
        everything: the pairs of all problems.
        active: which of them to work on.
        ratings: of all problems; those of `active` are changed.
        reach: relative length of each problem's last step, [p]; changed likewise.
    """
    pairs, now = everything.of(active), ratings[:, active]
    for _ in range(_STEPS_TOGETHER):
        now, length = _newton_step(pairs, now)
        ratings[:, active] = now
        arrived = (length <= STEP_TOLERANCE) | ((length <= _NEAR) & (length >= reach[active] / 2))
        reach[active] = length
        if arrived.any():
            on = np.flatnonzero(~arrived)
            active, now, pairs = active[on], now[:, on], pairs.of(on)
        if active.size == 0:
            break
    return active


def _newton_step(pairs: _Pairs, ratings: Array) -> tuple[Array, Array]:
    """One damped step: new centred ratings [n, p], and the step's relative length [p].

    The third derivative of the objective along a step that changes no gap by more than d is at
    most d times the second. So log(1 + d) / d of the step always gains, wherever it begins, and
    no objective need be computed to find out; so does the whole step, while exp(d) - d - 1 is less
    than d^2 (Sun and Tran-Dinh 2019, arXiv 1703.04599).
    """
    step = _centred(_solve(pairs.system(ratings)))
    change = step.max(axis=0) - step.min(axis=0)
    damping = np.log1p(change) / np.where(change > 0, change, 1)
    moved = ratings + np.where(change > _SAFE, damping, 1) * step
    return moved, np.abs(step).max(axis=0) / (1 + np.abs(ratings).max(axis=0))


def _solve(system: Array) -> Array:
    """Solutions [n, p] of p positive definite systems [n, n + 1, p], which are used up.

    Elimination along the problems, in the upper triangle: no pivot is needed, and for systems this
    small a call of LAPACK for each costs more.
    """
    size = len(system)
    for at in range(size - 1):
        factors = system[at, at + 1 : size] / system[at, at]
        for row in range(at + 1, size):
            system[row, row:] -= factors[row - at - 1] * system[at, row:]
    solution = np.empty_like(system[:, size])
    for at in reversed(range(size)):
        rest = system[at, size]
        for known in range(at + 1, size):
            rest -= system[at, known] * solution[known]
        solution[at] = rest / system[at, at]
    return solution


def _centred(values: Array) -> Array:
    """Values [n, p] less their mean over n."""
    return values - _total(values) / len(values)


def _total(terms: Array) -> Array:
    """Sum over the first axis, in order; numpy's order depends on how many problems there are."""
    return reduce(np.add, terms)
