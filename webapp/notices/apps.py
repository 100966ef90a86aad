"""The app's name."""

from django.apps import AppConfig


class NoticesConfig(AppConfig):
    """Who wants to be told what, and what they were told."""

    name = "webapp.notices"
    verbose_name = "notices"
