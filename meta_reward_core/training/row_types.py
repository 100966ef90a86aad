"""What a row of a training looks like. Light: files of rows are read without loading torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, TypeVar

from meta_reward_core.engines.base import Message


class PreferenceRow(TypedDict):
    """A pair in TRL's conversational form; `kind` and `prompt_id` name it, the rest rides along."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    kind: str
    prompt_id: str
    iteration: NotRequired[int]
    score_chosen: NotRequired[float]
    score_rejected: NotRequired[float]


class SftRow(TypedDict):
    """A prompt and the completion to be learned, in TRL's conversational form."""

    prompt: list[Message]
    completion: list[Message]
    kind: str
    prompt_id: str


TrainingRow = PreferenceRow | SftRow
Row_co = TypeVar("Row_co", covariant=True)


class RowIterable(Protocol[Row_co]):
    """Rows in an order, read as often as they are asked for; they need not lie in memory."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Row_co]: ...


@dataclass(frozen=True, slots=True)
class RowFile:
    """Rows in a file of a JSON object a line."""

    path: Path
    count: int

    @classmethod
    def write(cls, path: Path, rows: RowIterable[TrainingRow]) -> "RowFile":
        """Write rows into a new file."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return cls(path, len(rows))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[TrainingRow]:
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
