"""Somebody with a browser, who tries again when the site does not answer."""

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


class Person:
    """Keeps cookies, follows redirects, fills in forms."""

    def __init__(self, port: int, name: str, password: str, *, host: str = "127.0.0.1") -> None:
        self._site = f"http://{host}:{port}"
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        answer = self.send("/account/login", {"username": name, "password": password})
        assert answer is not None, "the site does not let this person in"

    def read(self, path: str) -> tuple[str, str] | None:
        """Where a page leads, and what stands there; None if the site does not answer well."""
        return self._open(path, None)

    def send(
        self, path: str, values: Mapping[str, str], *, seconds: float = 60
    ) -> tuple[str, str] | None:
        """Fill in the form of a page and send it; None if the site does not answer well."""
        page = self.read(path)
        found = _TOKEN.search(page[1]) if page is not None else None
        if found is None:
            return None
        data = {**values, "csrfmiddlewaretoken": found[1]}
        return self._open(path, urllib.parse.urlencode(data).encode(), seconds=seconds)

    def _open(
        self, path: str, data: bytes | None, *, seconds: float = 20
    ) -> tuple[str, str] | None:
        try:
            with self._opener.open(self._site + path, data, timeout=seconds) as answer:
                return answer.url.removeprefix(self._site), answer.read().decode()
        except OSError:  # refused, reset, late, or an error of the server
            return None
