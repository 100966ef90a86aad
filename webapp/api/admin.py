"""The administrators' view of tokens: who has which, and revoking them."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.admin import ViewOnlyAdmin
from webapp.accounts.permissions import can_touch_account
from webapp.api.models import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(ViewOnlyAdmin):
    """Tokens may be deleted here; their hashes are of no use to anybody."""

    list_display = ("name", "prefix", "owner", "created", "last_used", "expires")
    list_filter = ("created", "expires")
    search_fields = ("name", "prefix", "owner__username")
    list_select_related = ("owner",)
    exclude = ("digest",)
    actions = ("expire_tokens",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A superuser's tokens are for superusers alone."""
        may = obj is None or can_touch_account(request.user, obj.owner)
        return super().has_delete_permission(request, obj) and may

    @admin.action(description="End now", permissions=["delete"])
    def expire_tokens(self, request: HttpRequest, rows: QuerySet[ApiToken]) -> None:
        """Let the chosen tokens be of no use from now on, but stay in the list."""
        now = timezone.now()
        if not request.user.is_superuser:
            rows = rows.filter(owner__is_superuser=False)
        count = rows.filter(Q(expires=None) | Q(expires__gt=now)).update(expires=now)
        self.message_user(request, f"{count} tokens ended.")
