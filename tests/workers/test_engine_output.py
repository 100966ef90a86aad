"""What an engine prints stands in the worker's log, under the ids of what it worked on."""

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from webapp.logging_config import TextFormatter, log_context
from workers.engine.output import EngineOutput


@pytest.fixture
def words() -> Iterator[EngineOutput]:
    made = EngineOutput()
    yield made
    made.file.close()


def say(words: EngineOutput, text: str) -> None:
    """Let a process write to its standard error, as a library does."""
    code = f"import sys; sys.stderr.write({text!r})"
    subprocess.run([sys.executable, "-c", code], stderr=words.file, check=True)


def told(words: EngineOutput, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        words.log_new_lines()
    return caplog.messages


def test_lines_are_told_once_and_only_when_they_are_ended(
    words: EngineOutput, caplog: pytest.LogCaptureFixture
) -> None:
    say(words, "one\ntwo\nhal")
    assert told(words, caplog) == ["one", "two"]
    say(words, "f\n")
    assert told(words, caplog) == ["half"]
    assert told(words, caplog) == []


def test_reading_does_not_move_where_the_engine_writes(words: EngineOutput) -> None:
    say(words, "first\nsecond\n")
    words.log_new_lines()
    assert words.read_last_lines() == "first\nsecond"
    say(words, "third\n")
    assert words.read_last_lines() == "first\nsecond\nthird"


def test_of_a_bar_of_progress_its_last_state_is_told(
    words: EngineOutput, caplog: pytest.LogCaptureFixture
) -> None:
    say(words, "\rloading 0%\rloading 50%\rloading 100%\n\n")
    assert told(words, caplog) == ["loading 100%"]


def test_lines_carry_the_ids_of_what_the_worker_does(
    words: EngineOutput, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(TextFormatter())
    say(words, "a warning of a library\n")
    with (
        log_context(experiment="mine", iteration=2, stage="judge", shard=3),
        caplog.at_level("INFO"),
    ):
        words.log_new_lines()
    assert "[experiment=mine iteration=2 stage=judge shard=3]: a warning of a library" in (
        caplog.text
    )


def test_a_line_without_an_end_does_not_wait_for_ever(
    words: EngineOutput, caplog: pytest.LogCaptureFixture
) -> None:
    """65,536 bytes are read at once; a line that is longer is told in pieces."""
    say(words, "x" * 65_536)
    assert [len(line) for line in told(words, caplog)] == [65_536]
