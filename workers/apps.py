"""The app's name."""

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """Commands, and later tasks, that run the method and keep the rows."""

    name = "workers"
