"""The app's name, and the roles that every installation has."""

from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.db.models.signals import post_migrate


def _make_roles(**kwargs: Any) -> None:  # noqa: ARG001
    from webapp.people.roles import make_roles

    make_roles()


class PeopleConfig(AppConfig):
    """Accounts and roles."""

    name = "webapp.people"

    def ready(self) -> None:
        """Make the roles once the tables of all apps are there, and hear of what is logged."""
        from webapp.people import events, lockout, views

        events.listen()
        lockout.listen()
        admin.site.login = views.to_the_one_door  # type: ignore[method-assign]
        post_migrate.connect(_make_roles, dispatch_uid="make_roles")
