"""App configuration."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Batches of items for blind human review."""

    name = "webapp.audit"
    verbose_name = "Human review"
