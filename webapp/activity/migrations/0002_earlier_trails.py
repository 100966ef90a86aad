"""Rows of the five earlier trails become rows of the activity log.

Jobs and gate overrides keep their tables: they are also state. Security events, entries of the
audit log and item histories are only read here; later migrations drop their tables.
"""

from collections.abc import Iterator
from typing import Any

from django.db import migrations, models
from django.db.models import Q

SOURCES = ["ui", "api", "cli", "system", "unknown"]
FILES = ("exported", "backed_up", "restored", "pruned")


def copy_rows(apps: Any, schema_editor: Any) -> None:  # noqa: ARG001
    activity = apps.get_model("activity", "Activity")
    rows = [
        *_convert_jobs(apps, activity),
        *_convert_events(apps),
        *_convert_audit_log(apps),
        *_convert_overrides(apps, activity),
        *_convert_histories(apps),
    ]
    rows.sort(key=lambda row: row["created"])
    activity._base_manager.bulk_create(
        (activity(source="unknown", **row) for row in rows), batch_size=500
    )


def _convert_jobs(apps: Any, activity: Any) -> Iterator[dict[str, Any]]:
    known = set(activity._base_manager.exclude(job=None).values_list("job_id", flat=True))
    for job in apps.get_model("experiments", "Job").objects.select_related("created_by"):
        if job.pk in known:
            continue
        before, after = {}, {}
        if job.kind == "hand_over":
            before, after = job.outcome.get("before", {}), job.payload
        elif job.kind == "settings":
            before, after = job.payload.get("before", {}), job.payload.get("after", {})
        name = job.created_by.username if job.created_by else ""
        yield {
            "created": job.created,
            "actor_id": job.created_by_id,
            "actor_name": name or str(job.payload.get("command") or "a deleted user")[:150],
            "action": job.kind,
            "object_type": "experiment",
            "object_id": job.experiment_id,
            "object_name": job.experiment_name,
            "experiment_id": job.experiment_id,
            "experiment_name": job.experiment_name,
            "job_id": job.pk,
            "before": before,
            "after": after,
        }


def _convert_events(apps: Any) -> Iterator[dict[str, Any]]:
    for event in apps.get_model("people", "SecurityEvent").objects.select_related("created_by"):
        kind = "model" if event.kind == "published" else "account"
        name = event.created_by.username if event.created_by else ""
        yield {
            "created": event.created,
            "actor_id": event.created_by_id,
            "actor_name": name or "a command or an anonymous visitor",
            "action": event.kind,
            "object_type": "file" if event.kind in FILES else kind,
            "object_name": event.subject,
            "details": event.detail,
            "address": event.address,
        }


def _convert_audit_log(apps: Any) -> Iterator[dict[str, Any]]:
    for entry in apps.get_model("audit", "AuditLogEntry").objects.all():
        is_gate = entry.action.startswith("gate_")
        yield {
            "created": entry.created,
            "actor_id": entry.created_by_id,
            "actor_name": entry.created_by_name,
            "action": entry.action,
            "object_type": "gate" if is_gate else "batch",
            "object_id": entry.experiment_id if is_gate else entry.batch_id,
            "object_name": entry.experiment_name if is_gate else f"batch {entry.batch_id}",
            "experiment_id": entry.experiment_id,
            "experiment_name": entry.experiment_name,
            "reason": entry.reason,
            "before": entry.before,
            "after": entry.after,
        }


def _convert_overrides(apps: Any, activity: Any) -> Iterator[dict[str, Any]]:
    recorded = activity._base_manager.filter(action="gate_overridden")
    known = set(recorded.values_list("experiment_name", "iteration", "created"))
    for row in apps.get_model("audit", "GateOverride").objects.all():
        if (row.experiment_name, row.iteration, row.created) in known:
            continue
        yield {
            "created": row.created,
            "actor_id": row.created_by_id,
            "actor_name": row.created_by_name,
            "action": "gate_overridden",
            "object_type": "gate",
            "object_id": row.experiment_id,
            "object_name": row.experiment_name,
            "experiment_id": row.experiment_id,
            "experiment_name": row.experiment_name,
            "iteration": row.iteration,
            "reason": row.reason or "no reason was recorded",
            "after": {"outcome": row.outcome},
        }


def _convert_histories(apps: Any) -> Iterator[dict[str, Any]]:
    rows = apps.get_model("audit", "ItemHistoryEntry").objects.select_related("item__batch")
    for entry in rows.iterator(chunk_size=500):
        batch, values = entry.item.batch, dict(entry.values)
        yield {
            "created": entry.created,
            "actor_name": entry.created_by_name,
            "action": entry.change,
            "object_type": "item",
            "object_id": entry.item_id,
            "object_name": f"item {entry.item.number} of batch {batch.pk}",
            "experiment_id": batch.experiment_id,
            "experiment_name": batch.experiment_name,
            "iteration": batch.iteration,
            "reason": str(values.pop("reason", "")),
            "after": values,
        }


class Migration(migrations.Migration):
    dependencies = [
        ("activity", "0001_initial"),
        ("audit", "0005_standard_labels"),
        ("experiments", "0014_settings_jobs"),
        ("people", "0004_standard_labels"),
    ]

    operations = [
        migrations.AlterField(
            "activity",
            "source",
            models.CharField(
                choices=[
                    ("ui", "UI"),
                    ("api", "API"),
                    ("cli", "CLI"),
                    ("system", "system"),
                    ("unknown", "unknown"),
                ],
                max_length=8,
            ),
        ),
        migrations.RemoveConstraint("activity", "activity_source_is_known"),
        migrations.AddConstraint(
            "activity",
            models.CheckConstraint(
                condition=Q(source__in=SOURCES), name="activity_source_is_known"
            ),
        ),
        migrations.RunPython(copy_rows, migrations.RunPython.noop),
    ]
