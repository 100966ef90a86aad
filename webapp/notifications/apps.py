"""The app's name."""

from django.apps import AppConfig


class NoticesConfig(AppConfig):
    """Who wants to be told what, and what they were told."""

    name = "webapp.notifications"
    label = "notices"  # tables, migrations and permissions carry this name
    verbose_name = "notifications"
