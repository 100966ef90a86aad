"""Addresses of signing in and out, and of one's own account."""

from django.contrib.auth import views
from django.urls import path

from webapp.people import views as people
from webapp.people.lockout import SignInForm

urlpatterns = [
    path(
        "people/login",
        views.LoginView.as_view(
            template_name="people/login.html",
            authentication_form=SignInForm,
            redirect_authenticated_user=True,
        ),
        name="login",
    ),
    path("people/logout", views.LogoutView.as_view(), name="logout"),
    path(
        "people/password",
        views.PasswordChangeView.as_view(template_name="people/password.html", success_url="/"),
        name="password_change",
    ),
    path("people/second-factor", people.second_factor_page, name="second_factor"),
    path("people/second-factor/begin", people.begin_second_factor, name="begin_second_factor"),
    path(
        "people/second-factor/confirm", people.confirm_second_factor, name="confirm_second_factor"
    ),
    path("people/second-factor/remove", people.remove_second_factor, name="remove_second_factor"),
]
