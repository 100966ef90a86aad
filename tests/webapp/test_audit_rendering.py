"""Texts of models as auditors read them."""

import pytest

from webapp.audit.rendering import get_shown_judgments, render_markdown

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
    assert render_markdown("one\ntwo").replace("\n", "") == "<p>one<br>two</p>"


def test_both_judgments_are_swapped_and_cut() -> None:
    first, second = "good\nScore: 4", "bad\nScore: 1"
    shown = get_shown_judgments(first, second, is_swapped=True, hides_score_lines=False)
    assert shown == (second, first)
    cut = get_shown_judgments(first, second, is_swapped=False, hides_score_lines=True)
    assert cut == ("good", "bad")
