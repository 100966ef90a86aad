"""Elo ratings of judgments from their battle matrices, for thousands of small problems at once.

This module does not depend on judgments: it converts matrices to ratings.

Source: arXiv 2407.19594, section 2.2 (maximum likelihood of the battle matrix).
Departs from the paper: a small L2 prior, without which a judgment that wins every battle has no
finite rating.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating]
"""float64, or float32 in the first steps."""
IndexArray = npt.NDArray[np.intp]

STEP_TOLERANCE = 1e-7
"""Newton's method stops after a step shorter than this, relative to 1 + the largest rating; the
next step would be about its square.
"""

_MAX_STEPS = 200
_ROUGH_STEPS = 3  # float32 takes half the time, and the later iterations correct its rounding
_STEPS_TOGETHER = 4  # then the few unfinished problems continue together with those of other groups
_MAX_UNDAMPED_CHANGE = 1.0  # a full step with smaller changes always improves the likelihood
# below this, steps shrink quadratically; a step that does not is only rounding
_NEAR_TOLERANCE = 1e-5
_MAX_GROUP_SIZE = 1024  # number of problems whose arrays fit into a processor's cache


def fit_elo(matrices: Sequence[Array], *, prior: float = 1e-4) -> list[Array]:
    """Fit the ratings of every battle matrix.

    Each problem maximizes sum_{m,n} B[m,n] log sigmoid(e_m - e_n) - prior * sum_m e_m^2, which is
    strictly concave, by damped Newton steps, the first ones in float32. Problems
    of one size are solved together; the result of a problem does not depend on the others.

    Args:
        matrices: float64 arrays of shape [n_i, n_i] with entries >= 0; the diagonal is ignored.
        prior: weight of the L2 prior on natural-log ratings, > 0.

    Returns:
        One float64 array of shape [n_i] per matrix, in order: ratings in nats (a difference d
        means a win with probability sigmoid(d)), centered on zero.

    Raises:
        ValueError: a matrix is not square, has a negative or non-finite entry, or prior <= 0.
        ArithmeticError: Newton's method did not converge; no known matrix causes this.
    """
    if not (np.isfinite(prior) and prior > 0):
        raise ValueError(f"prior must be a positive number, not {prior}.")
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        by_size[_check_square(place, matrix)].append(place)
    ratings = [np.zeros(0)] * len(matrices)
    by_size.pop(0, None)
    for positions in by_size.values():
        groups = [
            positions[at : at + _MAX_GROUP_SIZE] for at in range(0, len(positions), _MAX_GROUP_SIZE)
        ]
        begun = [_refine_in_float32(_start_problems(matrices, group, prior)) for group in groups]
        for place, rating in _fit_together(begun):
            ratings[place] = rating
    return ratings


def _check_square(place: int, matrix: Array) -> int:
    """Return n of an [n, n] matrix."""
    shape = matrix.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"Battle matrix {place} has shape {shape}; it must be square.")
    return int(shape[0])


def _start_problems(
    matrices: Sequence[Array], positions: Sequence[int], prior: float
) -> "_Problems":
    """Set up problems of matrices of one size with initial ratings."""
    stack = np.array([matrices[place] for place in positions], dtype=np.float64)
    fit = (stack >= 0) & (stack < np.inf)
    if not fit.all():
        place = positions[int(fit.all(axis=(1, 2)).argmin())]
        raise ValueError(f"Battle matrix {place} has a negative or non-finite entry.")
    size = stack.shape[1]
    rows = np.ascontiguousarray(stack.reshape(len(positions), -1).T)
    first, second = np.triu_indices(size, 1)
    won, lost = rows[first * size + second], rows[second * size + first]
    guess = _guess_ratings(
        _sum_over_pairs(won, lost, size), _sum_over_pairs(lost, won, size), prior
    )
    return _Problems(np.array(positions), won, lost, guess, np.full(len(positions), np.inf), prior)


def _guess_ratings(wins: Reals, losses: Reals, prior: float) -> Reals:
    """Estimate initial centered ratings [n, p] from sums of wins and losses, each [n, p].

    The rating of a judgment that never loses is limited only by the prior, which acts like a loss
    of about a hundred times the prior. The factor corrects the logarithm for opponents of different
    strength.
    """
    little = 100 * prior
    return _center(1.3 * np.log((wins + little) / (losses + little)))


def _refine_in_float32(problems: "_Problems") -> "_Problems":
    """Improve the initial ratings by steps in float32, unless their range exceeds float32."""
    with np.errstate(all="ignore"):
        rough = problems.to_float32()
        for _ in range(_ROUGH_STEPS):
            rough = replace(rough, ratings=_compute_newton_step(rough)[0])
        ratings = _center(rough.ratings.astype(np.float64))
    fit = np.isfinite(ratings).all(axis=0)
    return replace(problems, ratings=np.where(fit, ratings, problems.ratings))


@dataclass(frozen=True, slots=True)
class _Problems:
    """Problems of one size during the fit; arithmetic is vectorized over problems.

    Attributes:
        positions: indices of the matrices of the problems, [p].
        won: weighted wins of the first member of each unordered pair, [k, p].
        lost: weighted losses of the first member of each unordered pair, [k, p].
        ratings: current ratings, centered, [n, p].
        reach: relative length of the last step, [p].
        prior: weight of the L2 prior; see `fit_elo`.
    """

    positions: IndexArray
    won: Reals
    lost: Reals
    ratings: Reals
    reach: Reals
    prior: float

    def select(self, which: IndexArray) -> "_Problems":
        """Select some of the problems."""
        won, lost, ratings = self.won[:, which], self.lost[:, which], self.ratings[:, which]
        return _Problems(self.positions[which], won, lost, ratings, self.reach[which], self.prior)

    def to_float32(self) -> "_Problems":
        """Convert the problems to float32."""
        won, lost, ratings = (
            values.astype(np.float32) for values in (self.won, self.lost, self.ratings)
        )
        return replace(self, won=won, lost=lost, ratings=ratings)

    def build_system(self) -> Reals:
        """Build the equations of Newton's method, [n, n + 1, p].

        They consist of the upper triangle of the negated Hessian of the objective, followed by its
        gradient. The lower triangle is left unset.
        """
        size, problems = self.ratings.shape
        strength = np.exp(self.ratings)
        first, second = (strength[one] for one in np.triu_indices(size, 1))
        both = first + second
        first /= both
        second /= both
        pull = self.won * second
        pull -= self.lost * first
        weight = self.won + self.lost
        weight *= first
        weight *= second
        system = np.empty((size, size + 1, problems), dtype=strength.dtype)
        system[:, size] = _sum_over_pairs(pull, -pull, size) - 2 * self.prior * self.ratings
        weights_of_each = _sum_over_pairs(weight, weight, size)
        trace = _sum_in_order(weights_of_each)
        # Shifting all ratings together barely changes the likelihood: stiffen that direction, or
        # rounding errors would be magnified by 1 / prior along it.
        stiff = trace / size
        for one, pairs in enumerate(_get_pair_slices(size)):
            np.subtract(stiff, weight[pairs], out=system[one, one + 1 : size])
        diagonal = np.arange(size)
        system[diagonal, diagonal] = weights_of_each + (stiff + 2 * self.prior + 1e-15 * trace)
        return system


def _regroup(parts: Sequence[_Problems]) -> list[_Problems]:
    """Merge the problems of several groups into as few groups as possible."""
    won, lost, ratings = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("won", "lost", "ratings")
    )
    positions = np.concatenate([part.positions for part in parts])
    reach = np.concatenate([part.reach for part in parts])
    everything = _Problems(positions, won, lost, ratings, reach, parts[0].prior)
    every = np.arange(positions.size)
    begins = range(0, positions.size, _MAX_GROUP_SIZE)
    return [everything.select(every[begin : begin + _MAX_GROUP_SIZE]) for begin in begins]


@cache
def _get_pair_slices(size: int) -> tuple[slice, ...]:
    """Return the slices of pairs with the same first member."""
    begins = [0, *np.cumsum(range(size - 1, 0, -1)).tolist()]
    return tuple(slice(*ends) for ends in pairwise(begins))


def _sum_over_pairs(above: Reals, below: Reals, size: int) -> Reals:
    """Sum over the pairs of each member: `above` if it is first, else `below`. Shape [n, p]."""
    sums = np.zeros((size, above.shape[1]), dtype=above.dtype)
    for one, pairs in enumerate(_get_pair_slices(size)):
        sums[one + 1 :] += below[pairs]
        for values in above[pairs]:
            sums[one] += values
    return sums


def _fit_together(groups: Sequence[_Problems]) -> Iterator[tuple[int, Array]]:
    """Fit the groups of one size; return the index and the ratings [n] of each problem."""
    count = sum(group.positions.size for group in groups)
    for _ in range(0, _MAX_STEPS, _STEPS_TOGETHER):
        left = []
        for problems in groups:
            waiting = problems
            for _ in range(_STEPS_TOGETHER):
                waiting, arrived = _take_step(waiting)
                found = arrived.ratings.T.astype(np.float64, order="C")
                yield from zip(arrived.positions.tolist(), found, strict=True)
            left.append(waiting)
        groups = _regroup(left)
        if not groups:
            return
    unfinished = sum(group.positions.size for group in groups)
    raise ArithmeticError(f"{unfinished} of {count} Elo problems did not converge.")


def _take_step(problems: _Problems) -> tuple[_Problems, _Problems]:
    """Make one step; return the problems that continue and those that converged."""
    ratings, length = _compute_newton_step(problems)
    moved = replace(problems, ratings=ratings, reach=length)
    arrived = (length <= STEP_TOLERANCE) | (
        (length <= _NEAR_TOLERANCE) & (length >= problems.reach / 2)
    )
    if not arrived.any():
        return moved, moved.select(np.zeros(0, dtype=np.intp))
    return moved.select(np.flatnonzero(~arrived)), moved.select(np.flatnonzero(arrived))


def _compute_newton_step(problems: _Problems) -> tuple[Reals, Reals]:
    """Compute a damped step: new centered ratings [n, p] and its relative length [p].

    The third derivative of the objective along a step that changes no gap by more than d is at
    most d times the second. So log(1 + d) / d of the step always improves the objective, from any
    start, without evaluating it; so does the full step as long as exp(d) - d - 1 is less than d^2
    (Sun and Tran-Dinh 2019, arXiv 1703.04599).
    """
    step = _center(_solve_systems(problems.build_system()))
    change = step.max(axis=0) - step.min(axis=0)
    damping = np.log1p(change) / np.where(change > 0, change, 1)
    ratings = problems.ratings
    moved = ratings + np.where(change > _MAX_UNDAMPED_CHANGE, damping, 1) * step
    return moved, np.abs(step).max(axis=0) / (1 + np.abs(ratings).max(axis=0))


def _solve_systems(system: Reals) -> Reals:
    """Solve p positive definite systems [n, n + 1, p] in place; return solutions [n, p].

    Elimination is vectorized over the problems, in the upper triangle: no pivoting is needed, and
    for such small systems one LAPACK call per system is slower.
    """
    size = len(system)
    product = np.empty_like(system[0])
    for at in range(size - 1):
        factors = system[at, at + 1 : size] / system[at, at]
        for row, factor in enumerate(factors, start=at + 1):
            target = system[row, row:]
            target -= np.multiply(system[at, row:], factor, out=product[row:])
    solution = np.empty_like(system[:, size])
    for at in reversed(range(size)):
        rest = system[at, size]
        for known in range(at + 1, size):
            rest -= system[at, known] * solution[known]
        solution[at] = rest / system[at, at]
    return solution


def _center(values: Reals) -> Reals:
    """Subtract the mean over n from values [n, p]."""
    return values - _sum_in_order(values) / len(values)


def _sum_in_order(terms: Reals) -> Reals:
    """Sum over the first axis in a fixed order; numpy's order depends on the number of problems."""
    return reduce(np.add, terms)
