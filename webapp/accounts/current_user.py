"""Who asks, once the middleware has let them in."""

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def get_user(request: HttpRequest) -> User:
    """The person who asks.

    Raises:
        PermissionDenied: nobody has signed in.
    """
    if not isinstance(request.user, User):
        raise PermissionDenied("sign-in required")
    return request.user
