"""Win rates: by hand, on public annotations, and where the data is bad."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_reward_core.evaluation.alpaca_eval_io import Annotation, read_annotations
from meta_reward_core.evaluation.scorecard import serialize_scorecard
from meta_reward_core.evaluation.win_rate import compute_repeat_deviation, score_annotations
from tests.core.evaluation.generated_rows import alpaca_rows
from tests.core.evaluation.rows import annotations, write_array

PUBLIC = Path(__file__).parents[3].parent / "shared" / "data" / "alpaca_eval"

needs_public_data = pytest.mark.skipif(
    not PUBLIC.is_dir(), reason="../shared/data/alpaca_eval (public annotations) is not there"
)


def test_four_rows_by_hand() -> None:
    """Preferences 2, 1, 1.5, 1.8: shares 1, 0, 0.5, 0.8, mean 2.3 / 4 = 0.575.

    Deviations 0.425, -0.575, -0.075, 0.225, squares 0.5675 in sum, variance 0.5675 / 3,
    standard error sqrt(0.5675 / 3 / 4) = 0.21747. Two wins, a loss, a draw: 2.5 / 4.
    Lengths 100, 101, 102, 104: 407 / 4 = 101.75, truncated.
    """
    card = score_annotations(annotations([2, 1, 1.5, 1.8], model_chars=[100, 101, 102, 104]))
    assert card.columns["win_rate"] == pytest.approx(57.5)
    assert card.columns["standard_error"] == pytest.approx(21.7466, abs=1e-4)
    assert card.columns["discrete_win_rate"] == 62.5
    assert [card.columns[n] for n in ("n_wins", "n_wins_base", "n_draws", "n_total")] == [
        2,
        1,
        1,
        4,
    ]
    assert card.columns["avg_length"] == 101


def test_each_dataset_has_the_win_rate_of_its_own_rows() -> None:
    rows = [
        replace(row, dataset=name)
        for row, name in zip(annotations([2, 2, 1, 1, 1.5]), "aabbb", strict=True)
    ]
    found = {metric.name: metric.value for metric in score_annotations(rows).metrics}
    assert found["dataset_a"] == 100.0
    assert found["dataset_b"] == pytest.approx(100 * 0.5 / 3)


@pytest.mark.parametrize(
    "with_difficulty, unrated, win_rate, error, wins, discrete, controlled",
    [
        (False, (), 64.624, 1.782946610, 151, 75.5, 61.7953),
        (False, range(0, 200, 7), 66.474269006, 1.869177388, 135, 78.947368421, 64.1240),
        (True, (), 64.624, 1.782946610, 151, 75.5, 61.8971),
        (True, range(0, 200, 7), 66.474269006, 1.869177388, 135, 78.947368421, 64.3145),
    ],
)
def test_figures_equal_the_public_tools(
    tmp_path: Path,
    with_difficulty: bool,
    unrated: Sequence[int],
    win_rate: float,
    error: float,
    wins: int,
    discrete: float,
    controlled: float,
) -> None:
    """`evaluate` of alpaca_eval 0.6.6 on the same 200 annotations, with scikit-learn 1.9.1.

    Run by `benchmarks/tool_roundtrip_alpaca_eval.py`: `length_controlled_minimal`, and with
    difficulty `length_controlled_noreg`. avg_length is of all 200 rows. The tool's solver stops
    early: 0.002.
    """
    rows = alpaca_rows(200, seed=11, quality=0.6, unrated=unrated)
    if not with_difficulty:
        rows = [row | {"instruction_difficulty": None} for row in rows]
    columns = score_annotations(
        read_annotations(write_array(tmp_path / "a.json", rows)), rounds=2
    ).columns
    assert columns["win_rate"] == pytest.approx(win_rate)
    assert columns["standard_error"] == pytest.approx(error)
    assert (columns["n_wins"], columns["n_total"]) == (wins, 200 - len(unrated))
    assert columns["discrete_win_rate"] == pytest.approx(discrete)
    assert columns["avg_length"] == 1847
    assert columns["length_controlled_winrate"] == pytest.approx(controlled, abs=2e-3)


def test_rows_without_a_preference_are_in_the_average_length() -> None:
    """100 and 300 characters, the second unrated: 200, as the tool has it."""
    card = score_annotations(annotations([2.0, None], model_chars=[100, 300]))
    assert card.columns["avg_length"] == 200
    assert card.get_metric("avg_length").count == 2


def test_a_penalty_that_moves_the_rate_is_told() -> None:
    """On 40 prompts cross-validation takes C = 2.8, which draws the rate towards 50."""
    rows = alpaca_rows(40, seed=2)
    found = [
        Annotation(
            row["instruction"], row["output_1"], "base", row["output_2"], "mine", "judge",
            row["preference"],
        )
        for row in rows
    ]  # fmt: skip
    card = score_annotations(found, rounds=2)
    (told,) = [f for f in card.issues if f.name == "length_control_penalised"]
    assert "from 35.2 to 38.0" in told.sentence


@needs_public_data
@pytest.mark.parametrize(
    "model, win_rate, error, wins, losses, draws, discrete, chars, controlled",
    [
        ("FuseChat-Llama-3.1-8B-Instruct", 63.3316, 1.4225, 518, 286, 1, 64.4099, 2033, 65.003),
        ("gemma-7b-it", 6.9373, 0.7870, 50, 754, 1, 6.2733, 1115, 13.002),
        ("NullModel", 76.9198, 0.9090, 676, 129, 0, 83.9752, 872, 84.710),
    ],
)
def test_public_annotations_give_the_public_leaderboards_figures(
    model: str,
    win_rate: float,
    error: float,
    wins: int,
    losses: int,
    draws: int,
    discrete: float,
    chars: int,
    controlled: float,
) -> None:
    """Figures of the leaderboard of alpaca_eval 2, to 4 decimals.

    The length-controlled rate is compared with a run of the tool without instruction difficulty
    and without gamed baselines; 0.03 is what its folds, drawn otherwise, move it by.
    """
    card = score_annotations(read_annotations(PUBLIC / f"{model}.annotations.json"), rounds=2)
    columns = card.columns
    assert columns["win_rate"] == pytest.approx(win_rate, abs=5e-5)
    assert columns["standard_error"] == pytest.approx(error, abs=5e-5)
    assert (columns["n_wins"], columns["n_wins_base"], columns["n_draws"]) == (wins, losses, draws)
    assert columns["discrete_win_rate"] == pytest.approx(discrete, abs=5e-5)
    assert columns["avg_length"] == chars
    assert columns["length_controlled_winrate"] == pytest.approx(controlled, abs=0.03)


@needs_public_data
def test_the_public_null_model_is_found_out() -> None:
    card = score_annotations(read_annotations(PUBLIC / "NullModel.annotations.json"), rounds=2)
    assert "constant_answers" in {issue.name for issue in card.issues}


@needs_public_data
def test_a_real_models_public_answers_are_not_suspected() -> None:
    path = PUBLIC / "FuseChat-Llama-3.1-8B-Instruct.annotations.json"
    assert score_annotations(read_annotations(path), rounds=2).issues == ()


def test_a_model_against_itself_has_50() -> None:
    rows = annotations([1.5] * 12, baseline_chars=[90] * 12, model_chars=[90] * 12)
    same = [replace(row, output_2=row.output_1) for row in rows]
    card = score_annotations(same)
    assert card.columns["win_rate"] == 50
    assert card.columns["length_controlled_winrate"] == 50
    names = {issue.name for issue in card.issues}
    assert {"model_against_itself", "copies_baseline"} <= names


def test_one_name_for_two_different_answers_is_told_and_not_taken_for_a_copy() -> None:
    rows = [replace(row, generator_2="baseline") for row in annotations([2.0] * 9 + [1.0] * 3)]
    card = score_annotations(rows, rounds=2)
    assert card.columns["length_controlled_winrate"] != 50
    assert [f.rows for f in card.issues if f.name == "one_name_two_answers"] == [12]


def test_missing_preferences_are_counted_and_widen_the_interval() -> None:
    """6 of 8 won, 2 missing: the rate is of the 8, the interval of 6/10 to 8/10."""
    whole = score_annotations(annotations([2.0] * 6 + [1.0] * 2))
    torn = score_annotations(annotations([2.0] * 6 + [1.0] * 2 + [None] * 2))
    assert torn.columns["win_rate"] == whole.columns["win_rate"] == 75
    assert torn.columns["n_total"] == 8
    assert torn.get_metric("win_rate").low == pytest.approx(31.3, abs=0.1)
    assert "missing_preferences" in {issue.name for issue in torn.issues}


def test_without_any_preference_there_is_no_rate() -> None:
    card = score_annotations(annotations([None] * 12))
    assert card.columns["win_rate"] is None
    assert card.get_metric("win_rate").absent == "no row has a preference"


def test_ten_prompts_are_told_and_have_a_wide_interval() -> None:
    card = score_annotations(annotations([2.0] * 10, model_chars=list(range(100, 110))), rounds=2)
    metric = card.get_metric("win_rate")
    assert (metric.low, metric.high) == pytest.approx((72.25, 100), abs=0.01)
    assert "few_prompts" in {issue.name for issue in card.issues}


@settings(max_examples=40)
@given(st.lists(st.floats(1, 2), min_size=2, max_size=9))
def test_changing_sides_turns_every_rate_round(preferences: list[float]) -> None:
    one = score_annotations(annotations(preferences)).columns
    other = score_annotations(annotations([3 - p for p in preferences])).columns
    assert one["win_rate"] == pytest.approx(100 - other["win_rate"])
    assert one["standard_error"] == pytest.approx(other["standard_error"], abs=1e-9)


def test_half_a_difficulty_is_left_out_and_told() -> None:
    rows = annotations([2.0, 1.0] * 10, model_chars=list(range(100, 120)))
    half = [replace(row, difficulty=0.1 * n) for n, row in enumerate(rows[:10])]
    card = score_annotations([*half, *rows[10:]], rounds=2)
    plain = score_annotations(rows, rounds=2)
    name = "length_controlled_winrate"
    assert card.columns[name] == plain.columns[name]
    assert "difficulty_incomplete" in {issue.name for issue in card.issues}


def test_repeats_say_how_much_the_rate_moves() -> None:
    """Rates 75 and 50: deviation (ddof 1) 25 / sqrt(2)."""
    cards = [score_annotations(annotations([2, 2, 2, 1])), score_annotations(annotations([2, 1]))]
    assert compute_repeat_deviation(cards).value == pytest.approx(25 / 2**0.5)
    assert compute_repeat_deviation(cards[:1]).absent == "no repeated annotations were given"


def test_a_scorecard_is_json_with_the_leaderboards_names_on_top() -> None:
    written = json.loads(json.dumps(serialize_scorecard(score_annotations(annotations([2, 1])))))
    assert written["win_rate"] == 50
    assert written["model"] == "model"
    assert written["length_controlled_winrate"] is None
    assert {f["name"] for f in written["figures"]} >= {"win_rate", "length_controlled_winrate"}
