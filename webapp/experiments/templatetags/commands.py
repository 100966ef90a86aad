"""What a page tells somebody to type."""

from django import template

from meta_reward_core.shown_commands import manage

register = template.Library()
register.simple_tag(manage, name="command")
