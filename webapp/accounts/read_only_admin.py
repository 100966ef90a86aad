"""Base class of admin pages that only show rows."""

from django.contrib import admin
from django.http import HttpRequest

from webapp.accounts.roles import RUN_ALL


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
