"""App configuration."""

from django.apps import AppConfig


class NoticesConfig(AppConfig):
    """Subscriptions and sent notifications."""

    name = "webapp.notifications"
    label = "notices"  # tables, migrations and permissions use this name
    verbose_name = "notifications"
