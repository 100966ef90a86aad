"""The length-controlled win rate: what it must do to data whose truth is known."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from meta_reward_core.evaluation import length_controlled_win_rate
from meta_reward_core.evaluation.length_controlled_win_rate import (
    LengthControlledRate,
    compute_length_controlled_rate,
)

Array = npt.NDArray[np.float64]


def lengths(size: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(50, 3000, size).astype(float), rng.integers(50, 3000, size).astype(float)


def control(
    preferences: Array, baseline: Array, model: Array, rounds: int = 4
) -> LengthControlledRate:
    return compute_length_controlled_rate(
        preferences, baseline_chars=baseline, model_chars=model, rounds=rounds
    )


def test_a_planted_effect_of_length_is_taken_out() -> None:
    """Preferences are s(0.5 - 2 tanh(d / std d)) exactly: at d = 0 the rate is s(0.5) = 62.25.

    1,000 rows and the lasso's weight of 1 / C, C large, leave an error far below 0.1.
    """
    baseline, model = lengths(1000)
    gap = baseline - model
    preferences = expit(0.5 - 2 * np.tanh(gap / gap.std(ddof=1)))
    found = control(preferences, baseline, model)
    assert found.rate == pytest.approx(62.246, abs=0.1)
    assert found.length_coefficient == pytest.approx(-2, abs=0.02)


def test_difficulty_is_averaged_over_the_prompts() -> None:
    """Logit = 0.4 + 1.5 difficulty - tanh(...): the rate is the mean of s(0.4 + 1.5 difficulty)."""
    baseline, model = lengths(800, seed=1)
    difficulty = np.random.default_rng(2).normal(size=800)
    gap = baseline - model
    preferences = expit(0.4 + 1.5 * difficulty - np.tanh(gap / gap.std(ddof=1)))
    found = compute_length_controlled_rate(
        preferences, baseline_chars=baseline, model_chars=model, difficulty=difficulty, rounds=2
    )
    assert found.rate == pytest.approx(100 * expit(0.4 + 1.5 * difficulty).mean(), abs=0.1)


def test_answers_of_equal_length_leave_the_plain_rate() -> None:
    """D = 0 everywhere: only the constant is left. 140 of 200 won: 70, less the lasso's trace."""
    preferences = np.array([1.0] * 140 + [0.0] * 60)
    same = np.full(200, 321.0)
    assert control(preferences, same, same).rate == pytest.approx(70, abs=0.5)


def test_one_and_the_same_difference_cannot_be_told_from_quality() -> None:
    found = control(np.linspace(0, 1, 50), np.full(50, 300.0), np.full(50, 200.0))
    assert found.rate is None
    assert "the same 100 characters" in str(found.absent)


def test_a_regression_that_fails_is_a_reason_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ArithmeticError("1 of 50 logistic regressions did not converge.")

    monkeypatch.setattr(length_controlled_win_rate, "fit_logistic", fails)
    assert "did not converge" in str(control(np.ones(20), *lengths(20)).absent)


def test_too_few_prompts_have_no_rate() -> None:
    baseline, model = lengths(9)
    assert "fewer than 10 prompts" in str(control(np.ones(9), baseline, model).absent)


@settings(max_examples=8)
@given(st.integers(10, 60), st.integers(0, 99))
def test_changing_sides_turns_the_rate_round(size: int, seed: int) -> None:
    """The model against the baseline at 100 - the baseline against the model, or both without."""
    baseline, model = lengths(size, seed)
    preferences = np.random.default_rng(seed).random(size).round(2)
    one = control(preferences, baseline, model, rounds=2)
    other = control(1 - preferences, model, baseline, rounds=2)
    assert one.unpenalised == pytest.approx(100 - (other.unpenalised or 0), abs=1e-4)
    assert (one.rate is None) == (other.rate is None)
    assert one.rate is None or one.rate == pytest.approx(100 - (other.rate or 0), abs=1e-4)


def test_ten_prompts_have_a_wide_interval() -> None:
    """Won where the baseline's answer is the longer one, in 9 of 10."""
    baseline, model = lengths(10, seed=4)
    preferences = (baseline > model).astype(float)
    preferences[0] = 1 - preferences[0]
    found = control(preferences, baseline, model, rounds=30)
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 40


def test_ten_wins_of_ten_are_no_certainty() -> None:
    baseline, model = lengths(10)
    found = control(np.ones(10), baseline, model, rounds=20)
    assert found.interval is not None
    assert found.interval.low < 75


def test_the_error_agrees_with_fresh_samples() -> None:
    """The spread of the rate over 16 fresh samples of 100 prompts, against one bootstrap.

    Both are estimates of one number, the first within 18% (1 / sqrt(2 * 15)); a factor of 1.8.
    """
    rng = np.random.default_rng(5)

    def sample() -> tuple[Array, Array, Array]:
        baseline, model = rng.integers(50, 3000, (2, 100)).astype(float)
        chance = expit(0.5 - np.tanh((baseline - model) / 1000))
        return (rng.random(100) < chance).astype(float), baseline, model

    rates = [control(*sample(), rounds=2).rate for _ in range(17)]
    fresh = [rate for rate in rates if rate is not None]
    assert len(fresh) == 16
    found = control(*sample(), rounds=60).standard_error
    assert found is not None
    assert np.std(fresh) / 1.8 < found < np.std(fresh) * 1.8


def test_the_same_seed_gives_the_same_interval() -> None:
    baseline, model = lengths(50)
    preferences = np.random.default_rng(1).random(50)
    assert control(preferences, baseline, model) == control(preferences, baseline, model)


def test_a_penalty_that_removes_every_difference_gives_no_rate_of_50() -> None:
    """35 of 60 won, whatever the lengths: the plain rate is 58.3, and the public tool says 50.0.

    Cross-validation takes C = 0.0001, at which the lasso leaves no coefficient.
    """
    rng = np.random.default_rng(0)
    baseline, model = (rng.integers(*ends, 60).astype(float) for ends in ((500, 2500), (300, 2000)))
    preferences = rng.permutation([1.0] * 35 + [0.0] * 25)
    found = control(preferences, baseline, model)
    assert found.rate is None
    assert found.unpenalised == pytest.approx(58, abs=4)
    assert "on 60 prompts cross-validation chooses a penalty that removes" in str(found.absent)
    assert f"it gives {found.unpenalised:.1f}" in str(found.absent)


def test_a_rate_of_50_is_given_where_it_is_right() -> None:
    """Every pair of lengths once won and once lost: the constant is 0 with and without penalty."""
    baseline, model = lengths(30)
    preferences = np.array([1.0] * 30 + [0.0] * 30)
    found = control(preferences, np.tile(baseline, 2), np.tile(model, 2))
    assert found.rate == pytest.approx(50, abs=0.01)


@pytest.mark.parametrize(
    "gaps",
    [
        np.arange(990, 1010) + 0.0,  # tanh of 167 and more: every column is 1
        2000 + 500 * np.sin(np.arange(20)),
        -3000 + 900 * np.sin(np.arange(20)),
    ],
)
def test_differences_that_are_much_alike_cannot_be_told_from_quality(gaps: Array) -> None:
    """Columns that are nearly one: the lasso chooses which of them has the rate, and 50 is one."""
    found = control(np.linspace(0.4, 0.9, 20), 4000 + gaps, np.full(20, 4000.0))
    assert found.rate is None
    assert "so similar that the effect of length cannot be separated" in str(found.absent)


def test_a_difficulty_that_follows_the_length_leaves_no_rate() -> None:
    baseline, model = lengths(40)
    gap = baseline - model
    found = compute_length_controlled_rate(
        np.linspace(0, 1, 40),
        baseline_chars=baseline,
        model_chars=model,
        difficulty=1 + 2 * np.tanh(gap / gap.std(ddof=1)),
    )
    assert "cannot be separated from quality or difficulty" in str(found.absent)


def test_rows_without_a_preference_count_for_the_deviation_of_lengths() -> None:
    """20 rated rows with differences of 100 to 900, 20 unrated ones with 9000.

    The public tool divides by the deviation of all 40: the length's column is nearly a line.
    """
    gap = np.array([100.0 + 40 * n for n in range(20)] + [9000.0] * 20)
    gap[:20:2] *= -1
    share = expit(0.5 - np.tanh(gap / gap.std(ddof=1)))
    preferences = np.where(np.arange(40) < 20, share, np.nan)
    found = control(preferences, 10_000 + gap, np.full(40, 10_000.0))
    assert found.rate == pytest.approx(100 * expit(0.5), abs=0.2)
    assert found.length_coefficient == pytest.approx(-1, abs=0.1)
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 50


def test_the_predictions_of_rows_without_a_preference_are_in_the_mean() -> None:
    """Unrated instructions are the easy ones: the rate is the mean over all of them.

    Logit 0.2 + difficulty; difficulty about -1 where rated, 2 where not.
    """
    baseline, model = lengths(400, seed=3)
    difficulty = np.random.default_rng(3).normal(size=400) + np.repeat([-1.0, 2.0], 200)
    gap = baseline - model
    share = expit(0.2 + difficulty - np.tanh(gap / gap.std(ddof=1)))
    found = compute_length_controlled_rate(
        np.where(np.arange(400) < 200, share, np.nan),
        baseline_chars=baseline,
        model_chars=model,
        difficulty=difficulty,
        rounds=2,
    )
    assert found.rate == pytest.approx(100 * expit(0.2 + difficulty).mean(), abs=0.2)
