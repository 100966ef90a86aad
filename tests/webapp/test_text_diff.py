"""What differs between two texts: right, the same on every page, and bounded in work."""

import itertools

import pytest
from django.template.loader import render_to_string
from hypothesis import example, given
from hypothesis import strategies as st

from webapp import text_diff
from webapp.text_diff import MAX_STEPS, Span, compare_texts, count_steps, diff_texts

LONG = 14_000
HOSTILE = [
    ("a " * 7_000, "b " * 7_000),
    ("a " * 7_000, "a b " * 3_500),
    ("a b c " * 2_333, "c b a " * 2_333),
    ("a\n" * 7_000, "b\n" * 6_000),
    ("<" * LONG, "<" * (LONG - 1)),
    ("<>" * 7_000, "><" * 7_000),
]


def test_words_are_compared_one_by_one() -> None:
    assert compare_texts("a cat sat", "a black cat stood") == [
        Span("same", "a "),
        Span("second", "black "),
        Span("same", "cat "),
        Span("first", "sat"),
        Span("second", "stood"),
    ]


def test_two_changed_words_of_a_line_are_one_change() -> None:
    assert compare_texts("the red car\nend", "the blue bus\nend") == [
        Span("same", "the "),
        Span("first", "red car"),
        Span("second", "blue bus"),
        Span("same", "\nend"),
    ]


def test_a_longer_text_changes_no_word_before_its_new_end() -> None:
    assert compare_texts("a cat", "a cat sat") == [Span("same", "a cat"), Span("second", " sat")]


def test_each_side_shows_its_own_words() -> None:
    spans = compare_texts("same\nthe red car\n", "same\nthe blue car\n")
    left, right = diff_texts("first", spans), diff_texts("second", spans)
    assert [span.text for span in left if span.side != "same"] == ["red"]
    assert [span.text for span in right if span.side != "same"] == ["blue"]


@given(st.text(max_size=200), st.text(max_size=200))
@example("", "")
@example("", "a")
@example("a\nb", "")
@example("a b", "c d")
def test_both_texts_can_be_put_together_again(first: str, second: str) -> None:
    spans = compare_texts(first, second)
    assert "".join(span.text for span in diff_texts("first", spans)) == first
    assert "".join(span.text for span in diff_texts("second", spans)) == second
    assert all(span.text for span in spans)
    assert all(a.side != b.side for a, b in itertools.pairwise(spans))


@given(st.text("abc ", max_size=40), st.text("abc ", max_size=40))
def test_nobody_finds_more_words_in_common(first: str, second: str) -> None:
    """The length of the longest common subsequence, by the textbook's recurrence."""
    words = text_diff._WORDS.findall(first), text_diff._WORDS.findall(second)
    row = [0] * (len(words[1]) + 1)
    for word in words[0]:
        above = row
        row = [0]
        for place, other in enumerate(words[1]):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
    same = [was for is_same, was, _ in text_diff._align(*words) if is_same]
    assert sum(len(text_diff._WORDS.findall(text)) for text in same) == row[-1]


@pytest.mark.parametrize("first, second", HOSTILE)
def test_texts_of_fourteen_thousand_characters_are_compared_by_words_in_bounded_steps(
    first: str, second: str
) -> None:
    """At most ceil(14,000 / 64) * 14,000 = 219 * 14,000 = 3,066,000 steps, whatever the words."""
    words = text_diff._WORDS.findall(first), text_diff._WORDS.findall(second)
    assert count_steps(*words) <= 219 * 14_000 < MAX_STEPS
    spans = compare_texts(first, second)
    assert "".join(span.text for span in diff_texts("first", spans)) == first


def test_longer_texts_are_compared_by_lines_and_endless_ones_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two lines of up to 64 words: one step for each line of the second."""
    first, second = "a b\nc d\n", "a b\nc e\n"
    assert compare_texts(first, second)[-1] == Span("same", "\n")
    monkeypatch.setattr(text_diff, "MAX_STEPS", 2)
    assert compare_texts(first, second) == [
        Span("same", "a b\n"),
        Span("first", "c d\n"),
        Span("second", "c e\n"),
    ]
    monkeypatch.setattr(text_diff, "MAX_STEPS", 1)
    assert compare_texts(first, second) == [Span("first", first), Span("second", second)]


def test_spans_are_escaped_on_every_page() -> None:
    spans = compare_texts("<b>x</b> & <i>", "<u>x</u> & <i>")
    for layout in ({}, {"side_by_side": True}):
        page = render_to_string("_text_spans.html", {"spans": spans, **layout})
        for tag in ("<b", "<u", "<i>", "</b"):
            assert tag not in page
    assert "<mark>" in page
    assert "<ins>" not in page, "neither of two judgments is the later one"
