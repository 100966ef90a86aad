"""Record security events and sensitive actions: who, from where."""

from typing import Any, Final

from django.contrib.auth import signals
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpRequest

from webapp.activity.models import FILE_ACTIONS, Action, ObjectType
from webapp.activity.recording import record_activity

_FLAGS: Final = ("is_active", "is_staff", "is_superuser", "username", "email")
_NAME_CHARS: Final = 150
_DETAIL_CHARS: Final = 255


def log_event(
    action: Action,
    subject: str,
    *,
    detail: str = "",
    request: HttpRequest | None = None,
    by: User | None = None,
    by_name: str = "",
) -> None:
    """Record a security event.

    Args:
        subject: name of the account or object that was exported, published, restored or deleted.
        by: the user who did it, if not the current requester.
        by_name: name of what did it, if it was not an account.
    """
    object_type = _get_object_type(action)
    record_activity(
        action,
        object_type=object_type,
        object_id=_find_account(subject) if object_type == ObjectType.ACCOUNT else None,
        object_name=subject[:_NAME_CHARS],
        details=detail[:_DETAIL_CHARS],
        request=request,
        by=by,
        by_name=by_name,
    )


def _find_account(name: str) -> int | None:
    """Find the id of an account, which identifies it even if its name is used again."""
    return User.objects.filter(username=name).values_list("pk", flat=True).first()


def _get_object_type(action: Action) -> ObjectType:
    if action in FILE_ACTIONS:
        return ObjectType.FILE
    return ObjectType.MODEL if action == Action.PUBLISHED else ObjectType.ACCOUNT


def connect_signals() -> None:
    """Record the events of all pages, commands and admin forms."""
    signals.user_logged_in.connect(_log_sign_in, dispatch_uid="note_signed_in")
    signals.user_logged_out.connect(_log_sign_out, dispatch_uid="note_signed_out")
    pre_save.connect(_collect_changes, sender=User, dispatch_uid="note_before_change")
    post_save.connect(_log_change, sender=User, dispatch_uid="note_changed")
    post_delete.connect(_log_deletion, sender=User, dispatch_uid="note_deleted")
    post_save.connect(_log_token_created, sender="api.ApiToken", dispatch_uid="note_token_made")
    post_delete.connect(
        _log_token_revoked, sender="api.ApiToken", dispatch_uid="note_token_revoked"
    )
    post_delete.connect(
        _log_second_factor_removed, sender="otp_totp.TOTPDevice", dispatch_uid="note_no_app"
    )
    for through in (User.groups.through, User.user_permissions.through):
        m2m_changed.connect(
            _log_role_change, sender=through, dispatch_uid=f"note_{through.__name__}"
        )


def _log_sign_in(request: HttpRequest, user: User, **_: object) -> None:
    log_event(Action.SIGNED_IN, user.get_username(), request=request)


def _log_sign_out(request: HttpRequest, user: User | None, **_: object) -> None:
    if user is not None:
        log_event(Action.SIGNED_OUT, user.get_username(), request=request)


def _collect_changes(instance: User, update_fields: frozenset[str] | None, **_: object) -> None:
    if instance.pk is None or (update_fields and not set(_FLAGS) & set(update_fields)):
        return
    before = User.objects.filter(pk=instance.pk).values(*_FLAGS).first() or {}
    instance._changes = [  # type: ignore[attr-defined]
        f"{name}: {before[name]} -> {getattr(instance, name)}"
        for name in _FLAGS
        if name in before and before[name] != getattr(instance, name)
    ]


def _log_change(instance: User, *, created: bool, raw: bool, **_: object) -> None:
    changes = instance.__dict__.pop("_changes", [])
    if raw:
        return
    if created:
        rights = [name for name in ("is_staff", "is_superuser") if getattr(instance, name)]
        log_event(Action.ACCOUNT_MADE, instance.get_username(), detail=", ".join(rights))
    elif changes:
        log_event(Action.ACCOUNT_CHANGED, instance.get_username(), detail="; ".join(changes))


def _log_deletion(instance: User, **_: object) -> None:
    log_event(Action.ACCOUNT_DELETED, instance.get_username())


def _log_token_created(instance: Any, *, created: bool, raw: bool, **_: object) -> None:
    if created and not raw:
        log_event(Action.TOKEN_MADE, instance.owner.get_username(), detail=str(instance))


def _log_token_revoked(instance: Any, **_: object) -> None:
    log_event(Action.TOKEN_REVOKED, instance.owner.get_username(), detail=str(instance))


def _log_second_factor_removed(instance: Any, **_: object) -> None:
    if instance.confirmed:
        log_event(Action.SECOND_FACTOR, instance.user.get_username(), detail="removed")


def _log_role_change(
    instance: Model, action: str, pk_set: set[int] | None, *, reverse: bool, **_: object
) -> None:
    what = {"post_add": "given", "post_remove": "taken", "post_clear": "all taken"}.get(action)
    if what is None or (pk_set is not None and not pk_set):
        return
    if reverse:  # changed from the side of the role: pk_set contains the accounts
        for person in User.objects.filter(pk__in=pk_set or ()):
            log_event(Action.ROLES, person.get_username(), detail=f"{what}: {instance}")
        return
    names = Group.objects.filter(pk__in=pk_set or ()).values_list("name", flat=True)
    log_event(Action.ROLES, str(instance), detail=f"{what}: {', '.join(names) or pk_set or ''}")


class PasswordChangeLogger:
    """Records password changes; a password validator because Django calls these on every change."""

    def validate(self, password: str, user: User | None = None) -> None:
        """Accept every password."""

    def password_changed(self, password: str, user: User | None = None) -> None:  # noqa: ARG002
        """Record a password change; the first password of a new account is recorded separately."""
        if user is not None and user.last_login is not None:
            log_event(Action.PASSWORD, user.get_username())

    def get_help_text(self) -> str:
        """Text for the list of rules above the field."""
        return "The change, its time and its network address are recorded for admins."
