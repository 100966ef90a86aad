"""Errors as pages show them: cause and remedy in prose, apart from the traceback."""

import re
from dataclasses import dataclass
from typing import Final

_FRAME: Final = re.compile(r'\s+File "')
_CLASS: Final = re.compile(r"\A[A-Za-z_][\w.]*: (?=\S+ )")
"""Pattern of an exception's class name before a message of several words."""

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s")

_PLACE: Final = re.compile(r"\n\(shard \d+ of \w+, attempt \d+\)\s*\Z")
"""Last line of the message of a failed iteration; see `workers.pipeline.scheduling`."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """An error message.

    Attributes:
        cause: what went wrong and what to do, without the traceback.
        traceback: the whole message; empty if it has no traceback.
    """

    cause: str
    traceback: str = ""

    @property
    def what(self) -> str:
        """What went wrong: the first line of the cause."""
        return self.cause.partition("\n")[0]

    @property
    def remedy(self) -> str:
        """The further lines of the cause: details, and what to do."""
        return self.cause.partition("\n")[2]

    @property
    def headline(self) -> str:
        """The first sentence, for one line."""
        return _SENTENCE_END.split(self.what, maxsplit=1)[0].removesuffix(".")


def split_error(message: str) -> ErrorText:
    """Separate the cause from the traceback that precedes it."""
    text = _PLACE.sub("", message).strip()
    lines = text.splitlines()
    end = max((at for at, line in enumerate(lines) if _FRAME.match(line)), default=None)
    if end is None:
        return ErrorText(text)
    after = end + 1
    while after < len(lines) and lines[after].startswith(" "):
        after += 1  # the source line of the last frame, and marks below it
    return ErrorText(_CLASS.sub("", "\n".join(lines[after:]), count=1), text)
