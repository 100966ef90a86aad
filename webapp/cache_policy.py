"""Caching by browsers and proxies: only static files may be cached."""

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest, HttpResponse

_HEADER: Final = "Cache-Control"

Answer = Callable[[HttpRequest], HttpResponse]


def forbid_caching(get_response: Answer) -> Answer:
    """Middleware: forbid caching of every response, unless its view sets another policy.

    Pages, API responses, errors and redirects depend on the user. Static files are served before
    this middleware.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault(_HEADER, "private, no-store")
        return response

    return answer
