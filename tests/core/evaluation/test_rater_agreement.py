"""Kappa and alpha equal published worked examples."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from meta_reward_core.evaluation.rater_agreement import (
    WeightedStatistic,
    compute_cohen_kappa,
    compute_krippendorff_alpha,
    make_weighted_kappa,
    make_weighted_kendall,
    make_weighted_spearman,
)


def test_kappa_of_fleiss_cohen_and_everitt() -> None:
    """Fleiss, Cohen and Everitt 1969, table 1: shares of 200 cases in three diagnoses.

    Agreed .53 + .14 + .03 = .70; by chance .60 * .65 + .30 * .25 + .10 * .10 = .475;
    kappa (.70 - .475) / (1 - .475) = .4286, printed as .429.
    """
    table = [[0.53, 0.05, 0.02], [0.11, 0.14, 0.05], [0.01, 0.06, 0.03]]
    assert compute_cohen_kappa(table) == pytest.approx(0.429, abs=5e-4)


def test_kappa_of_two_by_two_counts() -> None:
    """20 and 15 of 50 agreed: .7; by chance .5 * .6 + .5 * .4 = .5; kappa .2 / .5 = .4."""
    assert compute_cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)


def test_kappa_is_absent_where_only_one_thing_is_said() -> None:
    assert compute_cohen_kappa([[7, 0], [0, 0]]) is None
    assert compute_cohen_kappa([[0, 0], [0, 0]]) is None


# Krippendorff 2011, section C: four observers, twelve units, "." for no answer.
RELIABILITY_DATA = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def units_of(rows: tuple[str, ...]) -> list[list[int]]:
    columns = zip(*(row.split() for row in rows), strict=True)
    return [[int(value) for value in column if value != "."] for column in columns]


def test_nominal_alpha_of_krippendorff() -> None:
    """Krippendorff 2011, section C: n = 40 pairable values, nominal alpha .743.

    Values 1..5 occur 9, 13, 10, 5, 3 times among pairable ones (the lone 3 of unit 12 does not
    count). Matching coincidences 7 + 10 + 8 + 4 + 3 = 32, so 8 do not match:
    1 - 39 * 8 / (40^2 - 81 - 169 - 100 - 25 - 9) = 1 - 312 / 1216 = .743.
    """
    assert compute_krippendorff_alpha(units_of(RELIABILITY_DATA)) == pytest.approx(1 - 312 / 1216)
    assert compute_krippendorff_alpha(units_of(RELIABILITY_DATA)) == pytest.approx(0.743, abs=5e-4)


def test_interval_alpha_of_krippendorff() -> None:
    """The same data as numbers: .849."""
    alpha = compute_krippendorff_alpha(units_of(RELIABILITY_DATA), level="interval")
    assert alpha == pytest.approx(0.849, abs=5e-4)


def test_binary_alpha_of_krippendorff() -> None:
    """Krippendorff 2011, section A: two observers, ten units, alpha .095.

    14 zeros and 6 ones among 20 values; 4 units do not match, which are 8 coincidences:
    1 - 19 * 8 / (2 * 14 * 6) = 1 - 152 / 168 = .095.
    """
    rows = ("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
    assert compute_krippendorff_alpha(units_of(rows)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_one_answer_each_is_absent() -> None:
    assert compute_krippendorff_alpha([["first"], ["tie"]]) is None
    assert compute_krippendorff_alpha([["tie", "tie"], ["tie", "tie"]]) is None


def figure_of(weighing: WeightedStatistic, weights: npt.ArrayLike) -> float:
    return float(weighing(np.asarray(weights, dtype=float)[None])[0])


def test_rank_correlations_with_equal_weights_are_scipys() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 60).astype(float), rng.integers(0, 11, 60) / 2
    equal = np.full(60, 2.5)
    spearman, kendall = make_weighted_spearman(x, y), make_weighted_kendall(x, y)
    assert figure_of(spearman, equal) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert figure_of(kendall, equal) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_a_weight_of_two_is_an_item_that_is_there_twice() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    twice = [0, 0, 1, 2, 3]
    weights = np.array([2.0, 1.0, 1.0, 1.0])
    expected = stats.spearmanr(x[twice], y[twice]).statistic
    assert figure_of(make_weighted_spearman(x, y), weights) == pytest.approx(expected)
    expected = stats.kendalltau(x[twice], y[twice]).statistic
    assert figure_of(make_weighted_kendall(x, y), weights) == pytest.approx(expected)


def test_many_sets_of_weights_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=20), rng.integers(0, 4, 20).astype(float)
    weights = rng.uniform(0.5, 3, (7, 20))
    for weighing in (make_weighted_spearman(x, y), make_weighted_kendall(x, y)):
        alone = [figure_of(weighing, row) for row in weights]
        assert weighing(weights).tolist() == pytest.approx(alone)


def test_constant_columns_have_no_correlation() -> None:
    same, rising = np.ones(4), np.arange(4.0)
    assert np.isnan(figure_of(make_weighted_spearman(same, rising), np.ones(4)))
    assert np.isnan(figure_of(make_weighted_kendall(same, rising), np.ones(4)))


def test_weighted_kappa_is_scikit_learns() -> None:
    """Every item is one pair of labels with a weight of its own."""
    rng = np.random.default_rng(7)
    one, other, weights = rng.integers(0, 3, 80), rng.integers(0, 3, 80), rng.uniform(0.1, 9, 80)
    tables = np.zeros((80, 3, 3))
    tables[np.arange(80), one, other] = 1
    expected = cohen_kappa_score(one, other, sample_weight=weights)
    assert figure_of(make_weighted_kappa(tables), weights) == pytest.approx(expected)
