"""The administrators' view of notices. Secrets are not shown; rows are the senders' to change."""

from typing import ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.read_only_admin import ViewOnlyAdmin
from webapp.notifications.models import Choice, Notice, NotificationStatus, Occasion, Recipient


@admin.register(Recipient)
class RecipientAdmin(ViewOnlyAdmin):
    """Where people want notices."""

    list_display = ("person", "webhook_url", "only_own")
    list_select_related = ("person",)
    search_fields = ("person__username",)
    exclude: ClassVar = ["secret"]


@admin.register(Choice)
class ChoiceAdmin(ViewOnlyAdmin):
    """What people want to be told of."""

    list_display = ("recipient", "event", "channel", "since")
    list_filter = ("event", "channel")
    list_select_related = ("recipient__person",)
    search_fields = ("recipient__person__username",)


@admin.register(Occasion)
class OccasionAdmin(ViewOnlyAdmin):
    """What notices were written about."""

    list_display = ("iteration", "ended")
    list_filter = ("ended", "iteration__experiment")
    list_select_related = ("iteration__experiment",)
    search_fields = ("iteration__experiment__name",)


@admin.register(Notice)
class NoticeAdmin(ViewOnlyAdmin):
    """The outbox."""

    list_display = ("subject", "recipient", "channel", "status", "tries", "due", "sent", "error")
    list_filter = ("status", "channel", "event")
    search_fields = ("subject", "recipient__person__username")
    list_select_related = ("recipient__person",)
    actions = ("send_again",)

    @admin.action(description="Try again to send", permissions=["steer"])
    def send_again(self, request: HttpRequest, rows: QuerySet[Notice]) -> None:
        """Put those that were given up back among those that are to be sent."""
        count = rows.filter(status=NotificationStatus.GIVEN_UP).update(
            status=NotificationStatus.WAITING, tries=0, due=timezone.now(), error=""
        )
        self.message_user(request, f"{count} notices that had been given up will be sent.")
