"""Model texts for auditors and review leads: safe Markdown, score lines, marked differences."""

from typing import Final

import nh3
from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

from meta_reward_core.method.parsing import remove_score_lines

_DIFFERENCES: Final = "audit_differences"
_LAST_DECISION: Final = "audit_last_decision"
_MAX_CHARS: Final = 20_000
_TAGS: Final = {
    "p", "br", "hr", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).disable(
    ["image", "link", "autolink"]
)


def render_markdown(text: str) -> SafeString:
    """Render a model's Markdown without HTML, links, images or attributes.

    Line ends are kept, as in the text that the judge or the meta-judge read.

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


def remember_differences(request: HttpRequest) -> bool:
    """Return whether differences are marked: by the address, or by the user's last choice."""
    chosen = request.GET.get("differences")
    if chosen is not None:
        request.session[_DIFFERENCES] = chosen == "1"
    return bool(request.session.get(_DIFFERENCES, False))


def remember_decision(request: HttpRequest, item: int | None) -> None:
    """Remember the item that the user just decided; None after the decision was undone."""
    request.session[_LAST_DECISION] = item


def was_just_decided(request: HttpRequest, item: int) -> bool:
    """Return whether an item is the last that the user decided in this session."""
    return bool(request.session.get(_LAST_DECISION) == item)
