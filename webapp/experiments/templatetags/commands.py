"""Commands that pages show for users to type."""

from django import template

from meta_reward_core.system.command_hint import format_command

register = template.Library()
register.simple_tag(format_command, name="command")
