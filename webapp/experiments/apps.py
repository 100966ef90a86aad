"""App configuration."""

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Experiments, their iterations, stages, shards and attempts."""

    name = "webapp.experiments"
    verbose_name = "experiments"
