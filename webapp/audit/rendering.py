"""Model texts for auditors: safe Markdown, without score lines."""

from typing import Final

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

from meta_reward_core.method.parsing import remove_score_lines

_MAX_CHARS: Final = 20_000
_TAGS: Final = {
    "p", "br", "hr", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
_markdown = MarkdownIt("commonmark", {"html": False}).disable(["image", "link", "autolink"])


def render_markdown(text: str) -> SafeString:
    """Render a model's Markdown without HTML, links, images or attributes.

    A text that is too long to parse is shown as plain text.
    """
    if len(text) > _MAX_CHARS:
        html = nh3.clean_text(text)
        return mark_safe(f"<pre>{html}</pre>")  # nosec B308 B703 # noqa: S308 escaped in the line above
    html = nh3.clean(_markdown.render(text), tags=_TAGS, attributes={})
    return mark_safe(html)  # nosec B308 B703 # noqa: S308 sanitised in the line above


def get_shown_judgments(
    first: str, second: str, *, is_swapped: bool, hides_score_lines: bool
) -> tuple[str, str]:
    """Return judgments A and B as displayed to an auditor."""
    texts = (second, first) if is_swapped else (first, second)
    if hides_score_lines:
        return remove_score_lines(texts[0]), remove_score_lines(texts[1])
    return texts
