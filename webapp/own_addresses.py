"""Whether an address that a browser sent leads to this site."""

from django.http import HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme


def is_own_address(request: HttpRequest, address: str) -> bool:
    """Whether a redirect to an address stays on this site, and on HTTPS if the site uses it."""
    return url_has_allowed_host_and_scheme(
        address, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
