"""Throttling of password guesses.

Wrong passwords of the last 15 minutes are counted per name and address (a user who forgot the
password, or a simple guesser), per address (one guesser, many names) and per name (many addresses).
The limits of the latter two are wide: locking out a colleague on purpose takes fifty requests every
15 minutes, and all of them are logged.
"""

import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from django import forms
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.models import Permission, User
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from webapp.accounts.roles import list_permissions, list_roles_with
from webapp.accounts.security_log import log_event
from webapp.accounts.two_factor import has_second_factor, verify_code
from webapp.activity.models import Action, Activity
from webapp.activity.request_tracking import get_client_address

WINDOW: Final = timedelta(minutes=15)
MAX_PER_NAME_AND_ADDRESS: Final = 5
MAX_PER_NAME: Final = 50
MAX_PER_ADDRESS: Final = 50
_REFUSALS_NOTED_EVERY: Final = timedelta(minutes=1)


def is_locked_out(name: str, address: str | None) -> bool:
    """Whether there were too many wrong passwords for this name from this address."""
    since = timezone.now() - WINDOW
    pair = Q(object_name=name, address=address)
    signed_in = Activity.objects.filter(pair, action=Action.SIGNED_IN, created__gt=since).first()
    failed = Activity.objects.filter(action=Action.FAILED, created__gt=since)
    of_name = failed.filter(object_name=name)
    since_success = of_name.filter(created__gt=signed_in.created if signed_in else since)
    return (
        _count_from(address, since_success) >= MAX_PER_NAME_AND_ADDRESS
        or of_name.count() >= MAX_PER_NAME
        or _count_from(address, failed) >= MAX_PER_ADDRESS
    )


def _count_from(address: str | None, failed: QuerySet[Activity]) -> int:
    """Count failures from an address; all IPv6 addresses of a /64 network count as one client."""
    if address is None or ":" not in address:
        return failed.filter(address=address).count()
    network = ipaddress.ip_network(f"{address}/64", strict=False)
    similar = failed.filter(address__startswith=address.partition(":")[0])
    return sum(
        ipaddress.ip_address(other) in network
        for other in similar.values_list("address", flat=True)
        if other is not None
    )


class ThrottledModelBackend(ModelBackend):
    """Django's backend with throttling; permissions follow from roles in code."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """Check a password unless there were too many wrong ones.

        Raises:
            PermissionDenied: there were too many wrong passwords.
        """
        if username is not None and is_locked_out(username, get_client_address(request)):
            raise PermissionDenied
        found = super().authenticate(request, username, password, **kwargs)
        return found if isinstance(found, User) else None

    def with_perm(
        self,
        perm: str | Permission,
        is_active: bool | None = True,  # noqa: FBT001, FBT002 Django's own signature
        include_superusers: bool = True,  # noqa: FBT001, FBT002
        obj: Any = None,
    ) -> QuerySet[User]:
        """Return the accounts that have a permission through a role or as superuser."""
        if obj is not None:
            return User.objects.none()
        name = perm if isinstance(perm, str) else f"{perm.content_type.app_label}.{perm.codename}"
        holders = User.groups.through.objects.filter(group__name__in=list_roles_with(name))
        wanted = Q(pk__in=holders.values("user_id"))
        if include_superusers:
            wanted |= Q(is_superuser=True)
        found = User.objects.filter(wanted)
        return found if is_active is None else found.filter(is_active=is_active)

    def get_user(self, user_id: int) -> User | None:
        """Load the signed-in user with the credential generation in the same query."""
        user = User.objects.select_related("credentials").filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None

    def _get_permissions(self, user_obj: User, obj: Any, from_name: str) -> set[str]:
        """Return the permissions of an account's roles; accounts have none of their own."""
        if user_obj.is_superuser or not user_obj.is_active or obj is not None:
            found: set[str] = super()._get_permissions(user_obj, obj, from_name)  # type: ignore[misc]
            return found
        if from_name == "user":
            return set()
        names: set[str] | None = user_obj.__dict__.get("_role_permissions")
        if names is None:
            held = user_obj.groups.values_list("name", flat=True)
            names = user_obj.__dict__["_role_permissions"] = list_permissions(held)
        return names


def check_secret(request: HttpRequest | None, user: User, check: Callable[[], bool]) -> bool:
    """Check a password or code of an account. All checks share one throttle.

    Raises:
        ValidationError: too many earlier attempts were wrong; the secret was not checked.
    """
    name = user.get_username()
    if is_locked_out(name, get_client_address(request)):
        raise make_locked_error()
    if check():
        return True
    _log_failure({"username": name}, request)
    return False


def make_locked_error() -> ValidationError:
    """Build the error with the time to wait."""
    minutes = int(WINDOW.total_seconds() // 60)
    return ValidationError(
        f"Too many wrong passwords: wait {minutes} minutes and try again.", code="locked_out"
    )


def connect_signals() -> None:
    """Count wrong passwords."""
    user_login_failed.connect(_log_failure, dispatch_uid="count_failures")


def _log_failure(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: object
) -> None:
    name, address = str(credentials.get("username", "")), get_client_address(request)
    if not is_locked_out(name, address):
        log_event(Action.FAILED, name, request=request)
        return
    noted = Activity.objects.filter(
        action=Action.REFUSED,
        object_name=name,
        address=address,
        created__gt=timezone.now() - _REFUSALS_NOTED_EVERY,
    )
    if not noted.exists():  # otherwise someone who guesses passwords could fill the database
        log_event(Action.REFUSED, name, request=request)


class SignInForm(AuthenticationForm):
    """User name, password and, if required, the second factor."""

    code = forms.CharField(
        required=False,
        max_length=40,
        label="Code",
        help_text="Required if two-factor authentication is on for your account.",
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code"}),
    )

    def confirm_login_allowed(self, user: User) -> None:
        """Check the code if one is required; a wrong code counts like a wrong password."""
        super().confirm_login_allowed(user)
        if not has_second_factor(user):
            return
        code = self.cleaned_data.get("code", "")
        if code and check_secret(self.request, user, lambda: verify_code(user, code)):
            return
        raise ValidationError("Enter the current code from your authenticator app.", code="no_code")

    def get_invalid_login_error(self) -> ValidationError:
        """Return the lockout error if the account is locked."""
        name = self.cleaned_data.get("username") or ""
        if not is_locked_out(name, get_client_address(self.request)):
            return super().get_invalid_login_error()
        return make_locked_error()


class ThrottledPasswordChangeForm(PasswordChangeForm):
    """Django's form; a wrong old password counts like a wrong password at sign-in."""

    request: HttpRequest | None = None

    def clean_old_password(self) -> str:
        """Check the old password unless there were too many wrong ones."""
        given: str = self.cleaned_data["old_password"]
        if not check_secret(self.request, self.user, lambda: self.user.check_password(given)):
            raise ValidationError(
                self.error_messages["password_incorrect"], code="password_incorrect"
            )
        return given
