"""App configuration."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The API and its tokens."""

    name = "webapp.api"
    verbose_name = "API"
