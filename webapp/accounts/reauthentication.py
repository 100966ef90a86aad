"""Recent authentication: actions that would outlive a stolen session ask for the password again.

A session that signed in or confirmed within the last 15 minutes may do everything its account may.
An older session must confirm before it creates tokens, changes the second factor, the email address
or the webhook, or publishes to the Hub: an intruder at an open browser cannot gain lasting access.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib.auth import signals
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from webapp.accounts.login_throttle import check_secret
from webapp.accounts.permissions import get_user
from webapp.accounts.two_factor import has_second_factor, verify_code
from webapp.own_addresses import is_own_address

RECENT_SECONDS: Final = 15 * 60

_SESSION_KEY: Final = "authenticated_at"

Given = ParamSpec("Given")
View = Callable[Concatenate[HttpRequest, Given], HttpResponse]


class ConfirmForm(forms.Form):
    """The password, or a code of the second factor."""

    secret = forms.CharField(
        label="Password",
        strip=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def __init__(self, *args: Any, request: HttpRequest, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request, self._user = request, user
        if has_second_factor(user):
            self.fields["secret"].label = "Password, or a code from your authenticator app"

    def clean_secret(self) -> str:
        """Check the secret unless there were too many wrong ones."""
        given: str = self.cleaned_data["secret"]
        if not check_secret(self._request, self._user, lambda: self._is_right(given)):
            raise ValidationError("Wrong password or code.", code="wrong")
        return given

    def _is_right(self, given: str) -> bool:
        if self._user.check_password(given):
            return True
        return has_second_factor(self._user) and verify_code(self._user, given)


def is_recent(request: HttpRequest) -> bool:
    """Whether the session's user recently entered a password or code."""
    return bool(0 <= time.time() - request.session.get(_SESSION_KEY, 0) < RECENT_SECONDS)


def require_recent_authentication(page: str) -> Callable[[View[Given]], View[Given]]:
    """Decorator of views whose POST needs a recent authentication; GET does not.

    Args:
        page: URL name of the page to go to after the confirmation.
    """

    def decorate(view: View[Given]) -> View[Given]:
        @wraps(view)
        def checked(
            request: HttpRequest, /, *args: Given.args, **kwargs: Given.kwargs
        ) -> HttpResponse:
            if request.method != "POST" or is_recent(request):
                return view(request, *args, **kwargs)
            return ask_to_confirm(request, then=reverse(page))

        return checked

    return decorate


def ask_to_confirm(request: HttpRequest, *, then: str) -> HttpResponse:
    """Redirect to the confirmation page, which returns here.

    Args:
        then: address to return to afterwards.
    """
    target = f"{reverse('confirm_identity')}?{urlencode({'next': then})}"
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(status=204, headers={"HX-Redirect": target})
    return redirect(target)


@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("secret")
def confirm_identity(request: HttpRequest) -> HttpResponse:
    """Ask for the password or a code, then return to the page that required it."""
    user = get_user(request)
    target = _read_target(request)
    form = ConfirmForm(request.POST or None, request=request, user=user)
    if request.method == "POST" and form.is_valid():
        note_authentication(request)
        return redirect(target)
    status = 422 if request.method == "POST" else 200
    context = {"form": form, "next": target}
    return render(request, "accounts/confirm_identity.html", context, status=status)


def note_authentication(request: HttpRequest, **_: object) -> None:
    """Record in the session that its user just entered a password or code."""
    request.session[_SESSION_KEY] = time.time()


def connect_signals() -> None:
    """Count a sign-in as a recent authentication."""
    signals.user_logged_in.connect(note_authentication, dispatch_uid="note_authentication")


def _read_target(request: HttpRequest) -> str:
    """Read the return address; only addresses of this site are valid."""
    target = (request.POST if request.method == "POST" else request.GET).get("next", "")
    return target if is_own_address(request, target) else reverse(settings.LOGIN_REDIRECT_URL)
