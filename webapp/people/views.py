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

from webapp.people import second_factor
from webapp.people.signed_in import person_of

_WRONG = "That code is wrong or used up: wait for the next one, and look at the phone's clock."


@login_not_required
@never_cache
def to_the_one_door(request: HttpRequest, extra_context: object = None) -> HttpResponse:  # noqa: ARG001
    """Instead of the admin's own form: one door has the lock and asks for the second factor.

    Raises:
        PermissionDenied: this person has signed in, and is not of the staff.
    """
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied("the admin is for the staff")
    return redirect_to_login(request.GET.get("next") or reverse("admin:index"))


@require_safe
@never_cache
def second_factor_page(request: HttpRequest) -> HttpResponse:
    """Show whether there is one, or the secret of one that is being set up."""
    return _page(request)


@require_POST
def begin_second_factor(request: HttpRequest) -> HttpResponse:
    """Draw a secret."""
    second_factor.begin(person_of(request))
    return redirect("second_factor")


@require_POST
@never_cache
def confirm_second_factor(request: HttpRequest) -> HttpResponse:
    """Take the first code of an app, and show the codes for paper this once."""
    codes = second_factor.confirm(person_of(request), request.POST.get("code", ""))
    return _page(request, codes=codes, error="" if codes else _WRONG)


@require_POST
def remove_second_factor(request: HttpRequest) -> HttpResponse:
    """Take it away from whoever can still show a code."""
    person = person_of(request)
    if not second_factor.passes(person, request.POST.get("code", "")):
        return _page(request, error=_WRONG)
    second_factor.remove(person)
    messages.success(request, "No code is asked for any more.")
    return redirect("second_factor")


def _page(request: HttpRequest, *, codes: list[str] | None = None, error: str = "") -> HttpResponse:
    person = person_of(request)
    device = second_factor.unconfirmed(person)
    context = {
        "is_on": second_factor.has_second_factor(person),
        "secret": base64.b32encode(device.bin_key).decode() if device else "",
        "picture": segno.make(device.config_url).svg_inline(scale=5, border=4) if device else "",
        "codes": codes or [],
        "error": error,
    }
    status = 422 if error else 200
    return render(request, "people/second_factor.html", context, status=status)
