"""Reading points and verdicts: what is legal, what is absent, and that it takes linear time.

Whole corpora of endings, with a careful human's reading, are in `test_parsing_corpus`.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from meta_reward_core.method.parsing import (
    UNPARSED_TEXT,
    UNSCORED_TEXT,
    ParsedScore,
    ParsedVerdict,
    parse_score,
    parse_verdict,
    read_mark,
    remove_score_lines,
    remove_verdict_lines,
)
from meta_reward_core.tasks.toy import task


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
        ("I give it 4 of 5", 4.0),
        ("Score: four", 4.0),
        ("Score: 4,5", 4.5),
        ("Score: \uff14", 4.0),
        ("Score: 4\u00bd", 4.5),
        ("Score: 1 + 1 + 1 = 3", 3.0),
    ],
)
def test_points_are_read(text: str, score: float) -> None:
    assert parse_score(text) == ParsedScore(score, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_score_line"),
        ("A fine answer.", "no_score_line"),
        ("Scores: 4", "no_score_line"),
        ("Underscore: 4", "no_score_line"),
        ('The response itself says "Score: 5"', "no_score_line"),
        ("> Score: 5", "no_score_line"),
        ("Score:", "score_not_a_number"),
        ("Score: <total points>", "score_not_a_number"),
        ("Score: about 4", "score_not_a_number"),
        ("Score: NaN", "score_not_a_number"),
        ("Score: inf", "score_not_a_number"),
        ("Score: 1e9", "score_not_a_number"),
        ("Score: 4.5.1", "score_not_a_number"),
        ("Score: \u0664", "score_not_a_number"),
        ("Score: 80%", "score_on_another_scale"),
        ("Score: 3-4", "score_not_a_number"),
        ("Score: 3 or 4", "score_not_a_number"),
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
@example("two of the stars \u2b50 in a line\n")
def test_a_text_without_a_score_keeps_every_character(text: str) -> None:
    assume(parse_score(text).reason == "no_score_line")  # one star alone is a score
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
        ("The winner is Judgement A", "A"),
        ("Winner: Judgement A and B are equal", "tie"),
    ],
)
def test_verdicts_are_read(text: str, verdict: str) -> None:
    assert parse_verdict(text) == ParsedVerdict(verdict, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_winner_line"),
        ("> Winner: Judgement A", "no_winner_line"),
        ("Winner:", "winner_not_readable"),
        ("Winner: Judgement C", "winner_not_readable"),
        ("Winner: Judgement Alpha", "winner_not_readable"),
        ("Winner: a good one, B", "winner_not_readable"),
        ("Winner: not Judgement A", "winner_not_readable"),
        ("Winner: Judgement A or Judgement B", "winner_not_readable"),
        ("Winner: Judgement A / B", "winner_not_readable"),
        ("Winner: Judgement A|B", "winner_not_readable"),
    ],
)
def test_an_unreadable_reply_is_no_verdict_and_no_tie(text: str, reason: str) -> None:
    assert parse_verdict(text) == ParsedVerdict(None, reason)  # type: ignore[arg-type]


@given(st.text())
def test_a_verdict_and_a_reason_exclude_each_other(text: str) -> None:
    parsed = parse_verdict("Winner: " + text)
    assert (parsed.verdict is None) != (parsed.reason is None)


def count_steps(call: Callable[[], object]) -> int:
    """Calls of Python and of C functions that a call makes."""
    steps = 0

    def step(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(step)
    try:
        call()
    finally:
        sys.setprofile(None)
    return steps


PIECES = [
    " ", "*", "score:", "winner:<", "a. Score: 4", "<a ", "4", "(", "4 + ", "[[A>B]]", "Score: 4. ",
    "the ", "A, ", "= 4 ", "Score: 4\n", "Score\n", "<think>", "so total score ", "wait 3. ",
]  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "mark"),
    [
        (parse_score, "Score: "),
        (parse_verdict, "Winner: "),
        (remove_score_lines, "Score: "),
        (remove_verdict_lines, "Winner: "),
        (read_mark, "[[A>B]] "),
    ],
)
@pytest.mark.parametrize("piece", PIECES)
def test_the_steps_grow_with_the_text_and_not_with_its_square(
    parse: Callable[[str], object], mark: str, piece: str
) -> None:
    """Four times the text takes four times the steps; quadratic work would take sixteen times."""
    short, long = mark + piece * 300, mark + piece * 1200
    steps = count_steps(lambda: parse(short)), count_steps(lambda: parse(long))
    assert steps[1] < 6 * steps[0] + 500


@pytest.mark.parametrize("piece", ["score:", "<a ", "4", "(", "[" * 2])
def test_a_line_of_many_characters_is_read(piece: str) -> None:
    """Seconds on a slow machine; what steps cannot count (a pattern, a slice) would take hours."""
    line = piece * (300_000 // len(piece))
    assert parse_score(line).score is None
    assert parse_verdict(f"Winner: {line}").verdict is None


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
    found = parse_score(text, max_score=10)
    assert (found.score, found.reason) == (score, reason)


@given(st.floats(min_value=1e-3, max_value=1000), st.floats(min_value=0, max_value=1))
def test_no_share_of_any_scale_lies_beyond_five(top: float, share: float) -> None:
    top = float(f"{top:.4f}")
    points = f"{math.floor(top * share * 10_000) / 10_000:.4f}"
    score = parse_score(f"Score: {points}", max_score=top).score
    assert score is not None
    assert 0 <= score <= 5


NUMBERS = st.sampled_from(["0", "1", "2", "3", "4", "5", "2.5", "4.75"])
WRAPPERS = st.sampled_from(
    ["{}", "**{}**", "*{}*", "_{}_", "`{}`", '"{}"', "\u201c{}\u201d", "'{}'", "({})", "### {}",
     "- {}",
     "\t{}  ", "\u2705 {}", "{}</s>", "{}<|im_end|>", "1. {}", "| {} |"]
)  # fmt: skip


@given(NUMBERS, WRAPPERS, WRAPPERS, st.sampled_from(["", "/5", " out of 5", " points"]))
def test_wrappers_of_line_and_value_do_not_change_a_score(
    number: str, line: str, value: str, scale: str
) -> None:
    if value != "{}" and value[0] in "-\t\u2705#1|":
        value = "{}"
    text = line.format(f"Score: {value.format(number)}{scale}")
    assert parse_score(text).score == float(number)


@given(st.sampled_from("AB"), WRAPPERS)
def test_wrappers_of_a_line_do_not_change_a_verdict(letter: str, line: str) -> None:
    assert parse_verdict(line.format(f"Winner: Judgement {letter}")).verdict == letter


@given(NUMBERS, st.integers(6, 1000), st.sampled_from(["/{}", " out of {}", " points of {}",
       " (out of {})", " on a scale of 1 to {}", " (max {})", " stars out of {}"]))  # fmt: skip
def test_points_of_another_scale_are_never_points(number: str, top: int, form: str) -> None:
    assert parse_score(f"Score: {number}{form.format(top)}").score is None


@given(NUMBERS, NUMBERS, st.sampled_from(["{}-{}", "{} to {}", "{} or {}", "{}, {}", "{} {}",
       "{}/{}/5", "{} -> {}", "between {} and {}", "{}; {}", "{}. {}", "{}\nNo, {}",
       "{}\nActually, {}."]))  # fmt: skip
def test_two_numbers_are_never_one_score(one: str, other: str, form: str) -> None:
    if one != other:
        assert parse_score(f"Score: {form.format(one, other)}").score is None


@given(st.sampled_from(["A", "Judgement A", "Answer A"]), st.sampled_from(["B", "Judgement B"]),
       st.sampled_from(["{} or {}", "{}/{}", "{} & {}", "{}, {}", "{} and {}", "{}|{}", "{}; {}",
       "{} if strict, otherwise {}", "{} for accuracy, {} for style", "{}, then {}", "{}. No, {}",
       "{}\nActually, {}", "not {}, {}", "either {} or {}"]))  # fmt: skip
def test_two_options_are_never_one_verdict(one: str, other: str, form: str) -> None:
    assert parse_verdict(f"Winner: {form.format(one, other)}").verdict is None
    assert parse_verdict(f"Better: {form.format(other, one)}").verdict is None


@given(st.lists(st.integers(0, 1), min_size=2, max_size=5), st.integers(0, 5))
def test_a_total_is_read_if_it_is_the_sum(terms: list[int], total: int) -> None:
    score = parse_score(f"Score: {' + '.join(map(str, terms))} = {total}").score
    assert score == (total if total == sum(terms) else None)


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ("<think>Score: 1\nBut no, the answer is right", None, "judgment_cut_off"),
        ("<think>Score: 1</think>\nScore: 4", 4.0, None),
        ("<think>\nScore: 1\n</think>\nIt is fine.", None, "no_score_line"),
        ("It seems to be a 1. Score: 1\n</think>\n\nScore: 4", 4.0, None),
        ("Score: 3\n<thinking>Is it?", None, "judgment_cut_off"),
        ("<reasoning>fine</reasoning><score>4</score>", 4.0, None),
        ("[THINK]Score: 2[/THINK]Score: 3", 3.0, None),
        ("<|channel|>analysis<|message|>Score: 2<|end|><|start|>assistant<|channel|>final"
         "<|message|>Score: 3", 3.0, None),
        ("The answer shows its `<think>` tag.\nScore: 2", 2.0, None),
    ],
)  # fmt: skip
def test_only_what_follows_closed_reasoning_counts(
    text: str, score: float | None, reason: str | None
) -> None:
    found = parse_score(text)
    assert (found.score, found.reason) == (score, reason)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4", None),
        ("Score: 4.", None),
        ("**Score: 4**", None),
        ("Score: 4/5", None),
        ("Score:", None),
        ("It begins well, but", None),
        ("Score: 3\nOn reflection\nScore: 4", None),
        ("I would give this response a score of 4.", None),
        ("Score: 4\n", 4.0),
        ("Score: 4\nThe response is clear and helpful.", 4.0),
        ("Score: 4. The response is clear and helpful.", 4.0),
        ("Score: 4\nAnd further I would", 4.0),
    ],
)
def test_a_score_before_the_token_limit_counts_if_its_end_is_seen(
    text: str, score: float | None
) -> None:
    """At the limit "Score: 4" could have become 4.5 or 4/10."""
    found = parse_score(text, is_cut_off=True)
    assert (found.score, found.reason) == (score, None if score else "judgment_cut_off")


def test_a_verdict_before_the_token_limit_counts_if_its_end_is_seen() -> None:
    """At the limit "Winner: Judgement A" could have become "A and B are equal"."""
    cut = parse_verdict("Winner: Judgement A", is_cut_off=True)
    assert cut == ParsedVerdict(None, "judgment_cut_off")
    whole = "Winner: Judgement A\nThe other one errs."
    assert parse_verdict(whole, is_cut_off=True) == ParsedVerdict("A", None)


@given(st.sampled_from(["Score: 4", "**Score:**\n4/5", "Score: 2.5 out of 5"]), st.text())
def test_a_cut_off_reply_reads_like_a_whole_one_or_not_at_all(line: str, more: str) -> None:
    text = f"{line}\n{more}"
    cut, whole = parse_score(text, is_cut_off=True), parse_score(text)
    assert cut == whole or cut.reason == "judgment_cut_off"


def test_every_judgment_of_the_toy_task_is_read_as_it_was_written() -> None:
    """The last word of each judgment is its score, of each comparison its winner."""
    for row in task.generate_sft_rows(500, seed=3):
        text: Any = row["completion"][0]["content"]
        if row["task"] == "judge":
            assert parse_score(text).score == float(text.split()[-1])
        if row["task"] == "meta_judge":
            assert parse_verdict(text).verdict == text.split()[-1]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("So: [[A>>B]]", "A>>B"),
        ("[[a>b]]", "A>B"),
        ("My verdict: [A>B]", "A>B"),
        ("[[A>B]] at first, but no: [[B>A]].", "B>A"),
        ("[[A=B]]\nas in [B>A]", "A=B"),
        ("[[A>B]] or [[A=B]]", None),
        ("[[A>B]]\nThat is: [[A]]", "A"),
        ("(A>B)", None),
        ("A>B", None),
        ("matrix = [[1, 2], [3, 4]]", None),
        ("<think>[[A>B]]", None),
        ("<think>[[A>B]]</think>[[B>A]]", "B>A"),
    ],
)
def test_the_last_mark_in_brackets_is_found(text: str, mark: str | None) -> None:
    assert read_mark(text) == mark
