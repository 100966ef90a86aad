"""Requests that are refused before a view runs: too large, malformed, or with NUL characters.

PostgreSQL stores the NUL character in no text, so nothing here can be named by it.
"""

from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, JsonResponse
from django.shortcuts import render

NUL: Final = "\0"

Answer = Callable[[HttpRequest], HttpResponse]


def refuse_null_characters(get_response: Answer) -> Answer:
    """Middleware: an address with NUL in it is no address. Forms refuse it by themselves."""

    def answer(request: HttpRequest) -> HttpResponse:
        if NUL not in request.path_info and "%00" not in request.META.get("QUERY_STRING", ""):
            return get_response(request)
        if request.path_info.startswith("/api/"):
            return JsonResponse({"detail": "there is no such address"}, status=404)
        return HttpResponseNotFound("there is no such address", content_type="text/plain")

    return answer


def has_null_character(value: Any) -> bool:
    """Whether a text in a value of JSON, or a key, holds NUL."""
    if isinstance(value, str):
        return NUL in value
    if isinstance(value, dict):
        return any(has_null_character(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(has_null_character(part) for part in value)


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say what was wrong with a request, where its sender can do something about it."""
    reason = ""
    if isinstance(exception, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE / 1e6
        reason = (
            f"What you sent is longer than {most:g} MB. Send a long list of prompts as a file; "
            "your browser's Back button returns to the form as you filled it in."
        )
    return render(request, "400.html", {"exception": reason}, status=400)
