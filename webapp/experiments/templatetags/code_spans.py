"""Code between backquotes in sentences, as markup."""

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from meta_reward_core.reporting.document import split_code_spans

register = template.Library()


@register.filter
def code_spans(text: str) -> SafeString:
    """Escape a sentence, and show what stands between backquotes as code."""
    return format_html_join(
        "",
        "{}",
        (
            (format_html("<code>{}</code>", span.text) if span.is_code else span.text,)
            for span in split_code_spans(text)
        ),
    )
