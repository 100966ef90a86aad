"""The administrators' view of notices. Secrets are not shown; rows are the senders' to change."""

from typing import ClassVar

from django.contrib import admin

from webapp.experiments.admin import LookOnly
from webapp.notices.models import Choice, Notice, Recipient


@admin.register(Recipient)
class RecipientAdmin(LookOnly):
    """Where people want notices."""

    list_display = ("person", "webhook_url", "only_own")
    list_select_related = ("person",)
    search_fields = ("person__username",)
    exclude: ClassVar = ["secret"]


@admin.register(Choice)
class ChoiceAdmin(LookOnly):
    """What people want to be told of."""

    list_display = ("recipient", "event", "channel", "since")
    list_filter = ("event", "channel")
    list_select_related = ("recipient__person",)


@admin.register(Notice)
class NoticeAdmin(LookOnly):
    """The outbox."""

    list_display = ("subject", "recipient", "channel", "status", "tries", "due", "sent", "error")
    list_filter = ("status", "channel", "event")
    search_fields = ("subject", "recipient__person__username")
    list_select_related = ("recipient__person",)
