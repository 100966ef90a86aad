"""A page and its regions: one address, rendered whole or, when htmx asks, one region alone."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers


def wants_region(request: HttpRequest) -> bool:
    """Whether htmx asks for a region. Restoring its history or following a link needs the page."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-History-Restore-Request") != "true"
        and headers.get("HX-Boosted") != "true"
    )


def render_page(
    request: HttpRequest, page: str, *, region: str, context: dict[str, Any]
) -> HttpResponse:
    """Render a page, or the region of it that htmx asks for.

    Args:
        page: template of the whole page, which includes the region's.
        region: template of the region.
    """
    response = render(request, region if wants_region(request) else page, context)
    patch_vary_headers(response, ["HX-Request", "HX-History-Restore-Request", "HX-Boosted"])
    return response
