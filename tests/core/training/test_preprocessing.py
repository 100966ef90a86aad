"""Rows are measured and sorted into files some at a time, once a job; none is lost."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.parquet import ParquetFile, ParquetWriter, read_table
from transformers import AutoTokenizer

from meta_reward_core.errors import TrainingError
from meta_reward_core.training.preprocessing import (
    TRAIN_FILE,
    VALIDATION_FILE,
    RowSplit,
    is_held_out,
    split_rows,
)
from meta_reward_core.training.row_encoding import RowEncoder
from meta_reward_core.training.row_types import PreferenceRow, RowIterable, TrainingRow
from meta_reward_core.training.trainer_factories import DPO
from tests.core.tiny_model import make_tokenizer
from tests.core.training.conftest import preference_row, preference_rows

ROWS = preference_rows(600)


class Watched:
    """A tokenizer that notes how many texts it was given at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: list[str], **named: Any) -> Any:
        self.texts.append(len(texts))
        return self._tokenizer(texts, **named)


def test_each_row_has_the_ids_that_it_has_alone(first_model: Path) -> None:
    """The ids of all rows at once took a gigabyte at 8,000 rows."""
    tokenizer: Any = AutoTokenizer.from_pretrained(first_model, local_files_only=True)
    watched: Any = Watched(tokenizer)
    encoded = list(RowEncoder(watched, end_ids=[2]).encode(ROWS))
    assert [one.row for one in encoded] == ROWS
    alone = RowEncoder(tokenizer, end_ids=[2])
    assert encoded == [next(alone.encode([row])) for row in ROWS]
    assert sum(watched.texts) == 3 * len(ROWS)
    assert max(watched.texts) < sum(watched.texts) / 2


class ReadOnce:
    """Rows that may be read a single time."""

    def __init__(self, rows: list[PreferenceRow]) -> None:
        self._rows = rows
        self.readings = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[PreferenceRow]:
        self.readings += 1
        assert self.readings == 1
        return iter(self._rows)


def sort(rows: RowIterable[TrainingRow], model: Path, folder: Path) -> RowSplit:
    return split_rows(
        rows,
        RowEncoder.build_for_model(
            AutoTokenizer.from_pretrained(model, local_files_only=True), model
        ),
        folder=folder,
        form=DPO.form,
        max_length=12,
        max_refused_share=0.5,
        validation_share=0.25,
    )


def prompts_of(file: Path) -> list[str]:
    """What users say, without the control tokens around it."""
    tokenizer = make_tokenizer()
    return [
        str(tokenizer.decode(ids, skip_special_tokens=True))
        for ids in read_table(file)["prompt_ids"].to_pylist()
    ]


def test_rows_are_sorted_into_files_in_their_order(first_model: Path, tmp_path: Path) -> None:
    long = {number for number in range(600) if number % 7 == 0}
    rows = [preference_row(n, reply="good " * 20 if n in long else "good") for n in range(600)]
    held = {row["prompt_id"] for row in rows if is_held_out(row["prompt_id"], share=0.25)}
    found = sort(rows, first_model, tmp_path)
    assert [row.prompt_id for row in found.refused] == [f"prompt-{n}" for n in sorted(long)]
    assert {row.reason for row in found.refused} == {"longer_than_max_length"}
    left = [row for number, row in enumerate(rows) if number not in long]
    for file, count, is_held in (
        (TRAIN_FILE, found.trained, False),
        (VALIDATION_FILE, found.held_out, True),
    ):
        wanted = [r["prompt"][0]["content"] for r in left if (r["prompt_id"] in held) == is_held]
        assert prompts_of(tmp_path / file) == wanted
        assert count == len(wanted) > 0
    assert ParquetFile(tmp_path / TRAIN_FILE).num_row_groups == 2, "written some at a time"


def test_a_job_sorts_its_rows_once(first_model: Path, tmp_path: Path) -> None:
    rows = ReadOnce([*ROWS[:20], preference_row(20, reply="good " * 20)])
    first = sort(rows, first_model, tmp_path)
    assert sort(rows, first_model, tmp_path) == first
    assert len(first.refused) == 1


def test_too_many_long_rows_stop_a_training_with_the_length_that_would_hold_them(
    first_model: Path, tmp_path: Path
) -> None:
    """`<user> word <eos> <assistant>` and 30 words with `<eos>`: more than 12 tokens."""
    rows = [preference_row(n, reply="good " * 30) for n in range(8)] + ROWS[:2]
    with pytest.raises(TrainingError) as caught:
        sort(rows, first_model, tmp_path)
    message = str(caught.value)
    assert "8 of 10 rows cannot be trained on" in message
    found = re.search(r"Set training\.max_length to (\d+) to train on all of them", message)
    assert found is not None
    longest = int(found[1])
    tokenizer = AutoTokenizer.from_pretrained(first_model, local_files_only=True)
    encoder = RowEncoder.build_for_model(tokenizer, first_model)
    assert max(encoded.length for encoded in encoder.encode(rows)) == longest > 30


@pytest.mark.parametrize("damage", ["no_note", "empty_note", "no_file", "half_a_file"])
def test_what_is_damaged_is_sorted_again(damage: str, first_model: Path, tmp_path: Path) -> None:
    found = sort(ROWS, first_model, tmp_path)
    note, file = tmp_path / "sorted.json", tmp_path / TRAIN_FILE
    whole = file.read_bytes()
    match damage:
        case "no_note":
            note.unlink()
            file.write_bytes(b"half")
        case "empty_note":
            note.write_bytes(b"")
        case "no_file":
            file.unlink()
        case _:
            file.write_bytes(whole[: len(whole) // 2])
    assert sort(ROWS, first_model, tmp_path) == found
    assert file.read_bytes() == whole


def test_a_full_disk_is_told_as_one(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        sort(ROWS, first_model, tmp_path)
    assert not (tmp_path / "sorted.json").exists()


def test_rows_that_cannot_be_read_are_missed(first_model: Path, tmp_path: Path) -> None:
    class Short(list[PreferenceRow]):
        def __len__(self) -> int:
            return 601

    with pytest.raises(TrainingError, match="600 of 601 rows could be read"):
        sort(Short(ROWS), first_model, tmp_path)
