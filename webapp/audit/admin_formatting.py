"""Texts, tables and links for the admin pages of audits."""

from collections.abc import Iterable
from datetime import datetime

from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from webapp.activity.models import Activity
from webapp.audit.models import Item, PreferenceLabel
from webapp.audit.report_presenter import describe_log_entry
from webapp.audit.review_presenter import make_history, make_links


def format_side_by_side(texts: Iterable[tuple[str, str]]) -> str:
    """Format named texts as columns."""
    boxes = ((name, format_text(text)) for name, text in texts)
    columns = format_html_join("", "<div><strong>{}</strong>{}</div>", boxes)
    return format_html('<div class="review-sides">{}</div>', columns)


def list_item_links(item: Item) -> list[tuple[str, str]]:
    """List the pages of the site about an item: address and name."""
    found = make_links(item)
    links = [
        (reverse("audit_review", args=[item.batch_id, item.number]), "site"),
        (found.prompt, "prompt"),
        (found.response, "response"),
        (found.battle, "battle"),
    ]
    return [one for one in links if one[0]]


def format_links(item: Item, links: Iterable[tuple[str, str]]) -> str:
    """Format links about an item, with labels that name it."""
    labelled = [(address, f"{name}: {item}", name) for address, name in links]
    return format_html_join(" · ", '<a href="{}" aria-label="{}">{}</a>', labelled)


def format_time(time: datetime) -> str:
    """Format a time in the time zone of the site."""
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M}"


def format_activity(rows: Iterable[Activity]) -> str:
    """Format entries of the activity log as a table."""
    lines = [
        (format_time(one.created), one.created_by_name, one.what, one.before, one.after,
         one.reason or "–")
        for one in map(describe_log_entry, rows)
    ]  # fmt: skip
    return format_table(("When", "By", "Action", "Before", "After", "Reason"), lines)


def format_item_history(item: Item) -> str:
    """Format all activity on an item and its repeats as a table."""
    lines = [
        (format_time(one.created), one.who, one.what, one.details) for one in make_history(item)
    ]
    return format_table(("When", "By", "Action", "Details"), lines)


def format_text(text: str) -> str:
    """Format a text of a model or a user with its line ends."""
    return format_html('<div class="review-text" tabindex="0">{}</div>', text) if text else "–"


def format_table(headings: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """Format a table; headings may be empty."""
    rows = [(format_html_join("", "<td>{}</td>", [(cell,) for cell in line]),) for line in lines]
    if not rows:
        return "none yet"
    named = [(heading,) for heading in headings if heading]
    head = format_html_join("", '<th scope="col">{}</th>', named)
    return format_html(
        '<div class="review-table" tabindex="0"><table>{}<tbody>{}</tbody></table></div>',
        format_html("<thead><tr>{}</tr></thead>", head) if head else "",
        format_html_join("", "<tr>{}</tr>", rows),
    )


def format_outcome(value: str) -> str:
    """Format an outcome in the stored order of the judgments, or a score."""
    if value in PreferenceLabel.values:
        return str(PreferenceLabel(value).label)
    return f"{value} of 5"
