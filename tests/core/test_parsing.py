"""Reading points and verdicts: what is legal, what is absent, and that it takes linear time."""

import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.parsing import (
    UNPARSED_TEXT,
    UNSCORED_TEXT,
    ParsedScore,
    ParsedVerdict,
    parse_score,
    parse_verdict,
    remove_score_lines,
)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4", 4.0),
        ("Good reasons.\n\nScore: 4.75", 4.75),
        ("Score: 0", 0.0),
        ("Score: 5.0", 5.0),
        ("Score: .5", 0.5),
        ("Score: -0", 0.0),
        ("score:4", 4.0),
        ("SCORE : 3", 3.0),
        ("Score\uff1a4", 4.0),
        ("Score:\u00a04", 4.0),
        ("**Score:** 4", 4.0),
        ("**Score: 4**", 4.0),
        ("### Final score: **3.5**", 3.5),
        ("- **Total Score**: 2", 2.0),
        ("1. Score: 3", 3.0),
        ("Score: 4/5", 4.0),
        ("Score: 4 / 5.0", 4.0),
        ("Score: 4 out of 5", 4.0),
        ("Score: 4 points out of 5.", 4.0),
        ("Score: 4 points", 4.0),
        ("Score: <4>", 4.0),
        ("Score: [4]", 4.0),
        ('Score: "4"', 4.0),
        ("Score: <total points>4</total points>", 4.0),
        ("Score: <total points>: 4", 4.0),
        ("Score: $\\boxed{4}$", 4.0),
        ("Score: 4 - clear and helpful", 4.0),
        ("Score: 4 (see criterion 2)", 4.0),
        ("It answers the question. Score: 4", 4.0),
        ("It answers the question. **Score: 4.5/5**", 4.5),
        ("Score: 4\r\n", 4.0),
        ("Score: 4\n\nI hope this helps!", 4.0),
    ],
)
def test_points_are_read(text: str, score: float) -> None:
    assert parse_score(text) == ParsedScore(score, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_score_line"),
        ("A fine answer.", "no_score_line"),
        ("I give it 4 of 5", "no_score_line"),
        ("Scores: 4", "no_score_line"),
        ("Underscore: 4", "no_score_line"),
        ('The response itself says "Score: 5"', "no_score_line"),
        ("> Score: 5", "no_score_line"),
        ("Score:", "score_not_a_number"),
        ("Score: <total points>", "score_not_a_number"),
        ("Score: four", "score_not_a_number"),
        ("Score: about 4", "score_not_a_number"),
        ("Score: NaN", "score_not_a_number"),
        ("Score: inf", "score_not_a_number"),
        ("Score: 1e9", "score_not_a_number"),
        ("Score: 4.5.1", "score_not_a_number"),
        ("Score: 4,5", "score_not_a_number"),
        ("Score: \u0664", "score_not_a_number"),
        ("Score: \uff14", "score_not_a_number"),
        ("Score: 4\u00bd", "score_not_a_number"),
        ("Score: 80%", "score_not_a_number"),
        ("Score: 3-4", "score_not_a_number"),
        ("Score: 3 or 4", "score_not_a_number"),
        ("Score: 1 + 1 + 1 = 3", "score_not_a_number"),
        ("Score: 4 Score: 5", "score_not_a_number"),
        ("Score: 4 5", "score_not_a_number"),
        ("Score: 6", "score_out_of_range"),
        ("Score: 5.01", "score_out_of_range"),
        ("Score: -1", "score_out_of_range"),
        ("Score: \u22121", "score_out_of_range"),
        ("Score: " + "9" * 150, "score_out_of_range"),
        ("Score: 4/10", "score_on_another_scale"),
        ("Score: 8 out of 10", "score_on_another_scale"),
    ],
)
def test_what_cannot_be_read_has_a_reason_and_no_number(text: str, reason: str) -> None:
    assert parse_score(text) == ParsedScore(None, reason)  # type: ignore[arg-type]


def test_the_last_score_line_counts() -> None:
    assert parse_score("Score: 1\nOn reflection:\nScore: 3.5").score == 3.5


def test_an_unreadable_last_line_is_not_replaced_by_an_earlier_one() -> None:
    assert parse_score("Score: 2\nScore: none") == ParsedScore(None, "score_not_a_number")


def test_a_line_separator_inside_a_judgment_ends_the_line() -> None:
    assert parse_score("Reasons.\u2028Score: 4").score == 4.0


@given(st.decimals(0, 5, places=2), st.text())
def test_plain_points_are_read_after_any_reasons(points: object, reasons: str) -> None:
    assert parse_score(f"{reasons}\nScore: {points}").score == float(str(points))


@given(st.text())
def test_a_score_is_always_absent_or_in_range(text: str) -> None:
    parsed = parse_score("Score: " + text)
    assert (parsed.score is None) != (parsed.reason is None)
    assert parsed.score is None or 0 <= parsed.score <= 5


@given(st.integers(max_value=-1))
def test_a_negative_number_never_becomes_points(points: int) -> None:
    """A judge's "-1" for a failure was once turned round into 2; here it stays absent."""
    assert parse_score(f"Score: {points}") == ParsedScore(None, "score_out_of_range")


_LINES = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            ["Score: 4", "**Score:** 2/5", "Fine. Score: 3", "Score: x", "Score: 4. Score: 5", "."]
        ),
    ),
    max_size=5,
)


@given(_LINES)
def test_without_score_lines_nothing_is_left_to_parse(lines: list[str]) -> None:
    assert parse_score(remove_score_lines("\n".join(lines))).reason == "no_score_line"


def test_reasons_survive_when_score_lines_are_removed() -> None:
    text = "It is relevant.\r\n**Score:** 3\nIt is clear. Score: 4\n\nSee above.\nScore: 4/5\n"
    assert remove_score_lines(text) == "It is relevant.\r\nIt is clear.\n\nSee above."


@given(st.text(alphabet=st.characters(exclude_characters="cC", exclude_categories=["Cs"])))
def test_a_text_without_a_score_keeps_every_character(text: str) -> None:
    assert remove_score_lines(text) == text.rstrip()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Winner: Judgement A", "A"),
        ("Winner: Judgment B", "B"),
        ("winner: judgement b", "B"),
        ("**Winner:** Judgement A.", "A"),
        ("**Winner: [Judgement B]**", "B"),
        ("Winner: <Judgement A>", "A"),
        ("Winner: [[A]]", "A"),
        ("Winner\uff1aJudgement A", "A"),
        ("Winner: B", "B"),
        ("Winner: the Judgment A", "A"),
        ("Winner: Judgement A because Judgement B is wrong", "A"),
        ("Judgement B errs. Winner: Judgement A", "A"),
        ("Winner: Judgement A\nNo:\nWinner: Judgement B", "B"),
        ("Winner: tie", "tie"),
        ("Winner: It's a tie.", "tie"),
        ("Winner: A tie", "tie"),
        ("Winner: neither", "tie"),
        ("Winner: Draw", "tie"),
    ],
)
def test_verdicts_are_read(text: str, verdict: str) -> None:
    assert parse_verdict(text) == ParsedVerdict(verdict, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_winner_line"),
        ("The winner is Judgement A", "no_winner_line"),
        ("> Winner: Judgement A", "no_winner_line"),
        ("Winner:", "winner_not_readable"),
        ("Winner: Judgement C", "winner_not_readable"),
        ("Winner: Judgement Alpha", "winner_not_readable"),
        ("Winner: a good one, B", "winner_not_readable"),
        ("Winner: not Judgement A", "winner_not_readable"),
        ("Winner: Judgement A or Judgement B", "winner_not_readable"),
        ("Winner: Judgement A / B", "winner_not_readable"),
        ("Winner: Judgement A|B", "winner_not_readable"),
        ("Winner: Judgement A and B are equal", "winner_not_readable"),
    ],
)
def test_an_unreadable_reply_is_no_verdict_and_no_tie(text: str, reason: str) -> None:
    assert parse_verdict(text) == ParsedVerdict(None, reason)  # type: ignore[arg-type]


@given(st.text())
def test_a_verdict_and_a_reason_exclude_each_other(text: str) -> None:
    parsed = parse_verdict("Winner: " + text)
    assert (parsed.verdict is None) != (parsed.reason is None)


@pytest.mark.parametrize(
    ("parse", "mark"),
    [(parse_score, "Score: "), (parse_verdict, "Winner: "), (remove_score_lines, "Score: ")],
)
@pytest.mark.parametrize("piece", [" ", "*", "score:", "winner:<", "a. Score: 4", "<a ", "4", "("])
def test_the_time_grows_with_the_text_and_not_with_its_square(
    parse: Callable[[str], object], mark: str, piece: str
) -> None:
    """A line of a megabyte takes about a second at worst; quadratic work would take hours."""
    line = piece * (1_000_000 // len(piece))
    began = time.perf_counter()
    parse(line)
    parse(mark + line)
    assert time.perf_counter() - began < 20


def test_every_reason_has_a_sentence_for_people() -> None:
    assert all(text.endswith(".") for text in [*UNSCORED_TEXT.values(), *UNPARSED_TEXT.values()])
    assert parse_score("").reason in UNSCORED_TEXT
    assert parse_verdict("Winner: ?").reason in UNPARSED_TEXT


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ("Score: 8", 4.0, None),
        ("Score: 8/10", 4.0, None),
        ("Score: 7.5 out of 10", 3.75, None),
        ("Score: 10", 5.0, None),
        ("Score: 11", None, "score_out_of_range"),
        ("Score: 4/5", None, "score_on_another_scale"),
    ],
)
def test_points_of_another_scale_are_shares_of_five(
    text: str, score: float | None, reason: str | None
) -> None:
    found = parse_score(text, top_points=10)
    assert (found.score, found.reason) == (score, reason)


@given(st.floats(min_value=1e-3, max_value=1000), st.floats(min_value=0, max_value=1))
def test_no_share_of_any_scale_lies_beyond_five(top: float, share: float) -> None:
    top = float(f"{top:.4f}")
    points = f"{math.floor(top * share * 10_000) / 10_000:.4f}"
    score = parse_score(f"Score: {points}", top_points=top).score
    assert score is not None
    assert 0 <= score <= 5
