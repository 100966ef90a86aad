from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_reward_core.errors import ArtifactError
from meta_reward_core.output_files import write_whole


def test_a_file_that_is_written_replaces_one_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("before")
    write_whole(path, ["one\n", "two\n"])
    assert path.read_text() == "one\ntwo\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_text_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[str]:
        yield "one\n"
        raise KeyError("the second")

    with pytest.raises(KeyError, match="the second"):
        write_whole(tmp_path / "pairs.jsonl", chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written_nor_removed_is_refused_in_words(
    tmp_path: Path,
) -> None:
    """A read-only disk answers the removal of what is not there as a file in the path does."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    path = in_the_way / "pairs.jsonl"
    with pytest.raises(ArtifactError, match=f"{path} cannot be written: "):
        write_whole(path, ["one\n"])
