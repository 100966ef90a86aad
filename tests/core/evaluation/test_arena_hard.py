"""Arena-Hard scores: by hand, by scipy, and by a bootstrap written out as loops."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.arena_hard import (
    build_outcomes,
    compute_style_features,
    fit_bradley_terry_rates,
    score_arena,
    score_games,
)
from meta_reward_core.evaluation.arena_hard_io import (
    VERDICTS,
    ArenaAnswer,
    ArenaJudgment,
    ArenaQuestion,
    Game,
    read_answers,
    read_judgments,
)
from tests.core.evaluation import tool_data
from tests.core.evaluation.rows import write_lines

Answers = dict[tuple[str, str], ArenaAnswer]

verdicts = st.sampled_from([*VERDICTS, None])


def judgment(
    number: int, first: str | None, second: str | None, *, model: str = "m"
) -> ArenaJudgment:
    return ArenaJudgment(f"q{number:03d}", model, "b", "j", (Game(first), Game(second)))


def judgments(
    games: Sequence[tuple[str | None, str | None]], *, model: str = "m"
) -> list[ArenaJudgment]:
    return [judgment(n, first, second, model=model) for n, (first, second) in enumerate(games)]


def random_games(size: int, seed: int = 0) -> list[tuple[str | None, str | None]]:
    rng = random.Random(seed)
    return [(rng.choice(VERDICTS), rng.choice(VERDICTS)) for _ in range(size)]


def test_verdicts_become_points_of_the_model() -> None:
    """Game 0 has the baseline as A: A>>B is three lost games. Game 1 has the model as A."""
    assert score_games(judgment(0, "A>>B", "A>B"), version="0.1") == [(0, 3), (1, 1)]
    assert score_games(judgment(0, "B>A", "B>>A"), version="0.1") == [(1, 1), (0, 3)]
    assert score_games(judgment(0, "A=B", None), version="0.1") == [(0.5, 1)]
    assert score_games(judgment(0, "A=B", None), version="2.0") == []


def test_the_score_of_version_0_1_by_hand() -> None:
    """Question 0: B>>A for the model as B (3 won), A=B (0.5 of 1). Question 1: A>B, B>A: 2 lost.

    3.5 of 6 games. Against one baseline Bradley-Terry's rate is that mean: 58.333.
    """
    (card,) = score_arena(judgments([("B>>A", "A=B"), ("A>B", "B>A")]))
    assert card.get_metric("score").value == pytest.approx(100 * 3.5 / 6, abs=1e-3)
    assert card.benchmark == "arena_hard_0.1"
    assert card.columns["score"] == card.get_metric("score").value


@settings(max_examples=25)
@given(st.lists(st.tuples(verdicts, verdicts), min_size=1, max_size=12), st.integers(0, 3))
def test_bradley_terry_agrees_with_scipy(
    games: list[tuple[str | None, str | None]], seed: int
) -> None:
    """Maximise sum copies (points log p + (1 - points) log(1 - p)) - 1e-6 |e|^2 over two models.

    P = s(e_model - e_baseline). The prior bounds ratings of a model that wins everything.
    """
    both = [*judgments(games), *judgments(random_games(5, seed), model="n")]
    outcomes = build_outcomes(both, version="0.1")

    def loss(ratings: np.ndarray) -> float:
        total = 1e-6 * float((ratings**2).sum())
        for place, points, copies in zip(
            outcomes.model.astype(int), outcomes.scores, outcomes.copies, strict=True
        ):
            gap = ratings[place] - ratings[-1]
            total += copies * (np.logaddexp(0, -gap) * points + np.logaddexp(0, gap) * (1 - points))
        return total

    size = len(outcomes.models)
    best = minimize(loss, np.zeros(size + 1), method="BFGS", options={"gtol": 1e-8}).x
    rates = fit_bradley_terry_rates(outcomes, outcomes.copies[None])[0]
    assert rates == pytest.approx(100 * expit(best[:-1] - best[-1]), abs=0.05)


def test_the_band_of_version_0_1_agrees_with_a_bootstrap_in_loops() -> None:
    """Copies of strong verdicts are drawn as games of their own, as the tool does.

    Both bands are percentiles of random draws; 60 questions, 3,000 rounds: within 1 point.
    """
    rows = judgments(random_games(60))
    (card,) = score_arena(rows, rounds=3000)
    rng = random.Random(7)
    games = [
        points
        for row in rows
        for points, copies in score_games(row, version="0.1")
        for _ in range(copies)
    ]
    means = sorted(sum(rng.choices(games, k=len(games))) / len(games) for _ in range(3000))
    band = card.get_metric("score_band_95_of_version_0.1")
    assert band.low == pytest.approx(100 * means[75], abs=1)
    assert band.high == pytest.approx(100 * means[2925], abs=1)


def test_the_band_of_version_2_is_the_normal_one() -> None:
    """N single games, share p won: band p -+ 1.645 sqrt(p (1 - p) / n), 5% to 95%.

    200 questions, 150 won twice: n = 400, p = 0.75: 75 -+ 3.56; draws move the ends by < 0.7.
    """
    rows = judgments([("B>A", "A>B")] * 150 + [("A>B", "B>A")] * 50)
    (card,) = score_arena(rows, version="2.0", rounds=2000)
    band = card.get_metric("score_band_90_of_version_2.0")
    assert card.get_metric("score").value == pytest.approx(75, abs=0.3)
    assert (band.low, band.high) == pytest.approx((71.44, 78.56), abs=0.7)
    assert card.benchmark == "arena_hard_2.0"


def test_the_interval_over_questions_counts_a_question_once() -> None:
    """Both games of a question alike: 200 questions tell as much as 200 games, not 400.

    75 -+ 1.96 sqrt(0.75 * 0.25 / 200) = 75 -+ 6.00.
    """
    rows = judgments([("B>A", "A>B")] * 150 + [("A>B", "B>A")] * 50)
    metric = score_arena(rows)[0].get_metric("score")
    assert (metric.low, metric.high) == pytest.approx((69.0, 81.0), abs=0.8)


def test_ten_questions_won_are_no_certainty() -> None:
    (card,) = score_arena(judgments([("B>>A", "A>>B")] * 10))
    metric = card.get_metric("score")
    assert metric.value == pytest.approx(100, abs=0.01)
    assert metric.low == pytest.approx(72.2, abs=0.1)
    assert "few_questions" in {issue.name for issue in card.issues}


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1))
def test_a_judge_that_looks_at_positions_alone_scores_50(
    games: list[tuple[str, str]],
) -> None:
    """The same verdict in both orders says nothing: (1 - x) and x cancel out."""
    alike = judgments([(first, first) for first, _ in games])
    assert score_arena(alike, rounds=5)[0].get_metric("score").value == pytest.approx(50, abs=1e-3)


def test_positions_are_measured() -> None:
    """Question 0: the model twice. Question 1: A twice. Consistent 1 of 2; A won 3 of 4."""
    (card,) = score_arena(judgments([("B>A", "A>B"), ("A>B", "A>>B")]))
    assert card.get_metric("position_consistency").value == 50
    assert card.get_metric("first_position_wins").value == 75


def test_unreadable_games_are_counted_and_never_points() -> None:
    rows = judgments([("B>A", None), ("B>A", "A>B")])
    old, new = score_arena(rows)[0], score_arena(rows, version="2.0", rounds=50)[0]
    assert old.get_metric("score").value == pytest.approx(100, abs=0.01)
    assert new.get_metric("score").value == 100
    assert [f.rows for f in old.issues if f.name == "games_without_verdict"] == [1]
    with pytest.raises(EvaluationFileError, match="no game has a verdict"):
        score_arena(judgments([(None, None)]))


def test_a_model_without_a_game_that_counts_has_no_score() -> None:
    rows = [*judgments([("A>B", "B>A")]), *judgments([("B>A", None)], model="n")]
    cards = {card.model: card for card in score_arena(rows, version="2.0", rounds=20)}
    assert cards["n"].get_metric("score").absent == "no game has a verdict"
    assert cards["m"].get_metric("score").value == 0


def test_questions_that_do_not_count_widen_the_interval() -> None:
    """8 of 8 won, 2 unreadable: the low end is Wilson's of 8 / 10."""
    rows = judgments([("B>A", "A>B")] * 8 + [(None, None)] * 2)
    metric = score_arena(rows)[0].get_metric("score")
    assert metric.low == pytest.approx(49.0, abs=0.1)
    assert metric.count == 8


def test_models_are_ranked() -> None:
    rows = [*judgments([("A>B", "B>A")]), *judgments([("B>A", "A>B")], model="n")]
    assert [card.model for card in score_arena(rows)] == ["n", "m"]


def styled(chars: Sequence[int], model: str, headers: int = 0) -> Answers:
    return {
        (model, f"q{n:03d}"): ArenaAnswer(f"q{n:03d}", model, "x", (t, headers, 0, 0))
        for n, t in enumerate(chars)
    }


def test_style_features_by_hand() -> None:
    """Tokens 300 and 100 against 100: (200 / 400, 0) = 0.5, 0, two games each, single.

    Mean 0.25, variance 4 * 0.0625 / 3: z = 0.25 / sqrt(0.08333) = 0.8660 and -0.8660.
    Headers 3 per 300 and 3 per 100 against 0: 3 / 301 and 3 / 101, z = -+0.8660.
    """
    outcomes = build_outcomes(judgments([("A>B", "B>A")] * 2), version="2.0")
    answers = styled([300, 100], "m", headers=3) | styled([100, 100], "b")
    found = compute_style_features(outcomes, answers, "b")
    root = np.sqrt(0.75)
    assert found[:, 0] == pytest.approx([root, root, -root, -root])
    assert found[:, 1] == pytest.approx([-root, -root, root, root])
    assert found[:, 2:].tolist() == [[0, 0]] * 4


def test_two_empty_answers_are_equally_long() -> None:
    """0 / 0 tokens count as a difference of 0, between 100 against 0 (1) and 0 against 100 (-1)."""
    outcomes = build_outcomes(judgments([("A>B", "B>A")] * 3), version="2.0")
    answers = styled([100, 0, 0], "m") | styled([0, 0, 100], "b")
    lengths = compute_style_features(outcomes, answers, "b")[:, 0]
    root = np.sqrt(5 / 4)  # six games, variance 4 / 5
    assert lengths == pytest.approx([root, root, 0, 0, -root, -root])


def long_and_short(
    size: int = 120,
) -> tuple[list[ArenaJudgment], Answers]:
    """A model that wins 90% of its long answers and 50% of its short, equally long, ones."""
    rng = random.Random(3)
    lengths = [400 if n % 2 else 100 for n in range(size)]
    games: list[tuple[str | None, str | None]] = []
    for length in lengths:
        wins = [rng.random() < (0.9 if length > 100 else 0.5) for _ in range(2)]
        games.append(("B>A" if wins[0] else "A>B", "A>B" if wins[1] else "B>A"))
    return judgments(games), styled(lengths, "m") | styled([100] * size, "b")


def test_style_control_agrees_with_scipy() -> None:
    """Logit = rating + c * z on the games themselves; the median of 200 bootstraps is near it."""
    rows, answers = long_and_short()
    (card,) = score_arena(rows, version="2.0", controls=["length"], answers=answers, rounds=200)
    outcomes = build_outcomes(rows, version="2.0")
    z = compute_style_features(outcomes, answers, "b")[:, 0]

    def loss(x: np.ndarray) -> float:
        logits = x[0] + x[1] * z
        return float((np.logaddexp(0, logits) - outcomes.scores * logits).sum())

    best = minimize(loss, np.zeros(2), method="BFGS").x
    assert card.get_metric("score_controlled_length_band_90").value == pytest.approx(
        100 * expit(best[0]), abs=1
    )


def test_style_that_no_answer_varies_changes_nothing() -> None:
    rows = judgments(random_games(80))
    answers = styled([100] * 80, "m") | styled([100] * 80, "b")
    (card,) = score_arena(
        rows, version="2.0", controls=["length", "markdown"], answers=answers, rounds=300
    )
    assert card.get_metric("score_controlled_length_markdown_band_90").value == pytest.approx(
        card.get_metric("score").value, abs=1
    )


def test_style_control_refuses_what_it_cannot_do() -> None:
    rows = judgments([("A>B", "B>A")])
    with pytest.raises(
        EvaluationFileError, match=r"style control is available only for version 2\.0"
    ):
        score_arena(rows, controls=["length"])
    with pytest.raises(EvaluationFileError, match="the answer of m to question q000 has none"):
        score_arena(rows, version="2.0", controls=["length"], answers=styled([1], "b"))


def test_gaming_is_looked_for_in_the_answers() -> None:
    rows = judgments([("B>A", "A>B")] * 5)
    answers = styled([5] * 5, "m") | styled([5] * 5, "b")
    (card,) = score_arena(rows, answers=answers, questions={"q000": ArenaQuestion("why?")})
    assert {"constant_answers", "copies_baseline"} <= {f.name for f in card.issues}
    (card,) = score_arena(rows, answers=styled([5] * 4, "m"))
    assert [f.rows for f in card.issues if f.name == "answers_missing"] == [1]


def test_a_category_without_a_verdict_does_not_take_the_score_of_another() -> None:
    good = ArenaJudgment("q", "m", "b", "j", (Game("B>A"), Game("A>B")), "hard_prompt")
    bad = ArenaJudgment("r", "m", "c", "j", (Game(None), Game(None)), "creative_writing")
    cards = {card.benchmark: card for card in score_arena([good, bad], version="2.0")}
    assert cards["arena_hard_2.0_hard_prompt"].get_metric("score").value == 100
    assert cards["arena_hard_2.0_hard_prompt"].baseline == "b"
    absent = cards["arena_hard_2.0_creative_writing"].get_metric("score").absent
    assert absent == "no game has a verdict"


def test_games_without_a_verdict_are_told_with_their_reasons() -> None:
    reasons = ["the score is null", "the score '{A}' is not valid in version 0.1"]
    rows = [
        ArenaJudgment(f"q{n}", "m", "b", "j", (Game(None, unread=reason), Game("A>B")))
        for n, reason in enumerate([*reasons, reasons[1]])
    ]
    sentences = [issue.sentence for issue in score_arena(rows)[0].issues]
    assert (
        "Games without a verdict: 3 (the score '{A}' is not valid in version 0.1: 2; the score is "
        "null: 1)."
    ) in sentences


def test_version_0_1_agrees_with_the_public_tool(tmp_path: Path) -> None:
    """Scores that `show_result.py` of arena-hard-auto v0.1 wrote for the same rows.

    Commit 0489bf3 with numpy 1.26.4, pandas 2.3.3 and scikit-learn 1.7.2: `show_result.py
    --judge-name judge --output` on `tool_data.arena_judgments("0.1")` made 449 battles and the
    leaderboard model-two 51.42 (44.69 to 57.32), model-one 48.95 (42.95 to 54.55). It left out the
    scores A, A>>>B, A<B, B=A, B<<A, 3, "" and null. `python -m benchmarks.tool_roundtrip --tools
    arena-hard-auto` runs it again. The bands are 100 random draws on either side.
    """
    path = write_lines(tmp_path / "judgments.jsonl", tool_data.arena_judgments("0.1"))
    found = read_judgments([path], version="0.1", baseline=tool_data.FIRST_BASELINE)
    assert build_outcomes(found, version="0.1").copies.sum() == 449
    for card, (name, score, low, high) in zip(
        score_arena(found),
        [("model-two", 51.42, 44.69, 57.32), ("model-one", 48.95, 42.95, 54.55)],
        strict=True,
    ):
        band = card.get_metric("score_band_95_of_version_0.1")
        assert card.model == name
        assert card.get_metric("score").value == pytest.approx(score, abs=0.006)
        assert (band.low, band.high) == pytest.approx((low, high), abs=3)


def test_version_2_agrees_with_the_public_tool_in_each_category(tmp_path: Path) -> None:
    """What `show_result.py` of arena-hard-auto v2.0 made of the same rows.

    Commit 196f6b8 with torch 2.13.0, pandas 2.3.3 and numpy 1.26.4, watched by
    `benchmarks/arena_hard_side.py` on `tool_data.arena_judgments("2.0")` and `arena_answers()`: the
    battles of `load_judgments` and their mean by category and model, and the scores at equal length
    and markdown (medians of 100 random draws; fitted by 50 steps of L-BFGS).
    """
    path = write_lines(tmp_path / "judgments.jsonl", tool_data.arena_judgments("2.0"))
    answers = read_answers([write_lines(tmp_path / "answers.jsonl", tool_data.arena_answers())])
    found = read_judgments([path], version="2.0")
    cards = score_arena(found, version="2.0", controls=["length", "markdown"], answers=answers)
    for card, (category, name, score, controlled) in zip(
        cards,
        [
            ("creative_writing", "model-one", 53.52112676056338, 53.35),
            ("creative_writing", "model-two", 50.49019607843137, 49.97),
            ("hard_prompt", "model-one", 57.73809523809523, 57.87),
            ("hard_prompt", "model-two", 37.64705882352941, 37.03),
        ],
        strict=True,
    ):
        assert (card.benchmark, card.model) == (f"arena_hard_2.0_{category}", name)
        assert card.baseline == tool_data.BASELINES[category]
        assert card.get_metric("score").value == pytest.approx(score, abs=1e-9)
        at_equal_style = card.get_metric("score_controlled_length_markdown_band_90").value
        assert at_equal_style == pytest.approx(controlled, abs=2)


def test_style_features_agree_with_the_public_tool(tmp_path: Path) -> None:
    """Features that the tool gave to its bootstrap for the first question of each category.

    Made as in the test above: tokens, headers, lists, bold of model-one, in single precision. All
    582 battles of both categories agree within 4.1e-7.
    """
    path = write_lines(tmp_path / "judgments.jsonl", tool_data.arena_judgments("2.0"))
    answers = read_answers([write_lines(tmp_path / "answers.jsonl", tool_data.arena_answers())])
    for category, uid, expected in [
        ("hard_prompt", "question-000", [0.6065615, -0.1873277, -0.0508997, 0.1876039]),
        ("creative_writing", "question-003", [-1.0329069, 0.6216938, -0.2568603, 0.9388306]),
    ]:
        found = read_judgments([path], version="2.0", categories=[category])
        outcomes = build_outcomes(found, version="2.0")
        features = compute_style_features(outcomes, answers, tool_data.BASELINES[category])
        own = (outcomes.model == outcomes.models.index("model-one")) & (
            outcomes.question == outcomes.uids.index(uid)
        )
        assert features[own][0] == pytest.approx(expected, abs=1e-6)
