"""Errors as JSON: always an object with `detail`."""

from functools import partial
from typing import Any, Final

from django import forms
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError

from meta_reward_core.errors import ArtifactError, InputError, MalformedInputError
from webapp.api.schemas import Problem

PROBLEMS: Final = dict.fromkeys((400, 401, 403, 404, 409, 422), Problem)
"""Error responses that every operation may return."""


class ConflictError(Exception):
    """The request conflicts with the current state."""


def require_valid(form: forms.Form) -> None:
    """Raise an error that lists all problems of a form, one per line.

    Raises:
        InputError: the form has problems.
    """
    if not form.is_valid():
        found: Any = form.errors.get_json_data()
        raise InputError(
            "\n".join(f"{field}: {one['message']}" for field in found for one in found[field])
        )


def register_error_handlers(api: NinjaAPI) -> None:
    """Register handlers for the errors that the site's functions raise."""
    for kind, status in {
        PermissionDenied: 403,
        ConflictError: 409,
        ArtifactError: 409,
        RequestDataTooBig: 413,
        InputError: 422,
    }.items():
        api.add_exception_handler(kind, _make_handler(api, status))
    api.add_exception_handler(HttpError, partial(_answer_http_error, api))


def _answer_http_error(api: NinjaAPI, request: HttpRequest, error: HttpError) -> HttpResponse:
    """Respond with the reason why a body could not be read, which ninja hides."""
    cause = error.__cause__
    if isinstance(cause, RequestDataTooBig):
        return api.create_response(request, {"detail": str(cause)}, status=413)
    if isinstance(cause, MalformedInputError):
        return api.create_response(request, {"detail": f"the body {cause}"}, status=422)
    return api.create_response(request, {"detail": str(error)}, status=error.status_code)


def _make_handler(api: NinjaAPI, status: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    def tell(request: HttpRequest, error: Exception) -> HttpResponse:
        detail = str(error) or "permission denied"
        return api.create_response(request, {"detail": detail}, status=status)

    return tell
