"""Pages and their regions: a URL renders the whole page or, for htmx requests, one region."""

import hashlib
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers

_VARY: Final = ("HX-Request", "HX-History-Restore-Request", "HX-Boosted")


def is_partial_request(request: HttpRequest) -> bool:
    """Whether htmx requests a region; history restores and boosted links need the whole page."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-History-Restore-Request") != "true"
        and headers.get("HX-Boosted") != "true"
    )


def vary_on_htmx(response: HttpResponse) -> HttpResponse:
    """Prevent caches, including the browser's, from serving an htmx response as the page."""
    patch_vary_headers(response, _VARY)
    return response


def render_page_or_partial(
    request: HttpRequest, page: str, *, region: str, context: dict[str, Any]
) -> HttpResponse:
    """Render a page, or the region that htmx requests.

    Args:
        page: template of the whole page, which includes the region's.
        region: template of the region.
    """
    response = render(request, region if is_partial_request(request) else page, context)
    patch_vary_headers(response, _VARY)
    return response


def render_cached_partial(
    request: HttpRequest, region: str, gather: Callable[[], dict[str, Any]]
) -> HttpResponse:
    """Render a region that is the same for all users, and cache it for a short time.

    Many browsers poll it every two seconds. Permissions are checked before.

    Args:
        region: template of the region, which must not depend on the user.
        gather: builds the context if this address has no recent cached rendering.
    """
    address = f"{region} {request.get_full_path()}"
    key = f"region-{hashlib.sha256(address.encode()).hexdigest()}"
    content = cache.get(key)
    if content is None:
        content = render_to_string(region, gather(), request)
        cache.set(key, content, settings.META_REWARD_REGION_SECONDS)
    response = HttpResponse(content)
    patch_vary_headers(response, _VARY)
    return response
