"""The administrators' view of what happened to accounts."""

from django.contrib import admin
from django.http import HttpRequest
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from webapp.experiments.admin import LookOnly
from webapp.people.models import Event

admin.site.unregister([TOTPDevice, StaticDevice])


@admin.register(Event)
class EventAdmin(LookOnly):
    """Events, which nobody edits or takes away here."""

    list_display = ("created", "kind", "subject", "by", "address", "detail")
    list_filter = ("kind", "created")
    search_fields = ("subject", "address", "detail")
    list_select_related = ("by",)

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """A log from which entries can be taken is none."""
        return False


@admin.register(TOTPDevice)
class SecondFactorAdmin(LookOnly):
    """Who is asked for a code; deleting it helps whoever lost both phone and paper."""

    fields = ("user", "confirmed", "created_at", "last_used_at")
    list_display = ("user", "confirmed", "created_at", "last_used_at")
    list_filter = ("confirmed",)
    search_fields = ("user__username",)
    list_select_related = ("user",)
