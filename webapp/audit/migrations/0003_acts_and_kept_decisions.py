"""Acts on gates and batches; decisions that outlive their experiment and name their battles."""

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def keep_names(apps: Any, schema_editor: Any) -> None:  # noqa: ARG001
    override = apps.get_model("audit", "Override")
    for row in override.objects.select_related("experiment"):
        override.objects.filter(pk=row.pk).update(subject=row.experiment.name)


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0002_gate_outcomes"),
        ("experiments", "0005_audit_orders"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Act",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("subject", models.CharField(max_length=64)),
                (
                    "deed",
                    models.CharField(
                        choices=[
                            ("gate_set", "asked for a passed audit"),
                            ("gate_changed", "changed the gate"),
                            ("gate_loosened", "loosened the gate"),
                            ("gate_removed", "removed the gate"),
                            ("closed", "closed a batch"),
                            ("reopened", "opened a batch again"),
                            ("assigned", "changed who answers a batch"),
                        ],
                        max_length=16,
                    ),
                ),
                ("before", models.JSONField(blank=True, default=dict)),
                ("after", models.JSONField(blank=True, default=dict)),
                ("reason", models.TextField(blank=True, default="")),
                ("by_name", models.CharField(max_length=150)),
                ("when", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["-when", "-pk"],
            },
        ),
        migrations.RemoveConstraint(
            model_name="override",
            name="override_is_unique",
        ),
        migrations.AddField(
            model_name="override",
            name="source_sha256",
            field=models.CharField(blank=True, default="", max_length=64),
        ),
        migrations.AddField(
            model_name="override",
            name="subject",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="history",
            name="change",
            field=models.CharField(
                choices=[
                    ("answered", "answered"),
                    ("late", "answered too late: somebody else had it"),
                    ("undone", "taken back"),
                    ("skipped", "skipped"),
                    ("revealed", "looked at the reveal"),
                    ("imported", "imported"),
                    ("adjudicated", "adjudicated"),
                    ("passed_on", "passed on to another auditor"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="override",
            name="experiment",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="audit_overrides",
                to="experiments.experiment",
            ),
        ),
        migrations.AddConstraint(
            model_name="override",
            constraint=models.UniqueConstraint(
                fields=("experiment", "iteration", "source_sha256"), name="override_is_unique"
            ),
        ),
        migrations.AddField(
            model_name="act",
            name="batch",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="acts",
                to="audit.batch",
            ),
        ),
        migrations.AddField(
            model_name="act",
            name="by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="act",
            name="experiment",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="audit_acts",
                to="experiments.experiment",
            ),
        ),
        migrations.AddConstraint(
            model_name="act",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "deed__in",
                        [
                            "gate_set",
                            "gate_changed",
                            "gate_loosened",
                            "gate_removed",
                            "closed",
                            "reopened",
                            "assigned",
                        ],
                    )
                ),
                name="act_deed_is_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="act",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("deed__in", ["gate_loosened", "gate_removed"]), _negated=True),
                    models.Q(("reason", ""), _negated=True),
                    _connector="OR",
                ),
                name="act_that_loosens_has_a_reason",
            ),
        ),
        migrations.RunPython(keep_names, migrations.RunPython.noop),
    ]
