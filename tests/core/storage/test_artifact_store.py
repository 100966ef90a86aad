"""Files are written whole, once; the first writer wins; a full disk is said plainly."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meta_reward_core.errors import ArtifactError, StorageFullError
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json, hash_json


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "root"))


def test_what_was_put_is_read_back(store: ArtifactStore) -> None:
    assert store.put_if_absent("a/b.bin", b"\x00\xff")
    assert store.read("a/b.bin") == b"\x00\xff"
    assert store.list_names("a") == ["b.bin"]


def test_the_first_writer_wins(store: ArtifactStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"


def test_of_many_writers_at_once_exactly_one_wins_and_its_bytes_stay(store: ArtifactStore) -> None:
    won: list[int] = []
    barrier = threading.Barrier(16)

    def write(number: int) -> None:
        barrier.wait()
        if store.put_if_absent("contested", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("contested") == str(won[0]).encode() * 1000
    assert store.list_names("") == ["contested"]


def test_a_missing_artifact_is_an_error_that_names_it(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="nothing-here"):
        store.read("nothing-here")


def test_deleting_what_is_not_there_is_no_error(store: ArtifactStore) -> None:
    store.delete("nothing-here")


def test_what_a_killed_writer_left_is_invisible_and_swept(store: ArtifactStore) -> None:
    store.put_if_absent("folder/whole", b"1")
    left = Path(store.get_path("folder/.partial-0123456789abcdef"))
    left.write_bytes(b"half")
    assert store.list_names("folder") == ["whole"]
    store.remove_partial_files("elsewhere")
    assert left.exists()
    store.remove_partial_files("folder")
    assert not left.exists()


def test_a_disk_that_fills_while_writing_leaves_nothing_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    program = """
import errno, os, sys
from meta_reward_core.storage import artifact_store
def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
store = artifact_store.ArtifactStore(sys.argv[1])
try:
    store.put_if_absent("a/b", b"x" * 100_000)
except artifact_store.StorageFullError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "no room left while writing" in found.stdout
    assert "META_REWARD_ARTIFACT_ROOT" in found.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_device_that_is_full_raises_storage_full(tmp_path: Path) -> None:
    from meta_reward_core.storage.artifact_store import explain_full_disk

    path = Path("/dev/full")
    with pytest.raises(StorageFullError), explain_full_disk(path), path.open("wb") as file:
        file.write(b"x" * 100_000)


def test_equal_values_have_equal_json_and_digest_whatever_the_order_of_keys() -> None:
    assert encode_canonical_json({"b": 1, "a": "é"}) == encode_canonical_json({"a": "é", "b": 1})
    assert hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1}) != hash_json({"a": 2, "b": 2})


def test_a_store_elsewhere_keeps_the_same_promises() -> None:
    store = ArtifactStore("memory://elsewhere")
    assert store.put_if_absent("a/b", b"1")
    assert not store.put_if_absent("a/b", b"2")
    assert store.read("a/b") == b"1"
    with pytest.raises(ArtifactError, match="not on this machine"):
        store.get_local_path("a/b")
