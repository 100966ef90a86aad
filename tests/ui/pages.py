"""Every page of the site in every state worth looking at, as rows of one table.

`test_pages` compares the table with the URL map, so that a page without a row fails a test.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.urls import URLPattern, URLResolver, get_resolver

OPERATOR: Final = "alice"
VIEWER: Final = "vera"
AUDITOR: Final = "carol"
LEAD: Final = "leda"
ADMIN: Final = "ada"
NOBODY: Final = ""

_BEGINS_ELSEWHERE: Final = ("admin/", "api/v1/")
"""Django's own admin, of which the first page is looked at, and the API, which has no pages."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page as one person sees it.

    Attributes:
        route: name of its address in the URL map.
        state: what there is to see; with the route it names the page's pictures.
        path: in which `{...}` stands for what `fixtures.fill` has noted.
        is_empty: whether it is looked at on a site on which nothing was ever done.
    """

    route: str
    state: str
    path: str
    person: str = OPERATOR
    is_empty: bool = False

    @property
    def title(self) -> str:
        """A name for its pictures."""
        return f"{self.route.replace(':', '_')}--{self.state}"


def _empty(route: str, path: str, person: str = OPERATOR) -> Page:
    state = "empty" if person == OPERATOR else f"empty-for-{person}"
    return Page(route, state, path, person, is_empty=True)


_RUN: Final = "/experiments/finished/iterations/1"
_STATES: Final = (
    "finished", "running", "training", "paused", "failed", "no-pairs", "held", "{long}", "private",
    "begun",
)  # fmt: skip
_WITH_ITERATION: Final = tuple(state for state in _STATES if state != "begun")

PAGES: Final = (
    Page("login", "first", "/account/login", NOBODY),
    _empty("index", "/"),
    _empty("index", "/", VIEWER),
    Page("index", "all", "/"),
    Page("index", "viewer", "/", VIEWER),
    Page("index", "none-found", "/?q=no-such-name"),
    _empty("new_experiment", "/experiments/new"),
    Page("new_experiment", "smoke", "/experiments/new?recipe=smoke"),
    Page("new_experiment", "paper", "/experiments/new?recipe=paper-llama3-8b"),
    Page("duplicate", "finished", "/experiments/finished/duplicate"),
    Page("model_check", "waiting", "/experiments/new/checks/{check_waiting}"),
    Page("model_check", "done", "/experiments/new/checks/{check_done}"),
    Page("model_check", "failed", "/experiments/new/checks/{check_failed}"),
    Page("settings", "paused", "/experiments/paused/settings"),
    Page("settings", "failed", "/experiments/failed/settings"),
    Page("fork", "points", "/experiments/failed/fork"),
    Page("fork", "from-training", "/experiments/finished/fork?from=1:pair_judge"),
    Page("job", "waiting", "/jobs/{launch_waiting}"),
    Page("job", "refused", "/jobs/{launch_refused}"),
    _empty("compare", "/experiments/compare"),
    Page("compare", "two", "/experiments/compare?name={compared}&name=finished"),
    *(Page("experiment", state.strip("{}"), f"/experiments/{state}") for state in _STATES),
    *(
        Page("iteration", state.strip("{}"), f"/experiments/{state}/iterations/{{last}}")
        for state in _WITH_ITERATION
    ),
    Page("iteration", "shards", "/experiments/running/iterations/{last}?stage=judge&page=2"),
    Page("attempt_output", "running", "{output_running}"),
    Page("attempt_output", "failed", "{output_failed}"),
    Page("attempt_output", "of-a-command", "{output_of_a_command}"),
    Page("prompts", "all", f"{_RUN}/prompts"),
    Page("prompts", "none-found", f"{_RUN}/prompts?q=no-such-words"),
    Page("prompts", "not-yet", "/experiments/paused/iterations/{last}/prompts"),
    Page("prompt", "battled", f"{_RUN}/prompts/{{prompt}}"),
    Page("prompt", "judged", "/experiments/training/iterations/{last}/prompts/{last_prompt}"),
    Page("battle", "two-judgments", f"{_RUN}/prompts/{{prompt}}/battle?first=0&second=1"),
    Page("send_to_audit", "nothing-to-send", f"{_RUN}/prompts/{{prompt}}/audit"),
    Page("what-if", "as-it-was", f"{_RUN}/what-if"),
    Page("what-if", "changed", f"{_RUN}/what-if?rho=0.9&min_valid_judgments=4"),
    Page("what-if", "refused", f"{_RUN}/what-if?rho=1.5"),
    Page("prompt_across_models", "finished", "/experiments/finished/prompts/{prompt}"),
    Page("index", "columns", "/?col=status&col=tokens&col=cost&col=metric.judge.mean&sort=-tokens"),
    Page("details", "form", "/experiments/finished/details"),
    Page("delete", "finished", "/experiments/finished/delete"),
    Page("delete", "running", "/experiments/running/delete"),
    Page("ownership", "form", "/experiments/finished/ownership"),
    Page("evaluations", "none", "/experiments/finished/evaluations"),
    Page("files", "finished", "/experiments/finished/files"),
    Page("files", "begun", "/experiments/begun/files"),
    Page("playground", "finished", "/experiments/finished/playground"),
    Page("playground", "only-m0", "/experiments/begun/playground"),
    Page("conversation", "done", "/experiments/finished/playground/{try_done}"),
    Page("conversation", "waiting", "/experiments/finished/playground/{try_waiting}"),
    Page("conversation", "refused", "/experiments/finished/playground/{try_refused}"),
    Page("conversation", "talk", "/experiments/finished/playground/{try_talk}"),
    Page("conversation", "talk-waiting", "/experiments/finished/playground/{try_talk_waiting}"),
    Page("conversation", "talk-refused", "/experiments/finished/playground/{try_talk_refused}"),
    Page("conversation", "followed", "/experiments/finished/playground/{try_followed}"),
    Page("publish", "done", f"{_RUN}/publish"),
    Page("publish", "not-yet", "/experiments/failed/iterations/{last}/publish"),
    Page("report", "one", "/reports?name=finished"),
    _empty("workers", "/workers"),
    Page("workers", "three", "/workers"),
    _empty("activity", "/activity"),
    Page("activity", "some", "/activity"),
    _empty("audits", "/audits"),
    _empty("audits", "/audits", AUDITOR),
    Page("audits", "all", "/audits"),
    Page("audits", "mine", "/audits", AUDITOR),
    Page("audit_new", "form", "/experiments/finished/audits/new"),
    Page("experiment_audits", "finished", "/experiments/finished/audits"),
    Page("experiment_audits", "held", "/experiments/held/audits"),
    Page("experiment_audits", "begun", "/experiments/begun/audits"),
    Page("iteration_audits", "pooled", "/experiments/finished/audits/1"),
    Page("iteration_audits", "none", "/experiments/finished/audits/{last}"),
    Page("audit_report", "judgments", "/audits/{judgments}"),
    Page("audit_report", "responses", "/audits/{responses}"),
    Page("audit_report", "unanswered", "/audits/{untouched}"),
    Page("audit_close", "close", "/audits/{judgments}/close", LEAD),
    Page("audit_close", "reopen", "/audits/{closed}/close"),
    _empty("audit_items", "/audits/items", LEAD),
    Page("audit_items", "all", "/audits/items", LEAD),
    Page("audit_items", "every-item", "/audits/items?state=all&disagreement=all"),
    Page("audit_items", "none-found", "/audits/items?q=no-such-words", LEAD),
    Page("audit_review", "undecided", "/audits/{judgments}/items/1/review", LEAD),
    Page("audit_review", "differences", "/audits/{judgments}/items/1/review?differences=1", LEAD),
    Page("audit_review", "responses", "/audits/{responses}/items/1/review", LEAD),
    Page("audit_review", "decided", "/audits/{judgments}/items/{decided}/review", LEAD),
    Page("audit_review", "closed", "/audits/{closed}/items/1/review", LEAD),
    Page("audit_review", "reader", "/audits/{judgments}/items/1/review"),
    Page("audit_item", "judgments", "/audits/{begun}/annotate", AUDITOR),
    Page("audit_item", "responses", "/audits/{untouched}/annotate", AUDITOR),
    Page("audit_item", "answered", "/audits/{begun}/items/2", AUDITOR),
    Page("audit_item", "revealed", "/audits/{begun}/items/1", AUDITOR),
    Page("annotate", "closed", "/audits/{closed}/annotate", AUDITOR),
    Page("annotate", "skipped", "/audits/{skipped}/annotate", AUDITOR),
    _empty("tokens", "/account/tokens"),
    Page("tokens", "two", "/account/tokens"),
    _empty("notifications", "/account/notifications"),
    Page("notifications", "some", "/account/notifications"),
    Page("password_change", "form", "/account/password"),
    Page("unsent_form", "none", "/account/unsent-form"),
    Page("confirm_identity", "form", "/account/confirm"),
    _empty("two_factor", "/account/2fa"),
    Page("two_factor", "begun", "/account/2fa"),
    Page("admin:index", "all", "/admin/", ADMIN),
)  # fmt: skip


def read_notes(file: Path) -> dict[str, str]:
    """What the cast noted of its rows."""
    noted: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return noted


def every_route(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and pattern of each address of the URL map that could be a page of ours."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = prefix + str(entry.pattern)
        if route.startswith(_BEGINS_ELSEWHERE):
            continue
        if isinstance(entry, URLPattern):
            yield entry.name or route, route
        else:
            yield from every_route(entry, route)


def example_of(route: str, noted: Mapping[str, str]) -> str:
    """An address of a pattern that leads to something on the site of the cast."""
    return "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda found: noted[f"any_{found[1]}"], route)
