"""App configuration."""

from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """Commands and tasks that run the method and update the database."""

    name = "workers"

    def ready(self) -> None:
        """Load the Celery application, so that pages can send messages by name."""
        from workers import celery  # noqa: F401
