"""A report as one HTML file that needs nothing but itself: no script, no network, no server."""

from django.template.loader import render_to_string

from meta_reward_core.reporting.document import Document
from webapp.paths import STATIC_SOURCES
from webapp.reporting.render_blocks import render_sections

_STYLES = ("site.css", "charts.css", "reporting.css")


def write_html(document: Document) -> str:
    """Write a report as HTML, its style inside."""
    return render_to_string(
        "reporting/file.html",
        {
            "title": document.title,
            "sections": render_sections(document),
            "styles": [(STATIC_SOURCES / name).read_text(encoding="utf-8") for name in _STYLES],
        },
    )
