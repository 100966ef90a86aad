"""The administrators' view of tokens: who has which, and revoking them."""

from django.contrib import admin

from webapp.api.models import ApiToken
from webapp.experiments.admin import LookOnly


@admin.register(ApiToken)
class ApiTokenAdmin(LookOnly):
    """Tokens may be deleted here; their hashes are of no use to anybody."""

    list_display = ("name", "prefix", "owner", "created", "last_used", "expires")
    list_filter = ("created", "expires")
    search_fields = ("name", "prefix", "owner__username")
    list_select_related = ("owner",)
    exclude = ("digest",)
