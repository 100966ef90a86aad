"""An experiment is completed with the last iteration that was requested, not with its recipe's."""

from django.db import migrations, models
from django.db.migrations.state import StateApps
from django.db.models import Exists, OuterRef

STATUSES = [
    ("waiting", "pending"),
    ("running", "running"),
    ("finished", "completed"),
    ("interrupted", "paused"),
    ("failed", "failed"),
    ("no_pairs", "no pairs"),
    ("paused", "paused"),
    ("cancelled", "cancelled"),
    ("needs_attention", "needs attention"),
]


def complete_experiments(apps: StateApps, _editor: object) -> None:
    """Complete experiments that wait although every requested iteration is finished."""
    experiments = apps.get_model("experiments", "Experiment").objects
    iterations = apps.get_model("experiments", "Iteration").objects
    own = iterations.filter(experiment=OuterRef("pk"))
    experiments.filter(
        ~Exists(own.exclude(status="finished")),
        Exists(own.filter(status="finished", number__gte=OuterRef("target_iteration"))),
        status="waiting",
    ).update(status="finished")


def do_nothing(apps: StateApps, _editor: object) -> None:
    """Earlier versions know both statuses."""


class Migration(migrations.Migration):
    dependencies = [("experiments", "0014_settings_jobs")]

    operations = [
        migrations.AlterField(
            model_name=name,
            name="status",
            field=models.CharField(choices=STATUSES, default="waiting", max_length=16),
        )
        for name in ("experiment", "iteration")
    ] + [migrations.RunPython(complete_experiments, do_nothing)]
