"""The credential generation of each account, which sessions and tokens must match.

Each change of an account's access or permissions increments the generation: a new password, a
reset, closing or reopening the account, granting or revoking a role, setting up or removing a
second factor. Sessions and tokens store the generation in which they were created and are valid
only in that generation. Only the session that changes its own account stays valid.
"""

from typing import Any, Final

from django.contrib.auth import signals
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpRequest

from webapp.accounts.models import AccountCredentials
from webapp.activity.request_tracking import get_current_request

_SESSION_KEY: Final = "credential_generation"
_GUARDED: Final = ("password", "is_active", "is_staff", "is_superuser", "username")
_M2M_CHANGES: Final = frozenset({"post_add", "post_remove", "post_clear"})


def get_generation(user: User) -> int:
    """Return the credential generation of an account, which is initially 0."""
    row = AccountCredentials.objects.filter(user=user).values_list("generation", flat=True).first()
    return row or 0


def raise_generation(user: User) -> None:
    """End all sessions and tokens of an account, except the current session."""
    with transaction.atomic():
        row, _ = AccountCredentials.objects.select_for_update().get_or_create(user=user)
        row.generation += 1
        row.save(update_fields=["generation"])
    request = get_current_request()
    if request is not None and getattr(request, "user", None) == user:
        keep_session(request, user)


def keep_session(request: HttpRequest, user: User) -> None:
    """Keep the session of a request valid under the account's current generation."""
    if hasattr(request, "session") and request.session.get("_auth_user_id") == str(user.pk):
        request.session[_SESSION_KEY] = get_generation(user)


def is_current_session(request: HttpRequest, user: User) -> bool:
    """Whether a session has the generation that the account had when its user was loaded."""
    row: AccountCredentials | None = getattr(user, "credentials", None)
    now = 0 if row is None else row.generation
    return bool(request.session.get(_SESSION_KEY, 0) == now)


def match_generation(user_field: str, generation_field: str) -> Q:
    """Build a condition for rows with an account's current generation."""
    of_account = f"{user_field}__credentials__generation"
    never_raised = Q(**{f"{user_field}__credentials": None, generation_field: 0})
    return never_raised | Q(**{of_account: F(generation_field)})


def connect_signals() -> None:
    """Raise the generation on every change, from any page, command or admin form."""
    signals.user_logged_in.connect(_note_in_session, dispatch_uid="note_generation")
    pre_save.connect(_find_changes, sender=User, dispatch_uid="credentials_before")
    post_save.connect(_raise_if_changed, sender=User, dispatch_uid="credentials_after")
    m2m_changed.connect(
        _raise_for_roles, sender=User.groups.through, dispatch_uid="credentials_roles"
    )
    post_delete.connect(
        _raise_for_device, sender="otp_totp.TOTPDevice", dispatch_uid="credentials_no_device"
    )


def _note_in_session(request: HttpRequest, user: User, **_: object) -> None:
    request.session[_SESSION_KEY] = get_generation(user)


def _find_changes(instance: User, update_fields: frozenset[str] | None, **_: object) -> None:
    """Compare with the stored row; a hash that Django upgrades at sign-in is the same password."""
    instance.__dict__.pop("_raises_generation", None)
    if instance.pk is None or (update_fields and not set(_GUARDED) & set(update_fields)):
        return
    before = User.objects.filter(pk=instance.pk).values(*_GUARDED).first()
    changed = {name for name in _GUARDED if before and before[name] != getattr(instance, name)}
    is_rehash = (
        update_fields is not None
        and set(update_fields) == {"password"}
        and instance._password is None  # type: ignore[attr-defined]
    )
    if changed and not is_rehash:
        instance._raises_generation = True  # type: ignore[attr-defined]


def _raise_if_changed(instance: User, *, raw: bool, **_: object) -> None:
    if instance.__dict__.pop("_raises_generation", False) and not raw:
        raise_generation(instance)


def _raise_for_roles(
    instance: Any, action: str, pk_set: set[int] | None, *, reverse: bool, **_: object
) -> None:
    if action == "pre_clear" and reverse:  # the members are unknown afterwards
        pk_set = set(instance.user_set.values_list("pk", flat=True))
    elif action not in _M2M_CHANGES or (pk_set is not None and not pk_set):
        return
    users = User.objects.filter(pk__in=pk_set or ()) if reverse else [instance]
    for user in users:
        raise_generation(user)


def _raise_for_device(instance: Any, origin: Any, **_: object) -> None:
    """Raise the generation when a device is deleted, unless its account is deleted too."""
    asked_for = origin.model if isinstance(origin, QuerySet) else type(origin)
    if instance.confirmed and asked_for is type(instance):
        raise_generation(instance.user)
