"""Responses to unexpected errors; for disk and database errors, they include a remedy.

Nothing here reads the database, or renders a template that does, because it may be unavailable.
"""

import errno
import sys
from http import HTTPStatus
from typing import Final

from django.contrib.auth.decorators import login_not_required
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string

from meta_reward_core.errors import ArtifactError

_API: Final = "/api/"
_FULL_MESSAGES: Final = ("disk is full", "No space left on device")
_DISK_FULL: Final = (
    "The disk of this installation is full, so nothing was saved. Free space on it, then try "
    "again. What was saved before is intact."
)
_NO_DATABASE: Final = (
    "The database does not respond, so nothing was saved. Try again soon; if that does not help, "
    "tell an administrator."
)
_NO_PERMISSION: Final = (
    "The site is not permitted to access one of its folders. Tell an administrator: the log of "
    "the web server names the folder."
)
_UNKNOWN: Final = "See the web server log for details. Running experiments are not affected."


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error means that a disk is full; databases report this only as a message."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    text = str(error)
    return isinstance(error, OperationalError) and any(said in text for said in _FULL_MESSAGES)


@login_not_required
def handle_server_error(request: HttpRequest) -> HttpResponse:
    """Explain the error that is being handled, as a page or as JSON."""
    error = sys.exc_info()[1]
    if isinstance(error, ArtifactError) and error.__cause__ is not None:
        error = error.__cause__
    status, title, text = _describe(error)
    if request.path_info.startswith(_API):
        return JsonResponse({"detail": text}, status=status)
    return HttpResponse(render_to_string("500.html", {"title": title, "text": text}), status=status)


def _describe(error: BaseException | None) -> tuple[HTTPStatus, str, str]:
    if is_disk_full(error):
        return HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full", _DISK_FULL
    if isinstance(error, OperationalError):
        return HTTPStatus.SERVICE_UNAVAILABLE, "The database does not respond", _NO_DATABASE
    if isinstance(error, PermissionError):
        return HTTPStatus.SERVICE_UNAVAILABLE, "A folder is not accessible", _NO_PERMISSION
    return HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error", _UNKNOWN
