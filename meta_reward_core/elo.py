"""Elo ratings of judgments from their battle matrices: thousands of small problems at once.

Knows nothing of judgments: matrices in, ratings out.

Source: arXiv 2407.19594, section 2.2 (maximum likelihood of the battle matrix).
Departs from the paper: a small L2 prior, without which a judgment that wins every battle has no
finite rating.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STEP_TOLERANCE = 1e-11
"""Newton stops at a step shorter than this, relative to 1 + the largest rating."""

_MAX_STEPS = 200
_NEAR = 1e-5  # so near, steps shrink quadratically; one that does not is rounding alone
_SUFFICIENT = 1e-4


def fit_elo(matrices: Sequence[Array], *, prior: float = 1e-4) -> list[Array]:
    """Fit the ratings of every battle matrix.

    Each problem maximises sum_{m,n} B[m,n] log sigmoid(e_m - e_n) - prior * sum_m e_m^2, which is
    strictly concave, by damped Newton steps with a line search. Problems of one size are solved
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
        wins = np.stack([np.asarray(matrices[place], dtype=np.float64) for place in places])
        for place, rating in zip(places, _fit_group(wins, prior), strict=True):
            ratings[place] = rating
    return ratings


def _checked_size(place: int, matrix: Array) -> int:
    """The n of an [n, n] matrix."""
    shape = np.shape(matrix)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"Battle matrix {place} has shape {shape}; it must be square.")
    if not np.all(np.isfinite(matrix)) or np.any(np.asarray(matrix) < 0):
        raise ValueError(f"Battle matrix {place} has a negative or non-finite entry.")
    return int(shape[0])


def _fit_group(wins: Array, prior: float) -> Array:
    """Ratings [p, n] of p problems [p, n, n] of one size."""
    size = wins.shape[1]
    wins = wins * ~np.eye(size, dtype=bool)
    ratings = np.zeros(wins.shape[:2])
    reach = np.full(len(wins), np.inf)
    active = np.flatnonzero(wins.any(axis=(1, 2)))
    for _ in range(_MAX_STEPS):
        if active.size == 0:
            return ratings
        ratings[active], now = _newton_step(wins[active], ratings[active], prior)
        arrived = (now <= STEP_TOLERANCE) | ((now <= _NEAR) & (now >= reach[active] / 2))
        reach[active] = now
        active = active[~arrived]
    raise ArithmeticError(f"{active.size} of {len(wins)} Elo problems did not converge.")


def _newton_step(wins: Array, ratings: Array, prior: float) -> tuple[Array, Array]:
    """One damped step: new centred ratings [p, n], and the relative length of the step [p]."""
    gradient, curvature = _derivatives(wins, ratings, prior)
    step = np.linalg.solve(curvature, gradient[..., None])[..., 0].astype(np.float64)
    scale = _line_search(wins, ratings, step, (gradient * step).sum(axis=1), prior)
    moved = ratings + scale[:, None] * step
    reach: Array = np.abs(step).max(axis=1) / (1 + np.abs(ratings).max(axis=1))
    return moved - moved.mean(axis=1, keepdims=True), reach


def _derivatives(wins: Array, ratings: Array, prior: float) -> tuple[Array, Array]:
    """Gradient [p, n] and negated Hessian [p, n, n] of the objective at centred ratings."""
    loses = _sigmoid(ratings[:, None, :] - ratings[:, :, None])
    pull = wins * loses
    gradient = pull.sum(axis=2) - pull.sum(axis=1) - 2 * prior * ratings
    weight = (wins + wins.swapaxes(1, 2)) * loses * loses.swapaxes(1, 2)
    trace = weight.sum(axis=(1, 2))[:, None]
    # Moving all ratings together changes next to nothing and is never wanted: stiffen that
    # direction, or rounding would be magnified by 1 / prior along it.
    curvature = trace[..., None] / wins.shape[1] - weight
    diagonal = np.arange(wins.shape[1])
    curvature[:, diagonal, diagonal] += weight.sum(axis=2) + 2 * prior + 1e-15 * trace
    return gradient, curvature


def _line_search(wins: Array, ratings: Array, step: Array, gain: Array, prior: float) -> Array:
    """Largest of 1, 1/2, 1/4 ... per problem [p] that gains enough."""
    before = _objective(wins, ratings, prior)
    # Near the optimum the gain drowns in rounding; a full step that loses no more is right there.
    slack = 1e-13 * (1 + np.abs(before))
    scale = np.ones(len(wins))
    for _ in range(50):
        after = _objective(wins, ratings + scale[:, None] * step, prior)
        short = after < before + _SUFFICIENT * scale * gain - slack
        if not short.any():
            return scale
        scale[short] /= 2
    return scale


def _objective(wins: Array, ratings: Array, prior: float) -> Array:
    """Penalised log-likelihood [p]."""
    gap = ratings[:, :, None] - ratings[:, None, :]
    likelihood: Array = -(wins * np.logaddexp(0.0, -gap)).sum(axis=(1, 2))
    penalty: Array = prior * (ratings**2).sum(axis=1)
    return likelihood - penalty


def _sigmoid(x: Array) -> Array:
    odds: Array = np.exp(-np.logaddexp(0.0, -x))
    return odds
