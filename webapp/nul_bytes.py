"""The character NUL, which PostgreSQL stores in no text: nothing here can be called by it."""

from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, JsonResponse

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
