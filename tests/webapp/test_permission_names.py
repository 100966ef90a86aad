"""A renamed model's permissions keep their holders."""

from typing import cast

from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.migrations.state import StateApps

from webapp.experiments.models import Job
from webapp.permission_names import rename_permissions

ACTIONS = ("add", "change", "delete", "view")


def run(*, backwards: bool = False) -> None:
    operation = rename_permissions("experiments", {"Order": "Job"})
    code = operation.reverse_code if backwards else operation.code
    assert code is not None
    code(cast("StateApps", apps), connection.schema_editor())


def names(group: Group) -> set[str]:
    return set(group.permissions.values_list("codename", flat=True))


def test_groups_and_users_keep_what_they_may_do(db: None, alice: User) -> None:
    of_model = Permission.objects.filter(content_type=ContentType.objects.get_for_model(Job))
    keys = {one.codename: one.pk for one in of_model}
    for action in ACTIONS:
        of_model.filter(codename=f"{action}_job").update(codename=f"{action}_order")
    group = Group.objects.create(name="support")
    group.permissions.set(of_model.filter(codename__in=["view_order", "change_order"]))
    alice.user_permissions.set(of_model.filter(codename="delete_order"))

    run()
    assert names(group) == {"view_job", "change_job"}
    own = alice.user_permissions.values_list("codename", flat=True)
    assert set(own) == {"delete_job"}
    assert {one.codename: one.pk for one in of_model.all()} == keys

    run(backwards=True)
    assert names(group) == {"view_order", "change_order"}


def test_a_permission_that_was_created_already_takes_over_the_holders(
    db: None, alice: User
) -> None:
    """`migrate` creates the new ones by itself, if it was interrupted before the rename."""
    of_model = Permission.objects.filter(content_type=ContentType.objects.get_for_model(Job))
    earlier = Permission.objects.create(
        content_type=ContentType.objects.get_for_model(Job), codename="view_order", name="x"
    )
    group = Group.objects.create(name="support")
    group.permissions.add(earlier)
    alice.user_permissions.add(earlier)

    run()
    assert names(group) == {"view_job"}
    assert set(alice.user_permissions.values_list("codename", flat=True)) == {"view_job"}
    assert not of_model.filter(codename="view_order").exists()


def test_a_fresh_database_has_nothing_to_rename(db: None) -> None:
    before = set(Permission.objects.values_list("pk", "codename"))
    run()
    assert set(Permission.objects.values_list("pk", "codename")) == before
