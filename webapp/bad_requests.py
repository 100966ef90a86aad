"""Refuse requests before a view runs: too large, invalid Unicode, or text with NUL.

PostgreSQL cannot store NUL, and no database can store a lone surrogate, so no stored name contains
them. The API's parser checks JSON bodies with `meta_reward_core.system.untrusted_input`;
uploaded files are checked with it when they are read.
"""

from collections.abc import Callable, Iterator
from typing import Final

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, JsonResponse
from django.shortcuts import render

from meta_reward_core.errors import MalformedInputError
from meta_reward_core.system.untrusted_input import check_text

_NUL: Final = "\0"
_API: Final = "/api/"
_UTF_8: Final = frozenset({"utf-8", "utf8"})

Answer = Callable[[HttpRequest], HttpResponse]


def refuse_malformed_addresses(get_response: Answer) -> Answer:
    """Middleware: return 404 for addresses with NUL, and refuse requests that are not UTF-8.

    Other charsets could encode what UTF-8 cannot: UTF-7 can encode lone surrogates.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        if _NUL in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            return _refuse_address(request)
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.strip("\"' ").lower() not in _UTF_8:
            return _refuse(
                request, "the request must be UTF-8: remove the charset from Content-Type", 415
            )
        return get_response(request)

    return answer


def refuse_malformed_fields(get_response: Answer) -> Answer:
    """Middleware: refuse a form with a field, field name or file name that is not plain text.

    It runs after the authentication middleware, whose sign-in page explains an oversized form.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and not request.path_info.startswith(_API):
            try:
                for text in _iter_texts(request):
                    check_text(text)
            except MalformedInputError as error:
                return _refuse(request, f"a field of the form {error}: remove it", 400)
        return get_response(request)

    return answer


def _iter_texts(request: HttpRequest) -> Iterator[str]:
    for name, values in request.POST.lists():
        yield name
        yield from (value for value in values if isinstance(value, str))
    for name, files in request.FILES.lists():
        yield name
        yield from (file.name or "" for file in files)


def _refuse_address(request: HttpRequest) -> HttpResponse:
    if request.path_info.startswith(_API):
        return JsonResponse({"detail": "page not found"}, status=404)
    return HttpResponseNotFound("page not found", content_type="text/plain")


def _refuse(request: HttpRequest, reason: str, status: int) -> HttpResponse:
    if request.path_info.startswith(_API):
        return JsonResponse({"detail": reason}, status=status)
    return HttpResponse(f"{reason}\n", status=status, content_type="text/plain; charset=utf-8")


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Explain what was wrong with a request if its sender can fix it."""
    reason = ""
    if isinstance(exception, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE / 1e6
        reason = (
            f"The request is larger than {most:g} MB. Send a long list of prompts as a file; "
            "your browser's Back button returns to the form as you filled it in."
        )
    return render(request, "400.html", {"exception": reason}, status=400)
