"""Rename a model's permissions in a migration, so that groups and users keep them."""

from functools import partial
from typing import Any, Final

from django.db import migrations

_ACTIONS: Final = ("add", "change", "delete", "view")


def rename_permissions(app_label: str, renamed: dict[str, str]) -> migrations.RunPython:
    """Build an operation that renames the four default permissions of renamed models.

    `RenameModel` renames a model's content type and leaves its permissions, after which `migrate`
    would create new ones that no group has. The migration must depend on `auth` and
    `contenttypes`.

    Args:
        renamed: new model names by earlier names, each as in the code.
    """
    back = {new: old for old, new in renamed.items()}
    return migrations.RunPython(
        partial(_rename, app_label, renamed), partial(_rename, app_label, back)
    )


def _rename(app_label: str, renamed: dict[str, str], apps: Any, schema_editor: Any) -> None:  # noqa: ARG001
    permissions = apps.get_model("auth", "Permission").objects
    for old, new in renamed.items():
        models = (old.lower(), new.lower())
        of_model = permissions.filter(
            content_type__app_label=app_label, content_type__model__in=models
        )
        for action in _ACTIONS:
            earlier = of_model.filter(codename=f"{action}_{old.lower()}").first()
            if earlier is None:
                continue  # a new database has none yet
            later = of_model.filter(codename=f"{action}_{new.lower()}").first()
            if later is None:
                earlier.codename = f"{action}_{new.lower()}"
                earlier.save()
            else:
                _replace(earlier, later)


def _replace(earlier: Any, later: Any) -> None:
    """Grant a permission to all groups and users that have an earlier one; delete the latter."""
    later.group_set.add(*earlier.group_set.all())
    later.user_set.add(*earlier.user_set.all())
    earlier.delete()


def move_view_permission(
    app_label: str, model: str, *, to: tuple[str, str]
) -> migrations.RunPython:
    """Build an operation that lets all viewers of a model view another model.

    Args:
        to: app label and name of the other model.
    """
    return migrations.RunPython(
        partial(_move_view, app_label, model, to), migrations.RunPython.noop
    )


def _move_view(
    app_label: str,
    model: str,
    to: tuple[str, str],
    apps: Any,
    schema_editor: Any,  # noqa: ARG001
) -> None:
    permissions = apps.get_model("auth", "Permission").objects
    earlier = permissions.filter(
        content_type__app_label=app_label, codename=f"view_{model.lower()}"
    ).first()
    if earlier is None:
        return  # a new database has none yet
    content_types = apps.get_model("contenttypes", "ContentType").objects
    later, _ = permissions.get_or_create(
        content_type=content_types.get_or_create(app_label=to[0], model=to[1].lower())[0],
        codename=f"view_{to[1].lower()}",
        defaults={"name": f"Can view {to[1].lower()}"},
    )
    _replace(earlier, later)


def remove_permissions(app_label: str, models: list[str]) -> migrations.RunPython:
    """Build an operation that deletes the permissions of removed models."""
    return migrations.RunPython(partial(_remove, app_label, models), migrations.RunPython.noop)


def _remove(app_label: str, models: list[str], apps: Any, schema_editor: Any) -> None:  # noqa: ARG001
    names = [model.lower() for model in models]
    types = apps.get_model("contenttypes", "ContentType").objects
    types.filter(app_label=app_label, model__in=names).delete()
