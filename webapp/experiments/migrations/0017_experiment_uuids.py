"""Give each experiment a UUID, and each job that of its experiment.

Experiments that began before have none in their files, which stay as they are: rows and files
derive the same value from what both of them hold.
"""

from typing import Any
from uuid import uuid4

from django.db import migrations, models

from meta_reward_core.storage.layout import derive_earlier_uuid


def derive_uuids(apps: Any, schema_editor: Any) -> None:
    """Derive the UUIDs of all experiments, and write them into their jobs, too."""
    alias = schema_editor.connection.alias
    jobs = apps.get_model("experiments", "Job").objects.using(alias)
    for row in apps.get_model("experiments", "Experiment").objects.using(alias).iterator():
        row.uuid = derive_earlier_uuid(
            row.name,
            recipe_sha256=row.recipe_sha256,
            seed=row.seed,
            base_model_sha256=row.base_model_sha256,
        )
        row.save(update_fields=["uuid"])
        jobs.filter(experiment=row).update(experiment_uuid=row.uuid)


class Migration(migrations.Migration):
    """See the module."""

    dependencies = [("experiments", "0016_details_tags_and_archive")]

    operations = [
        migrations.AddField("experiment", "uuid", models.UUIDField(editable=False, null=True)),
        migrations.AddField(
            "job", "experiment_uuid", models.UUIDField(blank=True, editable=False, null=True)
        ),
        migrations.RunPython(derive_uuids, migrations.RunPython.noop),
        migrations.AlterField(
            "experiment",
            "uuid",
            models.UUIDField(default=uuid4, editable=False, unique=True),
        ),
    ]
