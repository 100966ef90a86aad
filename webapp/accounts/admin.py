"""Admin pages of accounts and their security events."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from webapp.accounts.permissions import can_touch_account
from webapp.accounts.reauthentication import ask_to_confirm, is_recent
from webapp.accounts.roles import RUN_ALL

admin.site.site_header = "Meta-Reward administration"
admin.site.site_title = "Meta-Reward"
admin.site.index_title = "Administration"
admin.site.enable_nav_sidebar = False  # its width is needed for lists
admin.site.unregister([TOTPDevice, StaticDevice, User, Group])


class ViewOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Base class for rows that must not be edited by hand, because workers rely on them."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Rows cannot be added here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Rows cannot be changed here."""
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Allow filtering only by fields that are shown: others could be guessed by filtering."""
        if request is None:
            return False
        given = [one[0] if isinstance(one, tuple) else one for one in self.get_list_filter(request)]
        filters = [name for name in given if isinstance(name, str)]
        shown = {"id", *flatten_fieldsets(self.get_fieldsets(request)), *self.list_display}
        roots = {str(name).partition("__")[0] for name in (*shown, *filters)}
        fields = {field.name for field in self.model._meta.get_fields()}
        is_hidden = lookup.partition("__")[0] in fields - roots
        return not is_hidden and super().lookup_allowed(lookup, value, request)

    def has_steer_permission(self, request: HttpRequest) -> bool:
        """Users who can control all experiments can act on rows."""
        return request.user.has_perm(RUN_ALL)


class ConfirmedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Base class for credentials and accounts: changes require a recent authentication.

    Pages that show the forms require it too, so that no input is lost.
    """

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show or save a form to add or change a row."""
        may_change = self.has_add_permission(request) or self.has_change_permission(request)
        return _confirm_first(request, only_post=not may_change) or super().changeform_view(
            request, *args, **kwargs
        )

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show the list, or run an action."""
        return _confirm_first(request, only_post=True) or super().changelist_view(
            request, *args, **kwargs
        )

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Ask for confirmation, or delete the row."""
        return _confirm_first(request) or super().delete_view(request, *args, **kwargs)


def _confirm_first(request: HttpRequest, *, only_post: bool = False) -> HttpResponse | None:
    """Ask for the password if the session is too old for a request; None if it is recent."""
    if is_recent(request) or (only_post and request.method != "POST"):
        return None
    return ask_to_confirm(request, then=request.get_full_path())


@admin.register(User)
class AccountAdmin(ConfirmedAdmin, UserAdmin):  # type: ignore[type-arg]
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

    def user_change_password(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Set a user's password."""
        return _confirm_first(request) or super().user_change_password(request, *args, **kwargs)

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
class SecondFactorAdmin(ConfirmedAdmin, ViewOnlyAdmin):
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
