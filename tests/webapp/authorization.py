"""Who gets which answer: every address and operation, by GET and by POST, for every kind of person.

docs/authorization.md is the expectation. `make authorization` asks everything anew and writes the
page; its difference is what a reviewer reads. `test_authorization` fails where an answer is not the
page's, and where an address is not on the page.
"""

import json
import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from meta_reward_core.data.file_io import replace_between
from webapp.renamed_urls import RENAMED

PAGE: Final = Path(__file__).parents[2] / "docs" / "authorization.md"
BEGIN, END = "<!-- answers: begin -->", "<!-- answers: end -->"

KINDS: Final = (
    *("stranger", "no role", "viewer", "operator", "auditor", "lead", "admin", "owner"),
    *("other, private", "owner, private", "admin, private"),
)
"""Columns. The experiment is alice's, private in the last three; "other" is an operator."""

METHODS: Final = ("GET", "POST")
APART: Final = "admin/"
"""Django's own pages, which change with the models: `test_access_everywhere` holds their rule."""

VALUES: Final = {"action": "cancel", "form": "jsonl", "name": "scripted", "prompt_id": "a" * 64}
"""What stands in an address for each thing that varies; 1 for all others but rows."""

ROWS: Final = {
    "audits/<int:pk>": "batch",
    "jobs/<number>": "job",
    "jobs/<int:pk>": "job",
    "orders/<number>": "job",
    "tries/<int:number>": "job",
    "playground/<int:number>": "job",
}
"""Where an address holds the number of a row, and of which of those that the test made."""

BODIES: Final = {
    "api/v1/experiments": {"name": "mine", "recipe": "smoke"},
    "api/v1/experiments/<name>/duplicate": {"name": "mine"},
    "api/v1/experiments/<name>/fork": {"name": "mine", "iteration": 1},
    "api/v1/experiments/<name>/playground": {"models": [0, 1], "prompt": "Why?"},
    "api/v1/experiments/<name>/playground/<int:number>/follow-ups": {"prompt": "Why?"},
    "api/v1/models/check": {"model": {"source": "folder", "name": "mine"}, "recipe": "smoke"},
    "api/v1/experiments/<name>/tries": {"models": [0, 1], "prompt": "Why?"},
    "api/v1/experiments/<name>/tries/<int:number>/follow-ups": {"prompt": "Why?"},
}
"""What the API must be sent to look at who asks: without it, everybody is told what is missing."""

SIGN_IN: Final = "sign in"

Answers = dict[tuple[str, str], tuple[str, ...]]
"""By method and address, one answer for each kind of person."""


@dataclass(frozen=True)
class Address:
    """One entry of the URL map.

    Attributes:
        route: as the map writes it, with names in the place of what varies.
    """

    route: str

    def path(self, rows: Mapping[str, int]) -> str:
        """The address with something in the place of what varies; `rows` as ROWS names them."""
        route = self.route
        for varying, row in ROWS.items():
            number = varying.partition("<")[0] + str(rows[row])
            route = re.sub(rf"(?<![^/]){re.escape(varying)}", number, route)
        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda found: VALUES.get(found[1], "1"), route)


def every_address() -> list[Address]:
    """All of the map but what stands apart."""
    return [Address(route) for route in sorted(set(_routes(get_resolver())))]


def _routes(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        if route.startswith(APART) or route in RENAMED:
            continue
        if isinstance(entry, URLPattern):
            yield route
        else:
            yield from _routes(entry, route)


def ask(client: Client, method: str, address: Address, rows: Mapping[str, int]) -> str:
    """Ask, undo whatever it did, and say in a word what the answer was."""
    before = copy(client.cookies)
    kind, body = _FORM, ""
    if method == "POST" and address.route.startswith("api/"):
        kind, body = "application/json", json.dumps(BODIES.get(address.route, {}))
    with transaction.atomic():
        answer = client.generic(method, address.path(rows), body, content_type=kind)
        transaction.set_rollback(True)
    client.cookies = before  # whoever signed out is signed in still
    if answer.headers.get("Location", "").startswith("/account/login?"):
        return SIGN_IN
    return str(_STATES_OF_HEALTH.get(answer.status_code, answer.status_code))


_STATES_OF_HEALTH: Final = {503: 200}  # what the report says of the installation is let in, too
_FORM: Final = "application/x-www-form-urlencoded"


def write_page(answers: Answers) -> None:
    """Put the table into the page."""
    lines = [f"| address | method | {' | '.join(KINDS)} |", f"|---|---|{'---|' * len(KINDS)}"]
    lines += [
        f"| `/{route}` | {method} | {' | '.join(given)} |"
        for (route, method), given in answers.items()
    ]
    page = replace_between(PAGE.read_text(encoding="utf-8"), BEGIN, END, "\n".join(lines))
    PAGE.write_text(page, encoding="utf-8")


def read_page() -> Answers:
    """What the page expects."""
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    return {(row[0].strip("`").removeprefix("/"), row[1]): tuple(row[2:]) for row in rows}
