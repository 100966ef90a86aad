"""The app's name."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """Pages and admin of experiments; the rows are those of `webapp.experiments`."""

    name = "webapp.dashboard"
