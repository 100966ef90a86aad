"""Models of the hub, fetched by the real client from a hub on this machine."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from meta_reward_core.errors import HubError, InputError, MetaRewardError, StorageFullError
from meta_reward_core.models import hf_download
from meta_reward_core.models.hf_download import fetch_model
from meta_reward_core.models.hf_hub import HubName, parse_hub_name, parse_pinned_name
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.base_model import resolve_base_model
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.hub_server import Hub, cutting, damaging, failing, holding

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
WORDS = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
WHOLE = WORDS | {"model.safetensors": b"weights " * 1000}
INDEX = json.dumps({"weight_map": {str(place): name for place, name in enumerate(SHARDS)}}).encode()
SHARDED = (
    WORDS
    | {"model.safetensors.index.json": INDEX}
    | {name: name.encode() * 1000 for name in SHARDS}
)


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: content for key, content in files.items() if key != name}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def fetch(
    name: str, root: Path, *, said: list[str] | None = None, token: str | None = None
) -> Path:
    found = parse_hub_name(name)
    assert found is not None
    return fetch_model(found, root, token=token, say=(list[str]() if said is None else said).append)


def seen(root: Path) -> list[str]:
    """Every file and folder below the root that is not hidden."""
    below = (path.relative_to(root) for path in root.rglob("*"))
    return sorted(str(path) for path in below if not any(part[0] == "." for part in path.parts))


def test_a_model_arrives_as_it_is_there_under_the_commit_that_its_branch_meant(
    hub: Hub, root: Path
) -> None:
    commit = hub.add(
        "org/tiny", {file.name: file.read_bytes() for file in get_shipped_seed_model().iterdir()}
    )
    said: list[str] = []
    folder = fetch("org/tiny", root, said=said)
    assert folder == root / "org" / f"tiny@{commit}"
    assert hash_model_folder(folder) == hash_model_folder(get_shipped_seed_model())
    assert said == [f"fetching org/tiny@{commit}, 2 MB"]
    assert not list(folder.rglob(".*"))


def test_the_same_commit_is_not_fetched_again_and_another_one_lies_beside_it(
    hub: Hub, root: Path
) -> None:
    first = hub.add("org/tiny", WHOLE)
    fetch("org/tiny", root)
    fetched, said = hub.fetched(), list[str]()
    assert fetch("org/tiny", root, said=said) == root / "org" / f"tiny@{first}"
    assert hub.fetched() == fetched
    assert said == [f"org/tiny is org/tiny@{first}, which is already on this machine"]
    changed = WHOLE | {"model.safetensors": b"other"}
    second = hub.repositories["org/tiny"].commit(changed, message="trained on")
    assert fetch("org/tiny", root).name == f"tiny@{second}"
    assert fetch(f"org/tiny@{first}", root).name == f"tiny@{first}"


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3"])
def test_a_revision_is_a_branch_a_tag_or_a_pull_request(
    hub: Hub, root: Path, revision: str
) -> None:
    hub.add("org/tiny", WORDS | {"pytorch_model.bin": b"a pickle"})
    commit = hub.repositories["org/tiny"].commit(WHOLE, message="safe", branch=revision)
    assert fetch(f"org/tiny@{revision}", root).name == f"tiny@{commit}"


def test_whoever_names_a_commit_that_lies_here_needs_no_hub(hub: Hub, root: Path) -> None:
    commit = hub.add("org/tiny", WHOLE)
    fetch("org/tiny", root)
    hub.shut()
    roots = StorageRoots("unused", root, root)
    recipe = Recipe(name="mine", model=f"org/tiny@{commit}")
    assert resolve_base_model(recipe, roots, say=print).folder.name == f"tiny@{commit}"


def test_of_all_files_only_those_that_a_model_is_loaded_from_are_fetched(
    hub: Hub, root: Path
) -> None:
    others = {
        "pytorch_model.bin": b"a pickle",
        "modeling_tiny.py": b"code",
        "training_args.pt": b"a pickle",
        "consolidated.safetensors": b"the same weights again",
        "original/params.json": b"{}",
        "original/consolidated.00.pth": b"a pickle",
        "README.md": b"# tiny",
        ".hidden.json": b"{}",
        "merges.txt": b"a b",
        "tokenizer.model": b"sentencepiece",
    }
    hub.add("org/tiny", SHARDED | others)
    folder = fetch("org/tiny", root)
    expected = sorted([*SHARDED, "merges.txt", "tokenizer.model"])
    assert sorted(file.name for file in folder.iterdir()) == expected
    assert sorted(hub.fetched()) == expected


PICKLED = WORDS | {"pytorch_model.bin": b"a pickle"}


@pytest.mark.parametrize(
    "name, files, message",
    [
        (
            "org/none",
            WHOLE,
            "has no model org/none, or it is private: check the spelling, or set HF_TOKEN",
        ),
        ("org/tiny@v9", WHOLE, "org/tiny has no branch, tag or commit 'v9'"),
        ("org/tiny", PICKLED, "only has weights as pickles .pytorch_model.bin.*refs/pr/NUMBER"),
        ("org/tiny", WORDS | {"tiny.gguf": b"x"}, "no safetensors weights"),
        ("org/tiny", {"model.safetensors": b"x"}, "has no config.json"),
        ("org/tiny", {"adapter_config.json": b"{}"}, "an adapter"),
        ("org/tiny", WHOLE | {"config.json": b'{"auto_map": {}}'}, "^org/tiny@.*auto_map"),
        ("org/tiny", without(WHOLE, "chat_template.jinja"), "^org/tiny@.* has no chat template"),
        ("org/tiny", without(SHARDED, SHARDS[1]), f"lacks weights: {SHARDS[1]}"),
    ],
)
def test_what_may_not_be_loaded_is_refused_before_its_weights_are_fetched(
    hub: Hub, root: Path, name: str, files: dict[str, bytes], message: str
) -> None:
    hub.add("org/tiny", files)
    with pytest.raises(InputError, match=message) as caught:
        fetch(name, root)
    assert caught.value.exit_code == 2
    assert not [file for file in hub.fetched() if file.endswith(".safetensors")]
    assert seen(root) in ([], ["org"])
    assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize("token", [None, "hf_reader_of_other_things"])
def test_a_gated_model_says_whose_conditions_to_accept(
    hub: Hub, root: Path, token: str | None
) -> None:
    hub.add("org/tiny", WHOLE, gated=True)
    hub.writers["hf_reader_of_other_things"] = set()
    with pytest.raises(InputError, match="org/tiny is gated: accept its conditions there"):
        fetch("org/tiny", root, token=token)
    assert not list(root.rglob("*.partial"))
    hub.readers.add("hf_reader")
    assert fetch("org/tiny", root, token="hf_reader").is_dir()


def test_a_private_model_is_hidden_from_whoever_has_no_token(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", WHOLE, private=True)
    hub.readers.add("hf_reader")
    with pytest.raises(InputError, match="or it is private"):
        fetch("org/tiny", root)
    assert fetch("org/tiny", root, token="hf_reader").is_dir()


def test_a_token_that_the_hub_does_not_know_is_said_to_be_wrong_and_not_shown(
    hub: Hub, root: Path
) -> None:
    hub.add("org/tiny", WHOLE)
    with pytest.raises(InputError, match="rejected HF_TOKEN") as caught:
        fetch("org/tiny", root, token="hf_mistyped")
    assert "hf_mistyped" not in str(caught.value)


def test_a_token_of_the_environment_is_the_clients_own_matter(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", WHOLE, private=True)
    hub.readers.add("hf_reader")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert fetch("org/tiny", root).is_dir()


def test_without_an_answer_it_is_said_what_lies_here(hub: Hub, root: Path) -> None:
    commit = hub.add("org/tiny", WHOLE)
    fetch("org/tiny", root)
    hub.shut()
    with pytest.raises(HubError, match="does not respond") as caught:
        fetch("org/tiny", root)
    for words in (hub.address, "HF_ENDPOINT", f"Available offline: org/tiny@{commit}"):
        assert words in str(caught.value)
    with pytest.raises(HubError, match="does not respond") as caught:
        fetch("org/other", root)
    assert "Available offline" not in str(caught.value)


def test_offline_the_hub_is_not_asked(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch("org/tiny", root)
    assert hub.asked == []


def test_a_hub_that_fails_is_said_to_and_may_be_asked_again(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", WHOLE)
    hub.faults.append(failing(503, "/api/models/", times=1))
    with pytest.raises(HubError, match="answered 503 for org/tiny") as caught:
        fetch("org/tiny", root)
    assert caught.value.retryable
    assert fetch("org/tiny", root).is_dir()


def test_what_is_no_commit_names_no_folder(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", WHOLE)
    repository = hub.repositories["org/tiny"]
    repository.commits["../../elsewhere"] = repository.files()
    repository.names["main"] = "../../elsewhere"
    with pytest.raises(HubError, match="may not be a Hub"):
        fetch("org/tiny", root)
    assert not root.exists()


def test_a_cut_goes_on_where_it_was(hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)
    hub.add("org/tiny", WHOLE)
    hub.faults.append(cutting(hub, "model.safetensors", after=100))
    assert (fetch("org/tiny", root) / "model.safetensors").read_bytes() == b"weights " * 1000
    assert [one.headers["range"] for one in hub.asked if "range" in one.headers] == ["bytes=100-"]


def test_bytes_that_the_commit_does_not_name_are_fetched_anew(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", SHARDED)
    hub.faults.append(damaging(hub, SHARDS[1]))
    with pytest.raises(HubError, match=f"{SHARDS[1]} of org/tiny@.* differs"):
        fetch("org/tiny", root)
    assert seen(root) == ["org"]
    hub.faults.clear()
    hub.asked.clear()
    folder = fetch("org/tiny", root)
    assert hub.fetched() == [SHARDS[1]]
    assert (folder / SHARDS[1]).read_bytes() == SHARDED[SHARDS[1]]


FETCHING = """\
import sys
from pathlib import Path
from meta_reward_core.models.hf_hub import HubName
from meta_reward_core.models.hf_download import fetch_model
fetch_model(HubName("org/tiny"), Path(sys.argv[1]), token=None, say=print)
"""


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_download_that_was_killed_is_no_model_and_goes_on(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", SHARDED)
    goes_on = threading.Event()
    hub.faults.append(holding(SHARDS[1], goes_on))
    process = subprocess.Popen([sys.executable, "-c", FETCHING, str(root)], env=os.environ)
    wait_until(lambda: SHARDS[1] in hub.fetched())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert seen(root) == ["org"]
    assert list(root.rglob("*.incomplete"))
    goes_on.set()
    hub.asked.clear()
    folder = fetch("org/tiny", root)
    assert hub.fetched() == SHARDS[1:]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == SHARDED
    assert not list(root.rglob("*.incomplete"))


def test_a_long_download_says_how_far_it_is(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_download, "_PROGRESS_SECONDS", 0.01)
    goes_on, said, threads = threading.Event(), list[str](), set[int]()
    files = SHARDED | {shard: bytes([number]) * 1_000_000 for number, shard in enumerate(SHARDS)}
    name = "org/tiny@" + hub.add("org/tiny", files)
    hub.faults.append(holding(SHARDS[2], goes_on))

    def say(text: str) -> None:
        said.append(text)
        threads.add(threading.get_ident())
        if "fetched 2 of" in text:
            goes_on.set()

    fetch_model(HubName("org/tiny"), root, token=None, say=say)
    assert said[0] == f"fetching {name}, 3 MB"
    assert f"fetched 2 of 3 MB of {name}" in said
    assert len(said) <= 11
    assert threads == {threading.get_ident()}


def test_too_little_room_is_found_before_the_weights_are_fetched(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    hub.add("org/tiny", WHOLE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(StorageFullError, match="free space or move META_REWARD_MODEL_ROOT"):
        fetch("org/tiny", root)
    assert "model.safetensors" not in hub.fetched()
    assert not list(root.rglob("*.partial"))


def test_a_disk_that_fills_up_leaves_nothing(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add("org/tiny", WHOLE)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(StorageFullError, match="no room left for org/tiny@") as caught:
        fetch("org/tiny", root)
    assert caught.value.exit_code == 4
    assert not list(root.rglob("*.partial"))


def test_a_root_that_cannot_be_written_is_named(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", WHOLE)
    root.write_text("no folder")
    with pytest.raises(InputError, match=f"cannot write {root}/org .* META_REWARD_MODEL_ROOT"):
        fetch("org/tiny", root)


def test_two_at_once_fetch_a_model_once(hub: Hub, root: Path) -> None:
    hub.add("org/tiny", WHOLE)
    goes_on, folders, said = threading.Event(), list[Path](), list[str]()
    hub.faults.append(holding("model.safetensors", goes_on))
    threads = [
        threading.Thread(target=lambda: folders.append(fetch("org/tiny", root, said=said)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: any("another process is downloading org/tiny@" in line for line in said))
    goes_on.set()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert hub.fetched().count("model.safetensors") == 1


@pytest.mark.parametrize(
    "text, expected",
    [
        ("org/name", HubName("org/name")),
        ("org/name@main", HubName("org/name", "main")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        ("0rg.x/n-a_m.e@v1.0", HubName("0rg.x/n-a_m.e", "v1.0")),
        *((text, None) for text in ("name", "a/b/c", "../b", "a/..b", "/a/b", "a/b@", "a/b@../c")),
        *((text, None) for text in ("a/b@c/", "a/b@c//d", "a/b@c@d", "a/b@-c", "a b/c", "a/b\n")),
    ],
)
def test_a_name_of_the_hub_is_read(text: str, expected: HubName | None) -> None:
    assert parse_hub_name(text) == expected
    assert expected is None or str(expected) == text


def test_a_folder_tells_what_it_holds_only_if_it_names_a_commit() -> None:
    commit = "0123456789" * 4
    assert parse_pinned_name(f"/models/org/name@{commit}") == HubName("org/name", commit)
    assert parse_pinned_name("/models/org/name@main") is None
    assert parse_pinned_name("/models/org/name") is None
    assert parse_pinned_name("m0") is None


def test_without_a_recipes_model_the_hub_is_named_among_what_to_do(root: Path) -> None:
    recipe = Recipe(name="mine", model="a/b/c")
    with pytest.raises(MetaRewardError, match="org/name@revision"):
        resolve_base_model(recipe, StorageRoots("unused", root, root), say=print)
