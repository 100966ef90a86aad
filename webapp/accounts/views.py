"""Sign-in to the admin, and two-factor authentication."""

import base64
from typing import Any

import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import PasswordChangeView, redirect_to_login
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from webapp.accounts import two_factor
from webapp.accounts.login_throttle import ThrottledPasswordChangeForm, check_secret
from webapp.accounts.permissions import get_user
from webapp.accounts.reauthentication import (
    ask_to_confirm,
    is_recent,
    require_recent_authentication,
)

_WRONG = "Wrong or already used code. Wait for the next code, and check your phone's clock."


@login_not_required
@never_cache
def redirect_admin_login(request: HttpRequest, extra_context: object = None) -> HttpResponse:  # noqa: ARG001
    """Redirect from the admin's own form, which has no throttle and no second factor.

    Raises:
        PermissionDenied: the user has signed in but is not staff.
    """
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied("You need staff access to open the admin site.")
    return redirect_to_login(request.GET.get("next") or reverse("admin:index"))


def redirect_admin_password(request: HttpRequest, extra_context: object = None) -> HttpResponse:  # noqa: ARG001
    """Redirect from the admin's own form, which does not count wrong passwords."""
    return redirect("password_change")


class ThrottledPasswordChangeView(PasswordChangeView):
    """Django's view with the throttle of the sign-in."""

    form_class = ThrottledPasswordChangeForm

    def get_form(self, form_class: Any = None) -> Any:
        """Pass the request to the form."""
        form: Any = super().get_form(form_class)
        form.request = self.request
        return form


@require_safe
@never_cache
def show_second_factor(request: HttpRequest) -> HttpResponse:
    """Show the state of two-factor authentication, or the secret during set-up."""
    if two_factor.get_unconfirmed_device(get_user(request)) and not is_recent(request):
        return ask_to_confirm(request, then=reverse("two_factor"))
    return _render_page(request)


@require_POST
@require_recent_authentication("two_factor")
def start_second_factor(request: HttpRequest) -> HttpResponse:
    """Generate a secret."""
    two_factor.start_setup(get_user(request))
    return redirect("two_factor")


@require_POST
@never_cache
@require_recent_authentication("two_factor")
def confirm_second_factor(request: HttpRequest) -> HttpResponse:
    """Check the first code, and show the recovery codes once."""
    user, code, codes = get_user(request), request.POST.get("code", ""), []
    try:
        if check_secret(request, user, lambda: two_factor.is_setup_code(user, code)):
            codes = two_factor.finish_setup(user)
    except ValidationError as error:
        return _render_page(request, error=error.messages[0])
    return _render_page(request, codes=codes, error="" if codes else _WRONG)


@require_POST
@require_recent_authentication("two_factor")
def remove_second_factor(request: HttpRequest) -> HttpResponse:
    """Turn two-factor authentication off after a valid code."""
    user, code = get_user(request), request.POST.get("code", "")
    try:
        if not check_secret(request, user, lambda: two_factor.verify_code(user, code)):
            return _render_page(request, error=_WRONG)
    except ValidationError as error:
        return _render_page(request, error=error.messages[0])
    two_factor.remove_devices(user)
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
