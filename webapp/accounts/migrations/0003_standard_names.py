"""Events of accounts become security events."""

from django.db import migrations

from webapp.permission_names import rename_permissions


class Migration(migrations.Migration):
    dependencies = [
        ("people", "0002_events_of_rights"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.RenameModel("Event", "SecurityEvent"),
        migrations.RenameField("securityevent", "by", "created_by"),
        migrations.RenameIndex(
            "securityevent", new_name="security_event_by_kind", old_name="event_of_a_kind"
        ),
        rename_permissions("people", {"Event": "SecurityEvent"}),
    ]
