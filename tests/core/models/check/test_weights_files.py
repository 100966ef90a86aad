"""Safetensors files are told from everything else that a download leaves, by their headers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_reward_core.models.check.result import Level
from meta_reward_core.models.check.weights_files import (
    UnreadableWeightsError,
    read_header,
    read_weights,
)
from tests.model_files import write_safetensors

TENSORS = {"a.weight": ("F32", (3, 4)), "b.weight": ("BF16", (5,)), "c": ("F32", ())}
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

WEIGHT_MAP = {"a.weight": FIRST, "b.weight": FIRST, "c.weight": SECOND}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "model.safetensors", TENSORS)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / FIRST, {"a.weight": ("F32", (3, 4)), "b.weight": ("F32", (2,))})
    write_safetensors(tmp_path / SECOND, {"c.weight": ("F32", (2, 2))})
    write_index(tmp_path, WEIGHT_MAP)
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_names_formats_and_shapes_are_read(single: Path) -> None:
    tensors, checks = read_weights(single)
    assert {name: (one.dtype, one.shape) for name, one in tensors.items()} == TENSORS
    assert [(check.level, check.message) for check in checks] == [
        (Level.GREEN, "1 file, 3 tensors")
    ]


def test_our_reader_agrees_with_the_library(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = write_safetensors(tmp_path / "model.safetensors", TENSORS)
    with safe_open(file, framework="np") as theirs:
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in list(theirs.keys())}
    assert shapes == {name: one.shape for name, one in read_header(file).items()}


def _cut(count: int) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[:-count])  # type: ignore[return-value]


def _replace(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content)  # type: ignore[return-value]


def _write_raw(header: object, size: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        data = json.dumps(header).encode()
        file.write_bytes(len(data).to_bytes(8, "little") + data + bytes(size))

    return change


def _entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        (_cut(1), "is truncated: ", "download this file again"),
        (_cut(70), "is truncated", "download this file again"),
        (lambda file: file.write_bytes(file.read_bytes()[:40]), "truncated within", "download"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "is damaged", "download"),
        (_replace(b""), "is truncated: 0 bytes", "download"),
        (_replace(b"version https://git-lfs.github.com/spec/v1\noid x"), "LFS pointer", "git lfs"),
        (_replace(b"<!DOCTYPE html><html>"), "a web page", "download"),
        (_replace(b"PK\x03\x04 and so on, a zip file"), "PyTorch pickle", "convert"),
        (_replace(b"\x80\x02}q\x00 and so on, a pickle"), "a pickle", "convert"),
        (_replace(b"GGUF\x03\x00\x00\x00 and so on"), "a GGUF file", "safetensors version"),
        (_replace(b"nothing that anybody knows at all"), "not a safetensors file", "download"),
        (_replace((30).to_bytes(8, "little") + b"{" * 30), "damaged header", "download"),
        (_write_raw({"a": _entry(0, 16, [3])}, 16), "damaged header at a", "download"),
        (_write_raw({"a": {"dtype": "F32"}}, 0), "damaged header at a", "download"),
        (_write_raw({"a": _entry(0, 4, [1], "Q4")}, 4), "unknown number format 'Q4'", "original"),
        (
            _write_raw({"a": _entry(0, 8, [2]), "b": _entry(4, 12, [2])}, 12),
            "tensors overlap",
            "download",
        ),
    ],
)  # fmt: skip
def test_each_damage_is_named_with_its_remedy(
    single: Path, change: Callable[[Path], None], message: str, remedy: str
) -> None:
    file = single / "model.safetensors"
    change(file)
    with pytest.raises(UnreadableWeightsError) as caught:
        read_header(file)
    check = caught.value.check
    assert (check.level, check.file) == (Level.RED, "model.safetensors")
    assert message in check.message
    assert remedy in check.remedy


def test_a_header_whose_length_begins_like_another_format_is_read(tmp_path: Path) -> None:
    """Headers of 60 and 128 bytes begin with `<` and with a pickle's first byte."""
    for length in (0x3C, 0x80):
        text = json.dumps({"a": _entry(0, 4, [1])}, separators=(",", ":"))
        data = text.encode().ljust(length)
        file = tmp_path / f"{length}.safetensors"
        file.write_bytes(length.to_bytes(8, "little") + data + bytes(4))
        assert list(read_header(file)) == ["a"]


def test_shards_and_their_index_are_read(sharded: Path) -> None:
    tensors, checks = read_weights(sharded)
    assert sorted(tensors) == ["a.weight", "b.weight", "c.weight"]
    assert tensors["c.weight"].file == SECOND
    assert [check.message for check in checks] == ["2 files, 3 tensors"]


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        (lambda folder: (folder / SECOND).unlink(), SECOND, "1 of 2 files of the index"),
        (lambda folder: _cut(1)(folder / SECOND), SECOND, "is truncated"),
        (
            lambda folder: write_index(folder, WEIGHT_MAP | {"a.weight": SECOND}),
            INDEX, "a.weight is not in the file that the index specifies",
        ),
        (
            lambda folder: write_index(folder, {"a.weight": FIRST, "c.weight": SECOND}),
            INDEX, "does not list b.weight",
        ),
        (
            lambda folder: write_index(folder, WEIGHT_MAP | {"d": SECOND}),
            INDEX, "d is not in the file",
        ),
        (
            lambda folder: write_index(folder, {"a": "../else.safetensors"}),
            INDEX, "not a file in this folder",
        ),
        (lambda folder: write_index(folder, {}), INDEX, "does not list any files"),
        (lambda folder: (folder / INDEX).write_text("[]"), INDEX, "not an index"),
        (lambda folder: (folder / INDEX).unlink(), "model.safetensors", "does not exist"),
        (
            lambda folder: write_safetensors(folder / SECOND, {"a.weight": ("F32", (2, 2))}),
            SECOND, "a.weight is also in",
        ),
    ],
)  # fmt: skip
def test_an_index_that_does_not_match_is_refused(
    sharded: Path, change: Callable[[Path], None], file: str, message: str
) -> None:
    change(sharded)
    checks = read_weights(sharded)[1]
    assert [check.level for check in checks] == [Level.RED]
    assert message in checks[0].message
    assert checks[0].file == file
    assert checks[0].remedy


def test_weights_that_are_not_read_are_noted(single: Path) -> None:
    write_safetensors(single / "consolidated.safetensors", TENSORS)
    note = read_weights(single)[1][-1]
    assert (note.level, note.file) == (Level.AMBER, "consolidated.safetensors")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {})
    assert read_weights(tmp_path)[1][0].message == "contains no tensors"
