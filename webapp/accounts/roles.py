"""The four roles, as Django groups: what each may do is a set of permissions.

A person may have several. Superusers may do everything, with or without a role.
"""

from typing import Final

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission

SEE: Final = "experiments.view_experiment"
"""See experiments, their results, workers and the log."""
RUN: Final = "experiments.run_experiment"
"""Start experiments, and steer one's own and those that nobody owns."""
RUN_ALL: Final = "experiments.change_experiment"
"""Steer and see everybody's."""
ANSWER: Final = "audit.answer_batch"
"""Answer items of the audit batches that one is assigned to, and see those alone."""
ADJUDICATE: Final = "audit.adjudicate_item"
"""See everybody's audit answers in the admin, and decide between conflicting ones."""
SEE_EVENTS: Final = "people.view_securityevent"
"""See who signed in, and what became of accounts, roles and tokens."""
MANAGE: Final = (
    *("auth.add_user", "auth.change_user", "auth.delete_user", "auth.add_group"),
    *("auth.change_group", "api.delete_apitoken", "otp_totp.delete_totpdevice"),
)
"""Make, change and delete accounts and roles, end tokens, help who lost a second factor."""

VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
AUDITOR: Final = "auditor"
ADMIN: Final = "admin"

PERMISSIONS: Final[dict[str, tuple[str, ...]]] = {
    VIEWER: (SEE,),
    OPERATOR: (SEE, RUN),
    AUDITOR: (ANSWER,),
    ADMIN: (SEE, RUN, RUN_ALL, ADJUDICATE, SEE_EVENTS, *MANAGE),
}


def make_roles() -> None:
    """Make the groups that are missing, and give every group at least its permissions.

    Admins see every row, also those of models that a later version brings.
    """
    for config in apps.get_app_configs():
        create_permissions(config, verbosity=0)
    for role, names in PERMISSIONS.items():
        group, _ = Group.objects.get_or_create(name=role)
        group.permissions.add(*(_get_permission(name) for name in names))
        if role == ADMIN:
            group.permissions.add(*Permission.objects.filter(codename__startswith="view_"))


def _get_permission(name: str) -> Permission:
    app, codename = name.split(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)
