"""The app's name."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Batches of items that people answer blind."""

    name = "webapp.audit"
