"""The rows of audits get their standard names."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

from webapp.permission_names import rename_permissions

RENAMED = {
    "Truth": "HiddenVerdict",
    "History": "ItemHistoryEntry",
    "Override": "GateOverride",
    "Act": "AuditLogEntry",
}
ACTIONS = [
    *("gate_set", "gate_changed", "gate_loosened", "gate_removed"),
    *("closed", "reopened", "assigned"),
]
NEWEST_FIRST = ["-created", "-pk"]


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0003_acts_and_kept_decisions"),
        ("experiments", "0010_standard_names"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        # Conditions name columns, which `RenameField` does not follow.
        migrations.RemoveConstraint("gate", "gate_otherwise_is_known"),
        migrations.RemoveConstraint("gate", "gate_asks_for_shares"),
        migrations.RemoveConstraint("override", "override_is_unique"),
        migrations.RemoveConstraint("override", "override_outcome_is_known"),
        migrations.RemoveConstraint("act", "act_deed_is_known"),
        migrations.RemoveConstraint("act", "act_that_loosens_has_a_reason"),
        *(migrations.RenameModel(old, new) for old, new in RENAMED.items()),
        migrations.RenameField("batch", "by", "created_by"),
        migrations.RenameField("batch", "subject", "experiment_name"),
        migrations.AlterField(
            "batch",
            "created_by",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="created_audits",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.RenameField("item", "again", "repeat_kind"),
        migrations.AlterField(
            "hiddenverdict",
            "item",
            models.OneToOneField(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="hidden_verdict",
                to="audit.item",
            ),
        ),
        migrations.AlterModelOptions("hiddenverdict", {"verbose_name": "hidden verdict"}),
        migrations.RenameField("answer", "given", "submitted"),
        migrations.AlterModelOptions("answer", {"ordering": ["-submitted", "-pk"]}),
        migrations.RenameField("itemhistoryentry", "by_name", "created_by_name"),
        migrations.RenameField("itemhistoryentry", "when", "created"),
        migrations.AlterModelOptions(
            "itemhistoryentry",
            {"ordering": NEWEST_FIRST, "verbose_name_plural": "item history entries"},
        ),
        migrations.RenameField("gate", "least", "min_agreement"),
        migrations.RenameField("gate", "answers", "min_answers"),
        migrations.RenameField("gate", "otherwise", "on_failure"),
        migrations.AddConstraint(
            "gate",
            models.CheckConstraint(
                condition=Q(on_failure__in=["wait", "actor_pairs"]),
                name="gate_on_failure_is_known",
            ),
        ),
        migrations.AddConstraint(
            "gate",
            models.CheckConstraint(
                condition=Q(
                    min_agreement__gte=0, min_agreement__lt=1, confidence__gt=0, confidence__lt=1
                ),
                name="gate_limits_are_shares",
            ),
        ),
        migrations.RenameField("gateoverride", "subject", "experiment_name"),
        migrations.RenameField("gateoverride", "by", "created_by"),
        migrations.RenameField("gateoverride", "by_name", "created_by_name"),
        migrations.RenameField("gateoverride", "when", "created"),
        migrations.AlterModelOptions("gateoverride", {"ordering": NEWEST_FIRST}),
        migrations.AlterField(
            "gateoverride",
            "experiment",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="gate_overrides",
                to="experiments.experiment",
            ),
        ),
        migrations.AddConstraint(
            "gateoverride",
            models.UniqueConstraint(
                fields=["experiment", "iteration", "source_sha256"], name="gate_override_is_unique"
            ),
        ),
        migrations.AddConstraint(
            "gateoverride",
            models.CheckConstraint(
                condition=Q(outcome__in=["all", "actor_pairs"]),
                name="gate_override_outcome_is_known",
            ),
        ),
        migrations.RenameField("auditlogentry", "subject", "experiment_name"),
        migrations.RenameField("auditlogentry", "deed", "action"),
        migrations.RenameField("auditlogentry", "by", "created_by"),
        migrations.RenameField("auditlogentry", "by_name", "created_by_name"),
        migrations.RenameField("auditlogentry", "when", "created"),
        migrations.AlterModelOptions(
            "auditlogentry",
            {"ordering": NEWEST_FIRST, "verbose_name_plural": "audit log entries"},
        ),
        migrations.AlterField(
            "auditlogentry",
            "experiment",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="audit_log",
                to="experiments.experiment",
            ),
        ),
        migrations.AlterField(
            "auditlogentry",
            "batch",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="audit_log",
                to="audit.batch",
            ),
        ),
        migrations.AddConstraint(
            "auditlogentry",
            models.CheckConstraint(
                condition=Q(action__in=ACTIONS), name="audit_log_action_is_known"
            ),
        ),
        migrations.AddConstraint(
            "auditlogentry",
            models.CheckConstraint(
                condition=~Q(action__in=["gate_loosened", "gate_removed"]) | ~Q(reason=""),
                name="audit_log_loosening_has_a_reason",
            ),
        ),
        rename_permissions("audit", RENAMED),
    ]
