"""Ask strangers to sign in. A region of a page cannot do that: the whole page goes there."""

from collections.abc import Callable

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.http import HttpRequest, HttpResponse, HttpResponseBase


class SignInMiddleware(LoginRequiredMiddleware):
    """Django's own, which also answers htmx so that the browser leaves the page."""

    def handle_no_permission(  # type: ignore[override]
        self, request: HttpRequest, view_func: Callable[..., HttpResponseBase]
    ) -> HttpResponseBase:
        """Redirect to the form; for htmx by a header that it obeys."""
        response = super().handle_no_permission(request, view_func)
        if request.headers.get("HX-Request") != "true" or "Location" not in response.headers:
            return response
        page = request.headers.get("HX-Current-URL", "/")
        return HttpResponse(status=204, headers={"HX-Redirect": page})
