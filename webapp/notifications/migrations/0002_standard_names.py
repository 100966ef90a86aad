"""Notices become notifications, occasions events, and choices subscriptions."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

from webapp.permission_names import rename_permissions

RENAMED = {
    "Choice": "Subscription",
    "Occasion": "NotificationEvent",
    "Notice": "Notification",
}
STATUSES = ["waiting", "sending", "sent", "given_up"]


class Migration(migrations.Migration):
    dependencies = [
        ("notices", "0001_initial"),
        ("experiments", "0010_standard_names"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint("choice", "notice_choice_is_unique"),
        migrations.RemoveConstraint("occasion", "occasion_is_unique"),
        migrations.RemoveConstraint("notice", "notice_is_unique"),
        migrations.RemoveConstraint("notice", "notice_is_held_while_it_is_sent"),
        migrations.RemoveConstraint("notice", "notice_status_is_known"),
        *(migrations.RenameModel(old, new) for old, new in RENAMED.items()),
        migrations.RenameField("recipient", "person", "user"),
        migrations.AlterField(
            "recipient",
            "user",
            models.OneToOneField(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="notification_recipient",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            "subscription",
            "recipient",
            models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="subscriptions",
                to="notices.recipient",
            ),
        ),
        migrations.AlterField(
            "notificationevent",
            "iteration",
            models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="notification_events",
                to="experiments.iteration",
            ),
        ),
        migrations.RenameField("notification", "occasion", "notification_event"),
        migrations.RenameField("notification", "tries", "attempts"),
        migrations.AlterField(
            "notification",
            "notification_event",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="notifications",
                to="notices.notificationevent",
            ),
        ),
        migrations.AlterField(
            "notification",
            "recipient",
            models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="notifications",
                to="notices.recipient",
            ),
        ),
        migrations.AlterField(
            "notification",
            "experiment",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="notifications",
                to="experiments.experiment",
            ),
        ),
        migrations.RenameIndex(
            "notification", new_name="notification_by_due", old_name="notice_is_due"
        ),
        migrations.AddConstraint(
            "subscription",
            models.UniqueConstraint(
                fields=["recipient", "event", "channel"], name="subscription_is_unique"
            ),
        ),
        migrations.AddConstraint(
            "notificationevent",
            models.UniqueConstraint(
                fields=["iteration", "ended"], name="notification_event_is_unique"
            ),
        ),
        migrations.AddConstraint(
            "notification",
            models.UniqueConstraint(
                fields=["recipient", "event", "channel", "notification_event"],
                name="notification_is_unique",
            ),
        ),
        migrations.AddConstraint(
            "notification",
            models.CheckConstraint(
                condition=Q(status="sending", token__isnull=False)
                | ~Q(status="sending") & Q(token__isnull=True),
                name="notification_is_held_while_sent",
            ),
        ),
        migrations.AddConstraint(
            "notification",
            models.CheckConstraint(
                condition=Q(status__in=STATUSES), name="notification_status_is_known"
            ),
        ),
        rename_permissions("notices", RENAMED),
    ]
