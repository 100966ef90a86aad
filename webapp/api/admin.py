"""Admin page of API tokens."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.admin import ConfirmedAdmin, ViewOnlyAdmin
from webapp.accounts.permissions import can_touch_account
from webapp.api.models import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(ConfirmedAdmin, ViewOnlyAdmin):
    """Tokens can be deleted here. Only their hashes are stored."""

    list_display = ("name", "prefix", "owner", "created", "last_used", "expires")
    list_filter = ("created", "expires")
    search_fields = ("name", "prefix", "owner__username")
    list_select_related = ("owner",)
    exclude = ("digest",)
    actions = ("expire_tokens",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only superusers can delete a superuser's tokens."""
        may = obj is None or can_touch_account(request.user, obj.owner)
        return super().has_delete_permission(request, obj) and may

    @admin.action(description="End now", permissions=["delete"])
    def expire_tokens(self, request: HttpRequest, rows: QuerySet[ApiToken]) -> None:
        """Expire the selected tokens, which stay in the list."""
        now = timezone.now()
        if not request.user.is_superuser:
            rows = rows.filter(owner__is_superuser=False)
        count = rows.filter(Q(expires=None) | Q(expires__gt=now)).update(expires=now)
        self.message_user(request, f"{count} tokens ended.")
