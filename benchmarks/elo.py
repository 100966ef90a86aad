"""Our Elo fit compared with scikit-learn's logistic regression, prompt by prompt.

    python benchmarks/table.py elo

Both alternately fit the ratings of the same battle matrices of 11 judgments with the same prior.
scikit-learn fits only some of them, one at a time, and its time is extrapolated.
"""

import statistics
import time
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from table import Row, in_turn

from meta_reward_core.method.elo import fit_elo

JUDGMENTS = 11
PRIOR = 1e-4
PROMPTS = 5000
SOME = 200  # that scikit-learn fits
SOLVERS = ("lbfgs", "newton-cholesky", "newton-cg")
ORDERED = list(permutations(range(JUDGMENTS), 2))

Array = npt.NDArray[np.float64]


def battle_matrices(count: int) -> list[Array]:
    """Battles of judgments with true strengths, each pair in both orders, with position weights."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        strength = rng.normal(0, 1.5, JUDGMENTS)
        wins = np.zeros((JUDGMENTS, JUDGMENTS))
        for first, second in ORDERED:
            if rng.random() < 1 / (1 + np.exp(strength[second] - strength[first] - 0.2)):
                wins[first, second] += 0.48
            else:
                wins[second, first] += 0.52
        made.append(wins)
    return made


def design() -> Array:
    """Build rows m - n for each ordered pair, for both outcomes."""
    rows = np.zeros((len(ORDERED), JUDGMENTS))
    for row, (first, second) in enumerate(ORDERED):
        rows[row, first], rows[row, second] = 1, -1
    return np.vstack([rows, -rows])


def fit_one(rows: Array, matrix: Array, solver: str) -> Array:
    """Fit the ratings of one prompt; each win counts as a win and a loss of half weight."""
    weights = np.array([matrix[pair] for pair in ORDERED]) / 2
    outcome = np.repeat([1, 0], len(ORDERED))
    model = LogisticRegression(
        C=1 / (2 * PRIOR), fit_intercept=False, solver=solver, tol=1e-10, max_iter=10_000
    )
    model.fit(rows, outcome, sample_weight=np.concatenate([weights, weights]))
    ratings: Array = model.coef_[0]
    centred: Array = ratings - ratings.mean()
    return centred


def seconds_of_ours(matrices: list[Array]) -> float:
    began = time.perf_counter()
    fit_elo(matrices, prior=PRIOR)
    return time.perf_counter() - began


def seconds_of_theirs(matrices: list[Array], solver: str) -> float:
    rows = design()
    began = time.perf_counter()
    for matrix in matrices:
        fit_one(rows, matrix, solver)
    return time.perf_counter() - began


def measure(*, pairs: int) -> Iterator[Row]:
    matrices = battle_matrices(PROMPTS)
    some = matrices[:SOME]
    quickest = min(SOLVERS, key=lambda solver: seconds_of_theirs(some[:20], solver))
    ours, rows = fit_elo(some, prior=PRIOR), design()
    difference = max(
        np.abs(mine - fit_one(rows, matrix, quickest)).max()
        for mine, matrix in zip(ours, some, strict=True)
    )
    if difference >= 1e-6:
        raise SystemExit(f"ratings differ by {difference:.1e}, so speeds are not compared")
    timed = in_turn(
        lambda: seconds_of_ours(matrices),
        lambda: seconds_of_theirs(some, quickest) * len(matrices) / len(some),
        pairs=pairs,
    )
    mine, theirs = (statistics.median(column) for column in zip(*timed, strict=True))
    yield Row(
        name=f"Elo of {PROMPTS:,} prompts with {JUDGMENTS} judgments",
        against="scikit-learn's logistic regression, prompt by prompt",
        ratios=[theirs / mine for mine, theirs in timed],
        at_least=200,
        note=f"{mine:.2f} s against {theirs:.1f} s ({quickest}, from {SOME} prompts); "
        f"largest difference of a rating {difference:.0e}",
    )
