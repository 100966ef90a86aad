"""Names that experiments cannot have because other URLs use them.

They are read from the URL map, so a new address reserves its name automatically.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

from django.urls import URLPattern, URLResolver, get_resolver

_EXPERIMENT: Final = re.compile(r"(.*experiments/)<(?:\w+:)?name>(?:/|$)")
"""Pattern of an experiment's address, with the part before its name."""


@cache
def list_reserved_names() -> frozenset[str]:
    """List the fixed words in URLs of pages and of the API at the position of a name."""
    routes = list(_iter_routes(get_resolver().url_patterns, ""))
    prefixes = {found[1] for found in map(_EXPERIMENT.match, routes) if found}
    words = {
        route.removeprefix(prefix).partition("/")[0]
        for route in routes
        for prefix in prefixes
        if route.startswith(prefix)
    }
    return frozenset(word for word in words if word and "<" not in word)


def _iter_routes(patterns: Iterable[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _iter_routes(pattern.url_patterns, route)
        else:
            yield route
