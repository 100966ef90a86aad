"""App configuration."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """Pages and admin of experiments; the models are those of `webapp.experiments`."""

    name = "webapp.dashboard"
