"""Lines of the log: what they are about, in words or as JSON, and nothing that forges a line."""

import json
import logging
import sys

import pytest
from django.test import Client

from webapp.logging_config import JsonFormatter, TextFormatter, log_context


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("workers.x", logging.INFO, __file__, 1, message, (), None)
    if failed:
        try:
            raise ValueError("so it is\n2026-01-01 forged")
        except ValueError:
            made.exc_info = sys.exc_info()
    return made


def test_json_lines_name_what_they_are_about() -> None:
    with log_context(experiment="first", iteration=2), log_context(stage="judge", shard=7):
        line = json.loads(JsonFormatter().format(record("done")))
    assert line["message"] == "done"
    found = {name: line[name] for name in ("experiment", "iteration", "stage", "shard", "level")}
    assert found == {
        "experiment": "first",
        "iteration": 2,
        "stage": "judge",
        "shard": 7,
        "level": "INFO",
    }
    after = json.loads(JsonFormatter().format(record("later")))
    assert "experiment" not in after


@pytest.mark.parametrize("lines", [TextFormatter(), JsonFormatter()])
def test_nobody_can_forge_a_second_line(lines: logging.Formatter) -> None:
    text = lines.format(record("model says: x\n2026-01-01 INFO root: all is well\r\x1b[2J\u2028"))
    assert not [line for line in text.split("\n")[1:] if not line.startswith("    ")]
    assert not set(text) & set("\r\x1b\u2028")


def test_nobody_can_forge_a_line_by_what_a_line_is_about() -> None:
    with log_context(path="/x\n2026-01-01 INFO root: all is well"):
        text = TextFormatter().format(record("refused", failed=True))
    assert not [line for line in text.split("\n")[1:] if not line.startswith("    ")]


def test_an_exception_stays_with_its_line() -> None:
    text = TextFormatter().format(record("failed", failed=True))
    assert "ValueError: so it is" in text
    assert not [line for line in text.split("\n")[1:] if not line.startswith("    ")]
    assert (
        "ValueError"
        in json.loads(JsonFormatter().format(record("failed", failed=True)))["exception"]
    )


def test_a_request_has_a_number_that_the_answer_names(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Client().get("/livez").headers["X-Request-Id"] for _ in range(2))
    assert first != second
    assert len(first) == 16
