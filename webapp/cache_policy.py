"""What browsers and proxies may keep of the site: nothing but the static files."""

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest, HttpResponse

_HEADER: Final = "Cache-Control"

Answer = Callable[[HttpRequest], HttpResponse]


def forbid_caching(get_response: Answer) -> Answer:
    """Middleware: whatever a view answers is kept by nobody, unless the view says otherwise.

    Pages and answers of the API depend on who asks, errors and redirects too. Static files are
    served before this middleware.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault(_HEADER, "private, no-store")
        return response

    return answer
