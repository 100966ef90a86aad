"""App configuration, and the roles of every installation."""

from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.db.models.signals import post_migrate


def _make_roles(**kwargs: Any) -> None:  # noqa: ARG001
    from webapp.accounts.roles import make_roles

    make_roles()


class PeopleConfig(AppConfig):
    """Accounts and roles."""

    name = "webapp.accounts"
    label = "people"  # tables, migrations and permissions use this name

    def ready(self) -> None:
        """Create the roles after migrations, and connect the signals."""
        from webapp.accounts import (
            credentials,
            login_throttle,
            permissions,
            reauthentication,
            security_log,
            views,
        )

        security_log.connect_signals()
        login_throttle.connect_signals()
        credentials.connect_signals()
        permissions.connect_signals()
        reauthentication.connect_signals()
        admin.site.password_change = views.redirect_admin_password  # type: ignore[assignment, method-assign]
        admin.site.login = views.redirect_admin_login  # type: ignore[method-assign]
        post_migrate.connect(_make_roles, sender=self, dispatch_uid="make_roles")
