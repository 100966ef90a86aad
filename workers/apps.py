"""The app's name."""

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """Commands and tasks that run the method and keep the rows."""

    name = "workers"

    def ready(self) -> None:
        """Let the pages send messages by name: theirs is then the application of this package."""
        from workers import celery  # noqa: F401
