"""The length-controlled win rate: what it must do to data whose truth is known."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from meta_reward_core.evaluation import length_control
from meta_reward_core.evaluation.length_control import LengthControlled, control_length

Array = npt.NDArray[np.float64]


def lengths(size: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(50, 3000, size).astype(float), rng.integers(50, 3000, size).astype(float)


def control(preferences: Array, baseline: Array, model: Array, rounds: int = 4) -> LengthControlled:
    return control_length(preferences, baseline_chars=baseline, model_chars=model, rounds=rounds)


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
    found = control_length(
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

    monkeypatch.setattr(length_control, "fit_logistic", fails)
    assert "did not converge" in str(control(np.ones(20), *lengths(20)).absent)


def test_too_few_prompts_have_no_rate() -> None:
    baseline, model = lengths(9)
    assert "fewer than 10 prompts" in str(control(np.ones(9), baseline, model).absent)


@settings(max_examples=8)
@given(st.integers(10, 60), st.integers(0, 99))
def test_changing_sides_turns_the_rate_round(size: int, seed: int) -> None:
    """The model against the baseline at 100 - the baseline against the model."""
    baseline, model = lengths(size, seed)
    preferences = np.random.default_rng(seed).random(size).round(2)
    one = control(preferences, baseline, model, rounds=2).rate
    other = control(1 - preferences, model, baseline, rounds=2).rate
    assert one == pytest.approx(100 - (other or 0), abs=1e-4)


def test_ten_prompts_have_a_wide_interval() -> None:
    baseline, model = lengths(10)
    found = control(np.array([1.0] * 7 + [0.0] * 3), baseline, model, rounds=30)
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

    fresh = [control(*sample(), rounds=2).rate or 0.0 for _ in range(16)]
    found = control(*sample(), rounds=60).standard_error
    assert found is not None
    assert np.std(fresh) / 1.8 < found < np.std(fresh) * 1.8


def test_the_same_seed_gives_the_same_interval() -> None:
    baseline, model = lengths(50)
    preferences = np.random.default_rng(1).random(50)
    assert control(preferences, baseline, model) == control(preferences, baseline, model)
