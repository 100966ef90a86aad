"""The app's name."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The site for programs, and the tokens that they sign in with."""

    name = "webapp.api"
    verbose_name = "API"
