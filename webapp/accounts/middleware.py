"""Redirect anonymous users to sign in; for a partial request, the whole page is redirected."""

from collections.abc import Callable

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from webapp.accounts.credentials import is_current_session
from webapp.accounts.unsent_form import ask_to_sign_in, is_form


def end_outdated_sessions(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: end sessions from before a change of the account's password or permissions."""

    def answer(request: HttpRequest) -> HttpResponse:
        user = request.user
        if isinstance(user, User) and not is_current_session(request, user):
            request.session.flush()
            request.user = AnonymousUser()
            request.former_user = str(user.pk)  # type: ignore[attr-defined]
        return get_response(request)

    return answer


class SignInMiddleware(LoginRequiredMiddleware):
    """Django's middleware, with a response to htmx that makes the browser leave the page."""

    def handle_no_permission(  # type: ignore[override]
        self, request: HttpRequest, view_func: Callable[..., HttpResponseBase]
    ) -> HttpResponseBase:
        """Redirect to the sign-in page, and keep a submitted form until the user signs in.

        An htmx request makes the browser reload its page, which is then redirected.

        Only the browser supplies the page's address; no request header is echoed.
        """
        if is_form(request):
            return ask_to_sign_in(request)
        response = super().handle_no_permission(request, view_func)
        if request.headers.get("HX-Request") != "true" or "Location" not in response.headers:
            return response
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
