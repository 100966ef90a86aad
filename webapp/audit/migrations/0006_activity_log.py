"""The audit log and the item histories are part of the activity log."""

from django.db import migrations

from webapp.permission_names import remove_permissions


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0005_standard_labels"),
        ("activity", "0002_earlier_trails"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.DeleteModel("AuditLogEntry"),
        migrations.DeleteModel("ItemHistoryEntry"),
        remove_permissions("audit", ["AuditLogEntry", "ItemHistoryEntry"]),
    ]
