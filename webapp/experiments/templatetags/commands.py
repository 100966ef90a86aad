"""Template tags for commands that users run, and for code in sentences."""

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from meta_reward_core.reporting.document import split_code_spans
from meta_reward_core.system.command_hint import format_command

register = template.Library()
register.simple_tag(format_command, name="command")


@register.filter
def mark_code(text: str) -> SafeString:
    """Escape a sentence, and show text between backquotes as code."""
    return format_html_join(
        "",
        "{}",
        (
            (format_html("<code>{}</code>", span.text) if span.is_code else span.text,)
            for span in split_code_spans(text)
        ),
    )
