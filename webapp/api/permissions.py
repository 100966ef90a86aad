"""Permission checks of operations."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from webapp.accounts.reauthentication import is_recent
from webapp.accounts.roles import RUN, SEE
from webapp.api.models import TokenScope

Given = ParamSpec("Given")
Answer = TypeVar("Answer")
Operation = Callable[Concatenate[HttpRequest, Given], Answer]

_SCOPES: Final = {
    SEE: frozenset(TokenScope),
    RUN: frozenset({TokenScope.RUN, TokenScope.PUBLISH}),
}
"""Token scopes that include each permission."""
_MEANING: Final = {SEE: "see experiments", RUN: "start and control experiments"}


def require_view(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Require the permission to see experiments."""
    return _require_permission(SEE, operation)


def require_run(operation: Operation[Given, Answer]) -> Operation[Given, Answer]:
    """Require the permission to start and control experiments."""
    return _require_permission(RUN, operation)


def require_publishing(request: HttpRequest) -> None:
    """Refuse to publish to the Hub with a token without that scope, or in an old session.

    Raises:
        PermissionDenied: the token lacks the scope, or the session has to be confirmed.
    """
    if get_token_scope(request) is None and not is_recent(request):
        raise PermissionDenied(
            "Publishing to the Hub requires a recent sign-in. Confirm your password at "
            "/account/confirm."
        )
    _require_scope(request, frozenset({TokenScope.PUBLISH}))


def get_token_scope(request: HttpRequest) -> str | None:
    """Return the scope of the request's token; None for a browser session."""
    scope: str | None = getattr(request, "token_scope", None)
    return scope


def _require_scope(request: HttpRequest, scopes: frozenset[TokenScope]) -> None:
    scope = get_token_scope(request)
    if scope is not None and scope not in scopes:
        raise PermissionDenied(
            f"The scope of this token ({scope}) does not include this operation: create a token "
            f"with the scope {' or '.join(sorted(scopes))}."
        )


def _require_permission(
    permission: str, operation: Operation[Given, Answer]
) -> Operation[Given, Answer]:
    @wraps(operation)
    def checked(request: HttpRequest, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        if not request.user.has_perm(permission):
            raise PermissionDenied(
                f"Permission denied: this account cannot {_MEANING[permission]}."
            )
        _require_scope(request, _SCOPES[permission])
        return operation(request, *args, **kwargs)

    return checked
