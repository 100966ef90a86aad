"""Texts of models as auditors read them."""

import time

import pytest

from webapp.audit.texts import Piece, mark_differences, render_markdown, shown_judgments

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "<https://example.org>",
    "<a href='https://example.org'>x</a>",
    "<style>body { display: none }</style>",
    "`<b onclick=alert(1)>`",
    "&lt;script&gt;alert(1)",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("padding", ["", "x" * 20_001])
def test_no_tag_but_plain_ones_comes_out(text: str, padding: str) -> None:
    html = render_markdown(text + padding)
    for tag in ("<script", "<img", "<a ", "<style", "<b "):
        assert tag not in html


def test_markdown_is_rendered() -> None:
    html = render_markdown("# Title\n\n- **one**\n- two")
    assert "<h1>Title</h1>" in html
    assert "<li><strong>one</strong></li>" in html


def test_both_judgments_are_swapped_and_cut() -> None:
    first, second = "good\nScore: 4", "bad\nScore: 1"
    shown = shown_judgments(first, second, is_swapped=True, hides_score_lines=False)
    assert shown == (second, first)
    cut = shown_judgments(first, second, is_swapped=False, hides_score_lines=True)
    assert cut == ("good", "bad")


def test_differences_are_words_within_lines() -> None:
    left, right = mark_differences("same\nthe red car\n", "same\nthe blue car\n")
    assert [piece for piece in left if piece.is_different] == [Piece("red", True)]
    assert [piece for piece in right if piece.is_different] == [Piece("blue", True)]
    assert "".join(piece.text for piece in left) == "same\nthe red car\n"


@pytest.mark.parametrize("left, right", [("", ""), ("", "a"), ("a\nb", ""), ("a b", "c d")])
def test_nothing_of_a_text_is_lost(left: str, right: str) -> None:
    sides = mark_differences(left, right)
    assert ["".join(piece.text for piece in side) for side in sides] == [left, right]


def test_long_texts_without_lines_take_no_long_time() -> None:
    began = time.monotonic()
    mark_differences("word " * 5000, "other word " * 5000)
    assert time.monotonic() - began < 2
