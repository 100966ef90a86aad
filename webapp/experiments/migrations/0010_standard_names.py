"""Jobs, messages, base models and target iterations get their standard names."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

from webapp.permission_names import rename_permissions

STATUSES = ["waiting", "running", "done", "refused"]


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0009_shards_by_status"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RenameField("experiment", "seed_model_folder", "base_model_folder"),
        migrations.RenameField("experiment", "seed_model_sha256", "base_model_sha256"),
        migrations.RenameField("experiment", "until", "target_iteration"),
        migrations.RenameField("iteration", "finding", "message"),
        migrations.RenameField("shard", "figures", "training_metrics"),
        migrations.RemoveConstraint("order", "order_status_is_known"),
        migrations.RemoveConstraint("order", "order_is_held_while_it_runs"),
        migrations.RenameModel("Order", "Job"),
        migrations.RenameField("job", "by", "created_by"),
        migrations.RenameField("job", "subject", "experiment_name"),
        migrations.RenameField("job", "wish", "payload"),
        migrations.RenameField("job", "finding", "message"),
        migrations.AlterField(
            "job",
            "created_by",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="jobs",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            "job",
            "experiment",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="jobs",
                to="experiments.experiment",
            ),
        ),
        migrations.RenameIndex("job", new_name="job_by_status", old_name="order_is_waiting"),
        migrations.AddConstraint(
            "job",
            models.CheckConstraint(condition=Q(status__in=STATUSES), name="job_status_is_known"),
        ),
        migrations.AddConstraint(
            "job",
            models.CheckConstraint(
                condition=Q(status="running", token__isnull=False)
                | ~Q(status="running") & Q(token__isnull=True),
                name="job_is_held_while_it_runs",
            ),
        ),
        rename_permissions("experiments", {"Order": "Job"}),
    ]
