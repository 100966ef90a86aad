"""Note what happens to accounts and what rights were used for: who did it, from where."""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import signals
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.http import HttpRequest, HttpResponse

from webapp.people.models import Event, EventKind

_asking: ContextVar[HttpRequest | None] = ContextVar("asking", default=None)
_is_heard: ContextVar[bool] = ContextVar("is_heard", default=True)

_FLAGS: Final = ("is_active", "is_staff", "is_superuser", "username", "email")
_NAME_CHARS: Final = 150
_DETAIL_CHARS: Final = 255


def remember_who_asks(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: whatever a request changes is noted under its person's name."""

    def answer(request: HttpRequest) -> HttpResponse:
        token = _asking.set(request)
        try:
            return get_response(request)
        finally:
            _asking.reset(token)

    return answer


def address_of(request: HttpRequest | None) -> str | None:
    """Where a request comes from.

    Each trusted proxy adds the address that it saw at the end of X-Forwarded-For; what stands
    before those entries was written by the asker and is not believed.
    """
    if request is None:
        return None
    found = request.META.get("REMOTE_ADDR", "")
    if settings.META_REWARD_PROXIES:
        seen = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
        found = (
            seen[-settings.META_REWARD_PROXIES] if len(seen) >= settings.META_REWARD_PROXIES else ""
        )
    try:
        return str(ipaddress.ip_address(found.strip()))
    except ValueError:
        return None


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Note nothing inside: rows are put back as they were, with the events of then."""
    token = _is_heard.set(False)
    try:
        yield
    finally:
        _is_heard.reset(token)


def note(
    kind: EventKind,
    subject: str,
    *,
    detail: str = "",
    request: HttpRequest | None = None,
    by: User | None = None,
) -> None:
    """Write an event down.

    Args:
        by: who did it, where that is not whoever asks just now.
    """
    if not _is_heard.get():
        return
    request = request or _asking.get()
    person = by or getattr(request, "user", None)
    Event.objects.create(
        kind=kind,
        subject=subject[:_NAME_CHARS],
        by=person if isinstance(person, User) and person.pk else None,
        address=address_of(request),
        detail=detail[:_DETAIL_CHARS],
    )


def listen() -> None:
    """Hear of everything that is noted, whichever page, command or admin form did it."""
    signals.user_logged_in.connect(_signed_in, dispatch_uid="note_signed_in")
    signals.user_logged_out.connect(_signed_out, dispatch_uid="note_signed_out")
    pre_save.connect(_before_change, sender=User, dispatch_uid="note_before_change")
    post_save.connect(_changed, sender=User, dispatch_uid="note_changed")
    post_delete.connect(_deleted, sender=User, dispatch_uid="note_deleted")
    post_save.connect(_token_made, sender="api.ApiToken", dispatch_uid="note_token_made")
    post_delete.connect(_token_revoked, sender="api.ApiToken", dispatch_uid="note_token_revoked")
    post_delete.connect(_app_removed, sender="otp_totp.TOTPDevice", dispatch_uid="note_no_app")
    for through in (User.groups.through, User.user_permissions.through):
        m2m_changed.connect(_roles, sender=through, dispatch_uid=f"note_{through.__name__}")


def _signed_in(request: HttpRequest, user: User, **_: object) -> None:
    note(EventKind.SIGNED_IN, user.get_username(), request=request)


def _signed_out(request: HttpRequest, user: User | None, **_: object) -> None:
    if user is not None:
        note(EventKind.SIGNED_OUT, user.get_username(), request=request)


def _before_change(instance: User, update_fields: frozenset[str] | None, **_: object) -> None:
    if instance.pk is None or (update_fields and not set(_FLAGS) & set(update_fields)):
        return
    before = User.objects.filter(pk=instance.pk).values(*_FLAGS).first() or {}
    instance._changes = [  # type: ignore[attr-defined]
        f"{name}: {before[name]} -> {getattr(instance, name)}"
        for name in _FLAGS
        if name in before and before[name] != getattr(instance, name)
    ]


def _changed(instance: User, *, created: bool, raw: bool, **_: object) -> None:
    changes = instance.__dict__.pop("_changes", [])
    if raw:
        return
    if created:
        rights = [name for name in ("is_staff", "is_superuser") if getattr(instance, name)]
        note(EventKind.ACCOUNT_MADE, instance.get_username(), detail=", ".join(rights))
    elif changes:
        note(EventKind.ACCOUNT_CHANGED, instance.get_username(), detail="; ".join(changes))


def _deleted(instance: User, **_: object) -> None:
    note(EventKind.ACCOUNT_DELETED, instance.get_username())


def _token_made(instance: Any, *, created: bool, raw: bool, **_: object) -> None:
    if created and not raw:
        note(EventKind.TOKEN_MADE, instance.owner.get_username(), detail=str(instance))


def _token_revoked(instance: Any, **_: object) -> None:
    note(EventKind.TOKEN_REVOKED, instance.owner.get_username(), detail=str(instance))


def _app_removed(instance: Any, **_: object) -> None:
    if instance.confirmed:
        note(EventKind.SECOND_FACTOR, instance.user.get_username(), detail="removed")


def _roles(
    instance: Model, action: str, pk_set: set[int] | None, *, reverse: bool, **_: object
) -> None:
    what = {"post_add": "given", "post_remove": "taken", "post_clear": "all taken"}.get(action)
    if what is None or (pk_set is not None and not pk_set):
        return
    if reverse:  # from the role's side: the accounts are in pk_set
        for person in User.objects.filter(pk__in=pk_set or ()):
            note(EventKind.ROLES, person.get_username(), detail=f"{what}: {instance}")
        return
    names = Group.objects.filter(pk__in=pk_set or ()).values_list("name", flat=True)
    note(EventKind.ROLES, str(instance), detail=f"{what}: {', '.join(names) or pk_set or ''}")
