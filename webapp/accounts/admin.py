"""The administrators' view of accounts, and of what happened to them."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count
from django.http import HttpRequest
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from webapp.accounts.permissions import can_touch_account
from webapp.accounts.roles import RUN_ALL

admin.site.site_header = "Meta-Reward administration"
admin.site.site_title = "Meta-Reward"
admin.site.index_title = "Administration"
admin.site.enable_nav_sidebar = False  # lists need its width
admin.site.unregister([TOTPDevice, StaticDevice, User, Group])


class ViewOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A status that is edited by hand would break the claim that holds it."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Nobody changes rows here."""
        return False

    def has_steer_permission(self, request: HttpRequest) -> bool:
        """Who may steer everybody's experiments may act on rows."""
        return request.user.has_perm(RUN_ALL)


@admin.register(User)
class AccountAdmin(UserAdmin):  # type: ignore[type-arg]
    """Accounts and their roles; whoever has the role of an admin makes nobody a superuser."""

    list_display = ("username", "email", "list_roles", "is_active", "is_staff", "is_superuser",
                    "last_login")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> Any:
        """Accounts with their roles."""
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="roles")
    def list_roles(self, row: User) -> str:
        """Roles by name."""
        return ", ".join(sorted(group.name for group in row.groups.all())) or "none"

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Roles say what an account may do; only superusers make superusers."""
        fields = (*super().get_readonly_fields(request, obj), "user_permissions")
        return fields if request.user.is_superuser else (*fields, "is_superuser")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """A superuser's account, and so the password, is for superusers alone."""
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """The same holds of deleting."""
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)


def _may_touch(request: HttpRequest, account: User | None) -> bool:
    return account is None or can_touch_account(request.user, account)


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    """Roles: what each may do, which the code says, and how many accounts have it."""

    list_display = ("name", "count_accounts")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Roles with the number of their accounts."""
        return super().get_queryset(request).annotate(account_count=Count("user"))

    @admin.display(description="accounts")
    def count_accounts(self, row: Any) -> int:
        """How many accounts have it."""
        return int(row.account_count)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Nobody adds a role: `accounts.roles` does."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Nobody changes what a role may do."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Nobody deletes a role."""
        return False


@admin.register(TOTPDevice)
class SecondFactorAdmin(ViewOnlyAdmin):
    """Who is asked for a code; deleting it helps whoever lost both phone and paper."""

    fields = ("user", "confirmed", "created_at", "last_used_at")
    list_display = ("user", "confirmed", "created_at", "last_used_at")
    list_filter = ("confirmed",)
    search_fields = ("user__username",)
    list_select_related = ("user",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A superuser's second factor is for superusers alone."""
        owner = None if obj is None else obj.user
        return super().has_delete_permission(request, obj) and _may_touch(request, owner)
