"""Addresses of signing in and out, and of one's own account."""

from typing import Final

from django.contrib.auth import views
from django.urls import path
from django.views.decorators.http import require_http_methods

from webapp.people import views as people
from webapp.people.lockout import SignInForm

_form: Final = require_http_methods(["GET", "HEAD", "POST"])
"""Django's own views take PUT for POST, and see whoever has signed in before the method."""

urlpatterns = [
    path(
        "people/login",
        _form(
            views.LoginView.as_view(
                template_name="people/login.html",
                authentication_form=SignInForm,
                redirect_authenticated_user=True,
            )
        ),
        name="login",
    ),
    path("people/logout", views.LogoutView.as_view(), name="logout"),
    path(
        "people/password",
        _form(
            views.PasswordChangeView.as_view(template_name="people/password.html", success_url="/")
        ),
        name="password_change",
    ),
    path("people/second-factor", people.second_factor_page, name="second_factor"),
    path("people/second-factor/begin", people.begin_second_factor, name="begin_second_factor"),
    path(
        "people/second-factor/confirm", people.confirm_second_factor, name="confirm_second_factor"
    ),
    path("people/second-factor/remove", people.remove_second_factor, name="remove_second_factor"),
]
