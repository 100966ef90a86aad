"""Addresses of signing in and out."""

from django.contrib.auth import views
from django.urls import path

urlpatterns = [
    path(
        "people/login",
        views.LoginView.as_view(
            template_name="people/login.html", redirect_authenticated_user=True
        ),
        name="login",
    ),
    path("people/logout", views.LogoutView.as_view(), name="logout"),
    path(
        "people/password",
        views.PasswordChangeView.as_view(template_name="people/password.html", success_url="/"),
        name="password_change",
    ),
]
