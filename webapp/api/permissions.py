"""Permission checks of operations."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from webapp.accounts.roles import RUN, SEE

Given = ParamSpec("Given")
Answer = TypeVar("Answer")
Operation = Callable[Concatenate[HttpRequest, Given], Answer]

_MEANING: Final = {SEE: "see experiments", RUN: "start and control experiments"}


def require_view(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Require the permission to see experiments."""
    return _require_permission(SEE, operation)


def require_run(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Require the permission to start and control experiments."""
    return _require_permission(RUN, operation)


def _require_permission(
    permission: str, operation: Operation[Given, Answer]
) -> Operation[Given, Answer]:
    @wraps(operation)
    def checked(request: HttpRequest, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        if not request.user.has_perm(permission):
            raise PermissionDenied(
                f"Permission denied: this account cannot {_MEANING[permission]}."
            )
        return operation(request, *args, **kwargs)

    return checked
