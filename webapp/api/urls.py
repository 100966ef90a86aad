"""URLs of the API, and of the page for API tokens."""

from django.urls import path

from webapp.api import ninja_api, token_views

urlpatterns = [
    path("api/v1/", ninja_api.build_api_urls()),
    path("api/v1/<path:rest>", ninja_api.handle_not_found),
    path("account/tokens", token_views.manage_tokens, name="tokens"),
    path("account/tokens/<int:pk>/revoke", token_views.revoke_own_token, name="revoke_token"),
]
