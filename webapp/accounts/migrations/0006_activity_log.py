"""Security events are part of the activity log; who may see them may see the log's."""

from django.db import migrations

from webapp.permission_names import move_view_permission, remove_permissions


class Migration(migrations.Migration):
    dependencies = [
        ("people", "0005_credential_generations"),
        ("activity", "0002_earlier_trails"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.DeleteModel("SecurityEvent"),
        move_view_permission("people", "SecurityEvent", to=("activity", "Activity")),
        remove_permissions("people", ["SecurityEvent"]),
    ]
