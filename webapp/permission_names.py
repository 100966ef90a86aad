"""Rename a model's permissions in a migration, so that groups and users keep what they may do."""

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
        renamed: new model names by earlier ones, each as in the code.
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
                continue  # a fresh database has none yet
            later = of_model.filter(codename=f"{action}_{new.lower()}").first()
            if later is None:
                earlier.codename = f"{action}_{new.lower()}"
                earlier.save()
            else:
                _replace(earlier, later)


def _replace(earlier: Any, later: Any) -> None:
    """Give a permission to everybody who has an earlier one, and delete that."""
    later.group_set.add(*earlier.group_set.all())
    later.user_set.add(*earlier.user_set.all())
    earlier.delete()
