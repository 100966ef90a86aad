"""Signing in to the admin by the one door, and a person's second factor."""

import base64

import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from webapp.accounts import two_factor
from webapp.accounts.current_user import get_user

_WRONG = "Wrong or used code. Wait for the next one, and check the clock of your phone."


@login_not_required
@never_cache
def redirect_admin_login(request: HttpRequest, extra_context: object = None) -> HttpResponse:  # noqa: ARG001
    """Instead of the admin's own form: one door has the lock and asks for the second factor.

    Raises:
        PermissionDenied: this person has signed in, and is not of the staff.
    """
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied("You need staff access to open the admin site.")
    return redirect_to_login(request.GET.get("next") or reverse("admin:index"))


@require_safe
@never_cache
def show_second_factor(request: HttpRequest) -> HttpResponse:
    """Show whether there is one, or the secret of one that is being set up."""
    return _render_page(request)


@require_POST
def start_second_factor(request: HttpRequest) -> HttpResponse:
    """Draw a secret."""
    two_factor.start_setup(get_user(request))
    return redirect("two_factor")


@require_POST
@never_cache
def confirm_second_factor(request: HttpRequest) -> HttpResponse:
    """Take the first code of an app, and show the codes for paper this once."""
    codes = two_factor.confirm_setup(get_user(request), request.POST.get("code", ""))
    return _render_page(request, codes=codes, error="" if codes else _WRONG)


@require_POST
def remove_second_factor(request: HttpRequest) -> HttpResponse:
    """Take it away from whoever can still show a code."""
    person = get_user(request)
    if not two_factor.verify_code(person, request.POST.get("code", "")):
        return _render_page(request, error=_WRONG)
    two_factor.remove_devices(person)
    messages.success(request, "Two-factor authentication is off.")
    return redirect("two_factor")


def _render_page(
    request: HttpRequest, *, codes: list[str] | None = None, error: str = ""
) -> HttpResponse:
    person = get_user(request)
    device = two_factor.get_unconfirmed_device(person)
    context = {
        "is_on": two_factor.has_second_factor(person),
        "secret": base64.b32encode(device.bin_key).decode() if device else "",
        "picture": segno.make(device.config_url).svg_inline(scale=5, border=4) if device else "",
        "codes": codes or [],
        "error": error,
    }
    status = 422 if error else 200
    return render(request, "accounts/two_factor.html", context, status=status)
