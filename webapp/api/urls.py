"""Addresses of the API, and of the page on which tokens are made."""

from django.urls import path

from webapp.api import site, views

urlpatterns = [
    path("api/v1/", site.api_urls()),
    path("api/v1/<path:rest>", site.nothing_here),
    path("people/tokens", views.tokens, name="tokens"),
    path("people/tokens/<int:pk>/revoke", views.revoke_token, name="revoke_token"),
]
