"""A model folder is checked before anything loads it, with one clear message per fault."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_reward_core.errors import ModelFolderError
from meta_reward_core.models.validation import check_model_folder, hash_model_folder


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "m")


def test_a_whole_folder_inside_a_root_passes(model: Path) -> None:
    assert check_model_folder(model, allowed_roots=[model.parent]) == model.resolve()


def test_numbers_that_transformers_writes_for_no_limit_are_read(model: Path) -> None:
    """Most tokenizers that are saved without a limit have this one: int(1e30)."""
    text = f'{{"model_max_length": {int(1e30)}, "scale": Infinity}}'
    (model / "tokenizer_config.json").write_text(text)
    assert check_model_folder(model, allowed_roots=[model.parent]) == model.resolve()


def test_a_link_to_a_folder_inside_a_root_is_resolved(model: Path) -> None:
    link = model.parent / "latest"
    link.symlink_to(model)
    assert check_model_folder(link, allowed_roots=[model.parent]) == model.resolve()


def _add(name: str, text: str = "x") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return change


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _only_half_of_the_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    "change, message",
    [
        (_remove("config.json"), "has no config.json"),
        (_remove("model.safetensors"), "no safetensors weights"),
        (_only_half_of_the_shards, "lacks weights: model-00002-of-00002"),
        (_remove("chat_template.jinja"), "no chat template"),
        (_add("pytorch_model.bin"), "may be a pickle"),
        (_add("rng_state.PTH"), "may be a pickle"),
        (_add("original/consolidated.00.pth"), "may be a pickle"),
        (_add("optimizer.pt"), "may be a pickle"),
        (_add("modeling_mine.py"), "custom model code"),
        (_add("config.json", '{"auto_map": {"AutoModel": "x.Y"}}'), "auto_map"),
        (_add("tokenizer_config.json", '{"auto_map": {}}'), "auto_map"),
        (_add("config.json", "{"), "is not valid JSON"),
        (_add("config.json", "[]"), "one JSON object"),
        (_add("adapter_config.json", "{}"), "an adapter"),
    ],
)
def test_each_fault_has_its_message(
    model: Path, change: Callable[[Path], None], message: str
) -> None:
    change(model)
    with pytest.raises(ModelFolderError, match=message):
        check_model_folder(model, allowed_roots=[model.parent])


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json"])
def test_a_chat_template_may_stand_in_json(model: Path, name: str) -> None:
    (model / "chat_template.jinja").unlink()
    (model / name).write_text('{"chat_template": "{{ messages }}"}')
    check_model_folder(model, allowed_roots=[model.parent])


def test_an_absent_folder_and_a_file_are_told_apart(model: Path) -> None:
    with pytest.raises(ModelFolderError, match="There is no model folder at"):
        check_model_folder(model / "absent", allowed_roots=[model])
    with pytest.raises(ModelFolderError, match="is a file"):
        check_model_folder(model / "config.json", allowed_roots=[model])


def test_a_folder_outside_every_root_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="is outside the allowed model folders"):
        check_model_folder(model, allowed_roots=[tmp_path / "models" / "other", tmp_path / "else"])
    with pytest.raises(ModelFolderError, match=r"is outside the allowed model folders \(none\)"):
        check_model_folder(model, allowed_roots=[])


@pytest.mark.parametrize("name", ["nothing", "file", "folder", "circle", "folder/closed/x"])
def test_what_lies_outside_is_refused_in_the_same_words_whatever_it_is(
    model: Path, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "outside"
    (place / "folder" / "closed").mkdir(parents=True)
    (place / "folder" / "closed").chmod(0)
    (place / "file").write_text("x")
    (place / "circle").symlink_to(place / "circle")
    for path in (place / name, model.parent / ".." / "outside" / name):
        with pytest.raises(ModelFolderError) as caught:
            check_model_folder(path, allowed_roots=[model.parent])
        said = str(caught.value).replace(str(path), "IT")
        assert said.startswith(f"IT is outside the allowed model folders ({model.parent}): move")


def test_a_circle_of_links_in_a_folder_is_refused(model: Path) -> None:
    (model / "circle").symlink_to(model / "circle")
    with pytest.raises(ModelFolderError, match="a broken link"):
        check_model_folder(model, allowed_roots=[model.parent])
    (model / "circle").unlink()
    (model / "circle").symlink_to(model.parent / ".." / "circle")
    (model.parent.parent / "circle").symlink_to(model.parent.parent / "circle")
    with pytest.raises(ModelFolderError, match="leads to"):
        check_model_folder(model, allowed_roots=[model.parent])


@pytest.mark.parametrize(
    "weights", ['["a"]', '{"a": 1}', '{"a": "../../secret"}', '{"a": "/etc/passwd"}']
)
def test_an_index_names_no_files_elsewhere(model: Path, weights: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {weights}}}')
    with pytest.raises(ModelFolderError, match="must list files in its own folder"):
        check_model_folder(model, allowed_roots=[model.parent])


def test_a_link_inside_a_root_to_a_folder_outside_is_refused(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "m").symlink_to(model)
    with pytest.raises(ModelFolderError, match="is outside the allowed"):
        check_model_folder(root / "m", allowed_roots=[root])


def test_dots_do_not_lead_out_of_a_root(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ModelFolderError, match="is outside the allowed"):
        check_model_folder(root / ".." / "models" / "m", allowed_roots=[root])


def test_a_file_that_links_out_of_the_roots_is_refused(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (model / "vocab.json").symlink_to(secret)
    with pytest.raises(ModelFolderError, match=r"vocab.json leads to .*secret"):
        check_model_folder(model, allowed_roots=[model.parent])


def test_a_snapshot_of_the_hugging_face_cache_passes(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in sorted(model.iterdir()):
        blob = blobs / f"hash-of-{file.name}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    assert check_model_folder(snapshot, allowed_roots=[tmp_path / "hub"]) == snapshot.resolve()
    with pytest.raises(ModelFolderError, match="leads to"):
        check_model_folder(snapshot, allowed_roots=[snapshot])


def test_the_hash_names_contents_and_names(model: Path, tmp_path: Path) -> None:
    same = hash_model_folder(write_model(tmp_path / "copy"))
    assert hash_model_folder(model) == same
    (model / ".cache").mkdir()
    (model / ".cache" / "note").write_text("downloaded today")
    assert hash_model_folder(model) == same, "hidden files do not count"
    (model / "config.json").rename(model / "konfig.json")
    assert hash_model_folder(model) != same


def test_the_hash_follows_links(model: Path, tmp_path: Path) -> None:
    before = hash_model_folder(model)
    blob = tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(blob)
    assert hash_model_folder(model) == before


def test_checking_a_folder_loads_no_model_library() -> None:
    script = (
        "import sys, meta_reward_core.models.validation;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
