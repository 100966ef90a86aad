"""What finished shards promise: the same just after publishing and read from manifests."""

import json
from pathlib import Path

import pytest

from meta_reward_core.errors import ArtifactError
from meta_reward_core.storage.artifact_store import ArtifactStore, hash_json
from meta_reward_core.storage.schemas import SCHEMA_VERSION, SCHEMAS, WRITERS, build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput, compute_shard_key


def open_files(root: Path) -> IterationFiles:
    return IterationFiles(ArtifactStore(str(root)), "mine/iteration-1")


def publish(files: IterationFiles, *parts: int) -> None:
    """A sample stage that made these parts of the prompts."""
    tables = {
        ("prompts", part): build_table(
            "prompts", [{"prompt_id": f"p{part}", "text": f"text {part}"}]
        )
        for part in parts
    }
    files.publish("sample", 0, key="key", work=StageOutput(tables), packages={})


@pytest.mark.parametrize("part", [None, 0, 1, 2])
def test_inputs_have_the_digest_that_the_manifests_say(tmp_path: Path, part: int | None) -> None:
    made = open_files(tmp_path)
    publish(made, 0, 1)
    read = open_files(tmp_path)
    assert made.hash_inputs(["prompts"], part) == read.hash_inputs(["prompts"], part)
    assert (
        made.list_partition_numbers("prompts") == read.list_partition_numbers("prompts") == [0, 1]
    )
    assert made.read("prompts", 1)["prompt_id"].to_pylist() == ["p1"]


def test_a_shard_that_is_made_again_no_longer_promises_what_it_did(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    publish(files, 0, 1)
    with_both = files.hash_inputs(["prompts"])
    files.discard("sample", 0)
    assert files.list_partition_numbers("prompts") == []
    publish(files, 0)
    assert files.list_partition_numbers("prompts") == [0]
    assert files.hash_inputs(["prompts"]) == open_files(tmp_path).hash_inputs(["prompts"])
    assert files.hash_inputs(["prompts"]) != with_both
    assert files.read("prompts", 1).num_rows == 0


def test_a_manifest_that_is_discarded_while_all_are_read_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody follows an iteration whose damaged shards the workers make again."""
    publish(open_files(tmp_path), 0)
    list_names = ArtifactStore.list_names

    def list_and_lose(store: ArtifactStore, folder: str) -> list[str]:
        names = list_names(store, folder)
        for name in names:
            store.delete(f"{folder}/{name}")
        return names

    monkeypatch.setattr(ArtifactStore, "list_names", list_and_lose)
    assert open_files(tmp_path).list_manifests() == []


def test_a_manifest_that_is_there_and_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(open_files(tmp_path), 0)

    def refuse(store: ArtifactStore, name: str) -> bytes:
        raise ArtifactError(f"cannot read {name} of {store.root}: permission denied")

    monkeypatch.setattr(ArtifactStore, "read", refuse)
    with pytest.raises(ArtifactError, match="permission denied"):
        open_files(tmp_path).list_manifests()


def test_a_shard_reads_the_manifests_of_its_own_part_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each shard: reading those of all shards would be a million requests for a thousand."""
    made = open_files(tmp_path)
    publish(made, *range(50))
    for part in range(50):
        tables = {("responses", part): build_table("responses", [])}
        made.publish("generate", part, key=f"key {part}", work=StageOutput(tables), packages={})
    asked: list[str] = []
    read = ArtifactStore.read

    def read_and_count(store: ArtifactStore, name: str) -> bytes:
        asked.append(name.rpartition("/")[2])
        return read(store, name)

    monkeypatch.setattr(ArtifactStore, "read", read_and_count)
    files = open_files(tmp_path)
    files.hash_inputs(["prompts", "responses"], 7)
    assert files.find_finished("judge", 7, "key") is None
    assert set(asked) == {
        "sample-00007.json",  # is not there: one shard has written all parts
        "sample-00000.json",
        "generate-00007.json",
        "judge-00007.json",
    }
    asked.clear()
    assert files.list_partition_numbers("prompts") == list(range(50))
    assert asked == []  # nothing else writes prompts, and this was read already


def test_who_has_read_all_manifests_sees_that_moment_and_asks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's reader is kept, and asks often for parts of stages that are not made yet."""
    made = open_files(tmp_path)
    publish(made, 0, 1)
    files = open_files(tmp_path)
    files.gather()
    work = StageOutput({("responses", 1): build_table("responses", [])})
    made.publish("generate", 1, key="key", work=work, packages={})

    def refuse(store: ArtifactStore, name: str) -> bytes:
        pytest.fail(f"{name} was asked for")

    monkeypatch.setattr(ArtifactStore, "read", refuse)
    assert files.find_partition("responses", 1) is None
    assert files.find_manifest("judge", 0) is None
    assert files.find_partition("prompts", 1) is not None
    assert files.has_manifests()
    assert open_files(tmp_path / "elsewhere").has_manifests() is False


def test_a_manifest_that_appears_while_it_is_looked_for_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else finishes the shard: no error, it is only not seen."""
    read = ArtifactStore.read

    def read_and_write(store: ArtifactStore, name: str) -> bytes:
        try:
            return read(store, name)
        finally:
            store.put_if_absent(name, b"{}")

    monkeypatch.setattr(ArtifactStore, "read", read_and_write)
    assert open_files(tmp_path).find_manifest("judge", 3) is None


def test_a_part_that_nobody_would_find_is_not_written(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    work = StageOutput({("responses", 3): build_table("responses", [])})
    with pytest.raises(
        ValueError, match="shard 2 of 'generate' does not write part 3 of 'responses'"
    ):
        files.publish("generate", 2, key="key", work=work, packages={})
    with pytest.raises(ValueError, match="shard 3 of 'judge' does not write part 3 of 'responses'"):
        files.publish("judge", 3, key="key", work=work, packages={})
    assert list(tmp_path.iterdir()) == []


def test_what_else_lies_beside_the_manifests_is_none(tmp_path: Path) -> None:
    publish(open_files(tmp_path), 0)
    folder = tmp_path / "mine" / "iteration-1" / "manifests"
    for name in ("notes.txt", "sample.json", "sample-1.json", "sample-00001.json"):
        (folder / name).write_text("no manifest")
    assert [made.shard for made in open_files(tmp_path).list_manifests()] == [0]


def test_every_table_has_a_writer() -> None:
    assert WRITERS.keys() == SCHEMAS.keys()


def test_a_manifest_of_the_version_before_counts_and_one_of_a_later_version_does_not(
    tmp_path: Path,
) -> None:
    publish(open_files(tmp_path), 0)
    path = tmp_path / "mine" / "iteration-1" / "manifests" / "sample-00000.json"
    written = json.loads(path.read_text())
    assert written["schema"] == SCHEMA_VERSION == 2
    for schema, parts in ((1, [0]), (2, [0]), (3, [])):
        path.write_text(json.dumps(written | {"schema": schema}))
        assert open_files(tmp_path).list_partition_numbers("prompts") == parts


def test_the_key_of_a_shard_is_what_version_1_said_it_was() -> None:
    """Else every shard that is finished would be made again, and a model trained anew."""
    assert compute_shard_key(stage="pool") == hash_json({"schema": 1, "stage": "pool"})
