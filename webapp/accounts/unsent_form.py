"""Forms submitted after the session expired: kept while the user signs in again.

Otherwise the user would be redirected to an address that does not accept GET, and the input would
be lost. Only forms that passed the CSRF check are kept, and none with a password or a file. A form
is shown only to the user who submitted it: another one may sign in in the same browser.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.views import redirect_to_login
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from webapp.own_addresses import is_own_address

_KEY: Final = "unsent_form"
_MAX_CHARS: Final = 200_000
_MAX_FIELDS: Final = 2_000
_SECRET: Final = ("password", "secret", "token", "code")
_EXCERPT_CHARS: Final = 200


def is_form(request: HttpRequest) -> bool:
    """Whether a browser submitted a form, as opposed to htmx or a program."""
    return request.method == "POST" and request.headers.get("HX-Request") != "true"


def ask_to_sign_in(request: HttpRequest) -> HttpResponse:
    """Redirect to the sign-in page, which returns to the form."""
    back = _find_page(request)
    fields = [
        (name, value)
        for name, values in request.POST.lists()
        for value in values
        if name != "csrfmiddlewaretoken" and isinstance(value, str)
    ]
    size = sum(len(name) + len(value) for name, value in fields)
    is_secret = any(word in name.lower() for name, _ in fields for word in _SECRET)
    user = _find_former_user(request)
    if user is None or request.FILES or is_secret or len(fields) > _MAX_FIELDS or size > _MAX_CHARS:
        messages.warning(request, "Your session had ended, so the form was not sent.")
        return redirect_to_login(back)
    request.session[_KEY] = {
        "user": user,
        "path": request.get_full_path(),
        "back": back,
        "fields": fields,
    }
    return redirect_to_login(reverse("unsent_form"))


def _find_former_user(request: HttpRequest) -> str | None:
    """Find the user whose session ended; None for strangers, who could fill the database."""
    former: str | None = getattr(request, "former_user", None) or _read_kept(request).get("user")
    if former is not None:
        return former
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    expired = Session.objects.filter(session_key=key).first()
    return None if expired is None else expired.get_decoded().get(SESSION_KEY)


def _read_kept(request: HttpRequest) -> dict[str, Any]:
    kept: dict[str, Any] = request.session.get(_KEY) or {}
    return kept


def _find_page(request: HttpRequest) -> str:
    """Return the page of the form if the browser sent its address, else the home page."""
    page = urlsplit(request.headers.get("Referer", ""))
    if not page.netloc or not is_own_address(request, page.geturl()):
        return reverse("index")
    return f"{page.path}?{page.query}" if page.query else page.path


@require_safe
def show_unsent_form(request: HttpRequest) -> HttpResponse:
    """Show a form that was not submitted because the session expired, ready to be submitted."""
    kept = _read_kept(request)
    if kept.get("user") != str(request.user.pk):
        request.session.pop(_KEY, None)
        return redirect("index")
    hidden = [forms.HiddenInput().render(name, value) for name, value in kept["fields"]]
    shown = [(name, value[:_EXCERPT_CHARS]) for name, value in kept["fields"] if value]
    context = {"path": kept["path"], "back": kept["back"], "hidden": hidden, "shown": shown}
    return render(request, "accounts/unsent_form.html", context)
