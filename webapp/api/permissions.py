"""The pages' own permissions, for operations: who lacks one is told which."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from webapp.accounts.roles import RUN, SEE

Given = ParamSpec("Given")
Answer = TypeVar("Answer")
Operation = Callable[Concatenate[HttpRequest, Given], Answer]

_MEANING: Final = {SEE: "see experiments", RUN: "start and steer experiments"}


def require_view(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Decorate an operation for whoever may see experiments."""
    return _require_permission(SEE, operation)


def require_run(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Decorate an operation for whoever may start and steer experiments."""
    return _require_permission(RUN, operation)


def _require_permission(
    permission: str, operation: Operation[Given, Answer]
) -> Operation[Given, Answer]:
    @wraps(operation)
    def checked(request: HttpRequest, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        if not request.user.has_perm(permission):
            raise PermissionDenied(f"this account has no role that may {_MEANING[permission]}")
        return operation(request, *args, **kwargs)

    return checked
