"""The API object. Its OpenAPI description requires authentication like all operations."""

from functools import cache, wraps
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver
from ninja import NinjaAPI
from ninja.operation import Operation
from ninja.parser import Parser

from meta_reward_core.system.untrusted_input import REQUEST_LIMITS, parse_json
from webapp.api import experiments, models_api, system_api
from webapp.api.authentication import SignedIn, TokenAuth
from webapp.api.errors import register_error_handlers


class _LimitedParser(Parser):
    """Parses bodies with limits, after authentication."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        """Parse a body of JSON.

        Raises:
            MalformedInputError: it is not JSON, or exceeds a limit.
        """
        values: dict[str, Any] = parse_json(request.body, REQUEST_LIMITS)
        return values


class _NamedOperations(NinjaAPI):
    """Names operations after their functions."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__


api = _NamedOperations(
    title="Meta-Reward",
    version="1",
    description="The site's operations for programs. "
    "Authenticate with a token: Authorization: Bearer TOKEN.",
    docs_url=None,
    openapi_url=None,
    auth=[TokenAuth(), SignedIn()],
    parser=_LimitedParser(),
    urls_namespace="api",
)
api.add_router("/experiments", models_api.router)
api.add_router("/experiments", experiments.router)
api.add_router("", system_api.router)
register_error_handlers(api)


@api.get("/openapi.json", include_in_schema=False)
def openapi(request: HttpRequest) -> dict[str, Any]:  # noqa: ARG001
    """Return the OpenAPI description of all operations."""
    return _describe_operations()


@cache
def _describe_operations() -> dict[str, Any]:
    """Build the description once: it takes as long as dozens of other requests."""
    return dict(api.get_openapi_schema())


def build_api_urls() -> tuple[list[URLPattern | URLResolver], str, str]:
    """Build the API's URL patterns, which handle authentication themselves."""
    patterns, app, namespace = api.urls
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            pattern.callback = _wrap_as_json(pattern.callback)
    return patterns, app, namespace


def _wrap_as_json(view: Any) -> Any:
    @login_not_required
    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response: HttpResponse = view(request, *args, **kwargs)
        if response.status_code != 405:
            return response
        allowed = {"Allow": response.headers["Allow"]}
        return JsonResponse({"detail": "method not allowed"}, status=405, headers=allowed)

    return answer


@login_not_required
def handle_not_found(request: HttpRequest, rest: str) -> HttpResponse:  # noqa: ARG001
    """Respond to unknown operations."""
    return JsonResponse({"detail": "unknown operation"}, status=404)
