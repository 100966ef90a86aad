"""URLs for signing in and out, and for the user's own account."""

from typing import Final

from django.contrib.auth import views
from django.urls import path
from django.views.decorators.http import require_http_methods

from webapp.accounts import reauthentication
from webapp.accounts import views as people
from webapp.accounts.login_throttle import SignInForm
from webapp.accounts.unsent_form import show_unsent_form

_form: Final = require_http_methods(["GET", "HEAD", "POST"])
"""Django's own views treat PUT as POST, and check the session before the method."""

urlpatterns = [
    path(
        "account/login",
        _form(
            views.LoginView.as_view(
                template_name="accounts/login.html",
                authentication_form=SignInForm,
                redirect_authenticated_user=True,
            )
        ),
        name="login",
    ),
    path("account/logout", views.LogoutView.as_view(), name="logout"),
    path(
        "account/password",
        _form(
            people.ThrottledPasswordChangeView.as_view(
                template_name="accounts/password.html", success_url="/"
            )
        ),
        name="password_change",
    ),
    path("account/unsent-form", show_unsent_form, name="unsent_form"),
    path("account/confirm", reauthentication.confirm_identity, name="confirm_identity"),
    path("account/2fa", people.show_second_factor, name="two_factor"),
    path("account/2fa/start", people.start_second_factor, name="start_two_factor"),
    path("account/2fa/confirm", people.confirm_second_factor, name="confirm_two_factor"),
    path("account/2fa/remove", people.remove_second_factor, name="remove_two_factor"),
]
