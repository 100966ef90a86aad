"""Admin pages of accounts and their security events."""

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
    """Base class for rows that must not be edited by hand, because workers rely on them."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Rows cannot be added here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Rows cannot be changed here."""
        return False

    def has_steer_permission(self, request: HttpRequest) -> bool:
        """Users who can control all experiments can act on rows."""
        return request.user.has_perm(RUN_ALL)


@admin.register(User)
class AccountAdmin(UserAdmin):  # type: ignore[type-arg]
    """Accounts and their roles. The role admin cannot create superusers."""

    list_display = ("username", "email", "list_roles", "is_active", "is_staff", "is_superuser",
                    "last_login")  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> Any:
        """Load accounts with their roles."""
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="roles")
    def list_roles(self, row: User) -> str:
        """List the names of the roles."""
        return ", ".join(sorted(group.name for group in row.groups.all())) or "none"

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Permissions come from roles; only superusers can create superusers."""
        fields = (*super().get_readonly_fields(request, obj), "user_permissions")
        return fields if request.user.is_superuser else (*fields, "is_superuser")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Only superusers can change a superuser's account and password."""
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Only superusers can delete a superuser's account."""
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)


def _may_touch(request: HttpRequest, account: User | None) -> bool:
    return account is None or can_touch_account(request.user, account)


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    """Roles: their permissions, which are defined in code, and their number of accounts."""

    list_display = ("name", "count_accounts")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Load roles with their number of accounts."""
        return super().get_queryset(request).annotate(account_count=Count("user"))

    @admin.display(description="accounts")
    def count_accounts(self, row: Any) -> int:
        """Count the accounts with this role."""
        return int(row.account_count)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Roles cannot be added here: they are defined in `accounts.roles`."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """The permissions of a role cannot be changed here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Roles cannot be deleted."""
        return False


@admin.register(TOTPDevice)
class SecondFactorAdmin(ViewOnlyAdmin):
    """Two-factor devices; deleting one helps users who lost both phone and recovery codes."""

    fields = ("user", "confirmed", "created_at", "last_used_at")
    list_display = ("user", "confirmed", "created_at", "last_used_at")
    list_filter = ("confirmed",)
    search_fields = ("user__username",)
    list_select_related = ("user",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only superusers can delete a superuser's device."""
        owner = None if obj is None else obj.user
        return super().has_delete_permission(request, obj) and _may_touch(request, owner)
