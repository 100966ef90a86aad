"""The page for creating and revoking API tokens."""

import secrets
from datetime import datetime, timedelta
from typing import Final

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from webapp.accounts.credentials import get_generation
from webapp.accounts.permissions import get_user, require_view
from webapp.accounts.reauthentication import require_recent_authentication
from webapp.api.models import ApiToken, TokenScope, make_token, revoke_token

_DAYS: Final = {"30": "in 30 days", "90": "in 90 days", "365": "in a year"}
_MAX_TOKENS: Final = 50
_ONCE_CHARS: Final = 16
_SENT: Final = "token_forms_sent"


class TokenForm(forms.Form):
    """A new token."""

    name = forms.CharField(max_length=64, help_text="Its purpose, e.g. nightly export.")
    scope = forms.ChoiceField(label="Scope", choices=TokenScope.choices, initial=TokenScope.READ)
    days = forms.ChoiceField(label="Expires", choices=list(_DAYS.items()), initial="90")

    def get_expiry(self) -> datetime:
        """Expiry time of the token of a valid form."""
        return timezone.now() + timedelta(days=int(self.cleaned_data["days"]))


@require_http_methods(["GET", "HEAD", "POST"])
@require_view
@require_recent_authentication("tokens")
@sensitive_variables("token")
def manage_tokens(request: HttpRequest) -> HttpResponse:
    """List and create tokens. A new token is shown in this response only."""
    person = get_user(request)
    if request.method == "POST" and not _use_once(request):
        messages.info(request, "This form was sent before. The token is shown only once.")
        return redirect("tokens")
    form = TokenForm(request.POST if request.method == "POST" else None)
    token = ""
    if request.method == "POST" and form.is_valid():
        if person.api_tokens.count() >= _MAX_TOKENS:
            form.add_error(
                None, f"You have {_MAX_TOKENS} tokens, the maximum. Revoke a token first."
            )
        else:
            _, token = make_token(
                person,
                name=form.cleaned_data["name"],
                expires=form.get_expiry(),
                scope=TokenScope(form.cleaned_data["scope"]),
            )
            form = TokenForm()
    context = {
        "form": form,
        "new_token": token,
        "tokens": list(person.api_tokens.all()),
        "generation": get_generation(person),
        "now": timezone.now(),
        "once": secrets.token_urlsafe(12),
    }
    response = render(request, "api/tokens.html", context)
    if token:
        add_never_cache_headers(response)
    return response


def _use_once(request: HttpRequest) -> bool:
    """Whether a form is submitted for the first time; reloading the response submits it again."""
    number = request.POST.get("once", "")[:_ONCE_CHARS]
    sent: list[str] = request.session.get(_SENT, [])
    if not number:
        return True
    if number in sent:
        return False
    request.session[_SENT] = [*sent, number][-_MAX_TOKENS:]
    return True


@require_POST
@require_view
def revoke_own_token(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke one of the user's own tokens."""
    token = get_object_or_404(ApiToken, pk=pk, owner=get_user(request))
    revoke_token(token)
    messages.success(request, f"{token.name} is revoked.")
    return redirect("tokens")
