"""The roles as Django groups. The permissions of each role are defined here.

A user may have several. Superusers may do everything, with or without a role. Database rows of
groups and permissions grant nothing: the authentication backend gets the permissions of an
account's roles from this module, and the groups' permissions in the database only display them.
"""

from collections.abc import Iterable
from typing import Final

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission

SEE: Final = "experiments.view_experiment"
"""See experiments, their results, workers and the activity log."""
RUN: Final = "experiments.run_experiment"
"""Start experiments; control the user's own experiments and those without an owner."""
RUN_ALL: Final = "experiments.change_experiment"
"""See and control the experiments of all users."""
ANSWER: Final = "audit.answer_batch"
"""Answer items of the user's assigned audit batches, and see only those batches."""
ADJUDICATE: Final = "audit.adjudicate_item"
"""Decide between conflicting audit answers, on the site and in the admin."""
SEE_EVENTS: Final = "activity.view_activity"
"""See sign-ins, and changes to accounts, roles and tokens."""
MANAGE_ACCOUNTS: Final = "auth.change_user"
"""Change the accounts of users who are not superusers."""
MANAGE: Final = (
    *("auth.add_user", MANAGE_ACCOUNTS, "auth.delete_user"),
    *("api.delete_apitoken", "otp_totp.delete_totpdevice"),
)
"""Manage accounts and roles, revoke tokens, and reset second factors."""

VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
AUDITOR: Final = "auditor"
LEAD: Final = "lead"
ADMIN: Final = "admin"

_VIEW: Final = "view_"

PERMISSIONS: Final[dict[str, tuple[str, ...]]] = {
    VIEWER: (SEE,),
    OPERATOR: (SEE, RUN),
    AUDITOR: (ANSWER,),
    LEAD: (SEE, ADJUDICATE),
    ADMIN: (SEE, RUN, RUN_ALL, ADJUDICATE, SEE_EVENTS, *MANAGE),
}


def make_roles() -> None:
    """Create missing groups, and set the permissions of each role.

    Admins see every row, including those of models that a later version adds.
    """
    for config in apps.get_app_configs():
        create_permissions(config, verbosity=0)
    for role in PERMISSIONS:
        group, _ = Group.objects.get_or_create(name=role)
        may = list_permissions([role])
        rows = Permission.objects.select_related("content_type")
        group.permissions.set([row for row in rows if _get_name(row) in may])


def list_permissions(roles: Iterable[str]) -> set[str]:
    """List the combined permissions of roles; unknown roles have none."""
    known = set(roles) & PERMISSIONS.keys()
    names = {name for role in known for name in PERMISSIONS[role]}
    if ADMIN in known:
        views = Permission.objects.filter(codename__startswith=_VIEW)
        names |= {_get_name(row) for row in views.select_related("content_type")}
    return names


def _get_name(row: Permission) -> str:
    return f"{row.content_type.app_label}.{row.codename}"


def list_roles_with(permission: str) -> list[str]:
    """List the roles that have a permission, such as `audit.answer_batch`."""
    is_view = permission.partition(".")[2].startswith(_VIEW)
    return [
        role
        for role, names in PERMISSIONS.items()
        if permission in names or (role == ADMIN and is_view)
    ]
