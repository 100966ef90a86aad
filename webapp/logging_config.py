"""Log lines with context, as text for users or one JSON object per line.

`log_context(...)` adds the experiment, iteration, stage and shard to every line that is written
inside it, also by libraries; lines of requests contain the request's number and user.
"""

import contextlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

from django.http import HttpRequest, HttpResponse
from django.views.debug import SafeExceptionReporterFilter

_CONTEXT: ContextVar[dict[str, object] | None] = ContextVar("about", default=None)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@contextlib.contextmanager
def log_context(**facts: object) -> Iterator[None]:
    """Add context to the lines written inside; an inner block extends an outer one."""
    token = _CONTEXT.set({**(_CONTEXT.get() or {}), **facts})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def get_log_facts() -> dict[str, object]:
    """The context of lines that are written now."""
    return dict(_CONTEXT.get() or {})


class TextFormatter(logging.Formatter):
    """A line for users: time, level, context, message.

    Args:
        with_facts: whether lines include their context.
    """

    def __init__(self, *, with_facts: bool = True) -> None:
        super().__init__()
        self._with_facts = with_facts

    def format(self, record: logging.LogRecord) -> str:
        """Write a record; text from models or visitors in it cannot forge a second line."""
        given = get_log_facts() if self._with_facts else {}
        facts = " ".join(f"{name}={value}" for name, value in given.items())
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        words = [when, record.levelname, record.name, *([f"[{facts}]"] if facts else [])]
        text = f"{' '.join(words)}: {record.getMessage()}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return _CONTROL.sub("�", text.replace("\n", "\n    "))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **get_log_facts(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


_FORMS: Final = {"text": TextFormatter, "json": JsonFormatter}


class SettingsFilter(SafeExceptionReporterFilter):
    """Also hides addresses that contain passwords on debug pages."""

    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|BROKER_URL|DATABASE_URL",
        flags=re.IGNORECASE,
    )


def build_log_settings(*, form: Literal["text", "json"], level: str) -> dict[str, Any]:
    """Build settings for `logging.config`: all logs go to standard error, in one format."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": f"{__name__}.{_FORMS[form].__name__}"}},
        "handlers": {"ours": {"class": "logging.StreamHandler", "formatter": "ours"}},
        "root": {"handlers": ["ours"], "level": level},
        "loggers": {
            # Django adds handlers to these loggers, which would write each line twice.
            "django": {"handlers": [], "propagate": True},
            "aiobotocore": {
                "level": "WARNING"
            },  # each process would log the location of its credentials
            # would log every URL, including the signature of a download
            "httpx2": {"level": "WARNING"},
        },
    }


Answer = Callable[[HttpRequest], HttpResponse]


def name_requests(get_response: Answer) -> Answer:
    """Middleware: add the request's number to its log lines and its response."""

    def answer(request: HttpRequest) -> HttpResponse:
        number = secrets.token_hex(8)
        with log_context(request=number, method=request.method, path=request.path):
            response = get_response(request)
        response.headers["X-Request-Id"] = number
        return response

    return answer
