"""Notifications in the admin. Secrets are not shown; only senders change rows."""

from typing import ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.admin import ViewOnlyAdmin
from webapp.notifications.models import (
    Notification,
    NotificationEvent,
    NotificationStatus,
    Recipient,
    Subscription,
)


@admin.register(Recipient)
class RecipientAdmin(ViewOnlyAdmin):
    """Where users receive notifications."""

    list_display = ("user", "webhook_url", "only_own")
    list_select_related = ("user",)
    search_fields = ("user__username",)
    exclude: ClassVar = ["secret"]


@admin.register(Subscription)
class SubscriptionAdmin(ViewOnlyAdmin):
    """Which events users subscribe to."""

    list_display = ("recipient", "event", "channel", "since")
    list_filter = ("event", "channel")
    list_select_related = ("recipient__user",)
    search_fields = ("recipient__user__username",)


@admin.register(NotificationEvent)
class NotificationEventAdmin(ViewOnlyAdmin):
    """Events that notifications were written for."""

    list_display = ("iteration", "ended")
    list_filter = ("ended", "iteration__experiment")
    list_select_related = ("iteration__experiment",)
    search_fields = ("iteration__experiment__name",)


@admin.register(Notification)
class NotificationAdmin(ViewOnlyAdmin):
    """The outbox."""

    list_display = ("subject", "recipient", "channel", "status", "attempts", "due", "sent", "error")
    list_filter = ("status", "channel", "event")
    search_fields = ("subject", "recipient__user__username")
    list_select_related = ("recipient__user",)
    actions = ("send_again",)

    @admin.action(description="Retry delivery", permissions=["steer"])
    def send_again(self, request: HttpRequest, rows: QuerySet[Notification]) -> None:
        """Queue notifications again whose delivery was given up."""
        count = rows.filter(status=NotificationStatus.GIVEN_UP).update(
            status=NotificationStatus.WAITING, attempts=0, due=timezone.now(), error=""
        )
        self.message_user(request, f"Delivery of {count} notifications will be retried.")
