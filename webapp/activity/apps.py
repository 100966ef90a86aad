"""App configuration."""

from django.apps import AppConfig


class ActivityConfig(AppConfig):
    """The activity log."""

    name = "webapp.activity"
    verbose_name = "activity log"
