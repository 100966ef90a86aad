"""Texts of models as people read them: markdown without danger, and differences marked."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

from meta_reward_core.parsing import remove_score_lines

_MOST_CHARS: Final = 20_000
_MOST_WORDS: Final = 600
_TAGS: Final = {
    "p", "br", "hr", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
_markdown = MarkdownIt("commonmark", {"html": False}).disable(["image", "link", "autolink"])


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text, and whether the other text lacks it."""

    text: str
    is_different: bool


def render_markdown(text: str) -> SafeString:
    """Render a model's markdown: no HTML of its own, no link, no image, no attribute.

    A text that is too long to parse at once is shown as it stands.
    """
    if len(text) > _MOST_CHARS:
        html = nh3.clean_text(text)
        return mark_safe(f"<pre>{html}</pre>")  # nosec B308 B703 # noqa: S308 escaped in the line above
    html = nh3.clean(_markdown.render(text), tags=_TAGS, attributes={})
    return mark_safe(html)  # nosec B308 B703 # noqa: S308 sanitised in the line above


def shown_judgments(
    first: str, second: str, *, is_swapped: bool, hides_score_lines: bool
) -> tuple[str, str]:
    """Judgments A and B as an auditor sees them."""
    texts = (second, first) if is_swapped else (first, second)
    if hides_score_lines:
        return remove_score_lines(texts[0]), remove_score_lines(texts[1])
    return texts


def mark_differences(left: str, right: str) -> tuple[list[Piece], list[Piece]]:
    """Cut two texts into pieces that both have and pieces that only one has.

    Lines are compared first, words only within lines that differ and only if those are few.
    """
    lines = [text.splitlines(keepends=True) for text in (left, right)]
    found: tuple[list[Piece], list[Piece]] = ([], [])
    for is_equal, a, b in _blocks(*lines):
        pieces = _alike(a, b) if is_equal else _within(a, b)
        for side, more in zip(found, pieces, strict=True):
            side.extend(more)
    return found


def _within(a: Sequence[str], b: Sequence[str]) -> tuple[list[Piece], list[Piece]]:
    words = [re.findall(r"\s+|\S+", "".join(part)) for part in (a, b)]
    if max(map(len, words)) > _MOST_WORDS or not all(words):
        return _whole(a, is_different=True), _whole(b, is_different=True)
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for is_equal, *both in _blocks(*words):
        for side, part in zip(sides, both, strict=True):
            if part:
                side.append(Piece("".join(part), is_different=not is_equal))
    return sides


def _alike(a: Sequence[str], b: Sequence[str]) -> tuple[list[Piece], list[Piece]]:
    return _whole(a, is_different=False), _whole(b, is_different=False)


def _whole(part: Sequence[str], *, is_different: bool) -> list[Piece]:
    return [Piece("".join(part), is_different)] if part else []


def _blocks(
    a: Sequence[str], b: Sequence[str]
) -> Iterator[tuple[bool, Sequence[str], Sequence[str]]]:
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        yield tag == "equal", a[a_from:a_to], b[b_from:b_to]
