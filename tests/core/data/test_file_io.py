from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_reward_core.data.file_io import create_output_folder, write_atomically
from meta_reward_core.errors import ArtifactError, InputError


def test_a_file_that_is_written_replaces_one_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("before")
    write_atomically(path, ["one\n", "two\n"])
    assert path.read_text() == "one\ntwo\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_text_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[str]:
        yield "one\n"
        raise KeyError("the second")

    with pytest.raises(KeyError, match="the second"):
        write_atomically(tmp_path / "pairs.jsonl", chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written_nor_removed_is_refused_in_words(
    tmp_path: Path,
) -> None:
    """A read-only disk answers the removal of what is not there as a file in the path does."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    path = in_the_way / "pairs.jsonl"
    with pytest.raises(ArtifactError, match=f"{path} cannot be written: "):
        write_atomically(path, ["one\n"])


def refuse_in(folder: Path, *, after_writing: bool) -> None:
    with create_output_folder(folder):
        if after_writing:
            (folder / "kept").touch()
        raise InputError("experiment 'no' does not exist")


@pytest.mark.parametrize("after_writing", [False, True])
def test_who_refuses_leaves_no_empty_folder(tmp_path: Path, *, after_writing: bool) -> None:
    out = tmp_path / "evaluations" / "first"
    with pytest.raises(InputError, match="experiment 'no' does not exist"):
        refuse_in(out, after_writing=after_writing)
    assert out.exists() is after_writing


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="experiment 'no' does not exist"):
        refuse_in(tmp_path, after_writing=False)
    assert tmp_path.is_dir()


def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with (
        pytest.raises(
            InputError, match=f"{in_the_way} could not be created: .*; choose another folder"
        ),
        create_output_folder(in_the_way),
    ):
        pytest.fail("the folder was used")
