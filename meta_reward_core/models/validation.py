"""Requirements for a model folder before loading, and its hash.

An unchecked model folder is as dangerous as code: pickles run on load, `auto_map` names Python
files, links can lead anywhere. This module loads neither torch nor transformers, so that the site
can use it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meta_reward_core.errors import MalformedInputError, ModelFolderError
from meta_reward_core.system.untrusted_input import parse_json

PICKLE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz"}
)
_MODEL_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".tiktoken"})
_LFS_POINTER = b"version https://git-lfs"
_TEXT_SUFFIXES = frozenset({".json", ".jinja", ".txt"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_OBJECTS = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
WEIGHTS_FILE = "model.safetensors"
ADAPTER_FOLDER = "adapter"
"""Subfolder of a model folder with the adapter that was merged into its weights, if it was kept."""
WEIGHTS_INDEX = "model.safetensors.index.json"
INHERITED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that a checkpoint copies unchanged from the base model: training changes only weights."""


def hash_model_folder(path: Path) -> str:
    """Return the SHA-256 over names and contents of all files of a folder, sorted by name.

    Hidden files and folders are ignored, because download tools store metadata there.
    """
    return hash_model_files(
        {file.relative_to(path).as_posix(): hash_file(file) for file in iter_visible_files(path)}
    )


def hash_model_files(hashes: Mapping[str, str]) -> str:
    """Return the same hash from the hashes of the files by name."""
    total = hashlib.sha256()
    for name, sha256 in sorted(hashes.items()):
        total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


def check_model_folder(path: Path, *, allowed_roots: Sequence[Path]) -> Path:
    """Return the resolved folder if it can be loaded.

    Links are followed within the allowed roots: a snapshot in the Hugging Face cache, whose files
    are links to blobs of the cache, is accepted if the cache is an allowed root.

    Raises:
        ModelFolderError: the path is missing, is not a folder or is outside the roots; or the
            folder is incomplete or contains code.
    """
    # Check the location first, so that a request reveals nothing about files outside the roots.
    folder, roots = _follow_links(path), [_follow_links(root) for root in allowed_roots]
    _check_inside(folder, roots, named=path)
    if not folder.exists():
        raise ModelFolderError(
            f"There is no model folder at {path}.",
            file=str(path),
            problem="the folder does not exist",
            remedy="check the name, or download the model",
        )
    if not folder.is_dir():
        raise ModelFolderError.from_parts(
            path, "is a file", "specify the folder that contains config.json"
        )
    for file in iter_visible_files(folder):
        _check_inside(_follow_links(file), roots, named=file, is_part=True)
        _check_harmless(file)
        if not file.is_file():
            raise ModelFolderError.from_parts(
                file, "is a broken link or not a regular file", "remove the file"
            )
        _check_content(file)
    check_non_weight_files(folder)
    _check_weights(folder)
    return folder


def check_non_weight_files(folder: Path) -> None:
    """Check all files of a model folder except the weights.

    Raises:
        ModelFolderError: it requires code, is incomplete, or does not have a chat template.
    """
    _check_config(folder)
    _check_chat_template(folder)


def read_weights_index(folder: Path) -> set[str]:
    """Return the files in the index of a model's weights; empty without an index.

    Raises:
        ModelFolderError: the file is not a weights index, or it lists files outside the folder.
    """
    weights = _read_json(folder / WEIGHTS_INDEX).get("weight_map", {})
    names: list[Any] = list(weights.values()) if isinstance(weights, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelFolderError.from_parts(
            folder / WEIGHTS_INDEX,
            "must list files in its own folder as weights (weight_map)",
            "download it again",
        )
    return set(names)


def iter_visible_files(folder: Path) -> Iterator[Path]:
    """Yield every visible file and link below `folder`, sorted by relative path."""
    for entry in sorted(folder.rglob("*"), key=lambda item: item.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in entry.relative_to(folder).parts)
        if not hidden and (entry.is_symlink() or not entry.is_dir()):
            yield entry


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _follow_links(path: Path) -> Path:
    """Resolve a path; a link cycle resolves to itself (`Path.resolve` raises there)."""
    return Path(os.path.realpath(path))


def _check_inside(
    target: Path, roots: Sequence[Path], *, named: Path, is_part: bool = False
) -> None:
    """Refuse paths outside the roots, with the same message whether or not they exist.

    Args:
        is_part: whether the path is part of a folder inside the roots, so that only a link can lead
            outside.
    """
    if any(target.is_relative_to(root) for root in roots):
        return
    allowed = ", ".join(str(root) for root in roots) or "none"
    if not is_part:
        raise ModelFolderError.from_parts(
            named,
            f"is outside the allowed model folders ({allowed})",
            "move it below one of them, or name that folder in META_REWARD_MODEL_ROOT",
        )
    raise ModelFolderError.from_parts(
        named,
        f"leads to {target}, outside the allowed folders ({allowed})",
        "replace the link with the file itself",
    )


def _check_harmless(file: Path) -> None:
    if file.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelFolderError.from_parts(
            file,
            "may be a pickle, which runs code when it is loaded",
            "convert the model to safetensors, or remove the file",
        )
    if file.suffix.lower() in {".py", ".so", ".pyc"}:
        raise ModelFolderError.from_parts(
            file, "is custom model code, which is never run", "remove the file"
        )


def _check_content(file: Path) -> None:
    """Refuse placeholders of a download: empty files, Git LFS pointers, dead links."""
    if not file.exists():
        raise ModelFolderError.from_parts(
            file, "links to a file that does not exist", "download it again"
        )
    if file.suffix.lower() not in _MODEL_SUFFIXES and file.name not in INHERITED_FILES:
        return
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelFolderError.from_parts(
            file, f"cannot be read ({error.strerror})", "make it readable for this user"
        ) from error
    if start == _LFS_POINTER:
        raise ModelFolderError.from_parts(
            file,
            "is a Git LFS pointer, not the file itself",
            "run `git lfs pull` in the folder, or download the file again",
        )
    if not start:
        raise ModelFolderError.from_parts(file, "is empty", "download it again")
    if start.startswith(_BYTE_ORDER_MARK) and file.suffix.lower() in _TEXT_SUFFIXES:
        raise ModelFolderError.from_parts(
            file,
            "starts with a byte order mark, which model libraries read as a character",
            "save it as UTF-8 without a byte order mark",
        )


def _check_config(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelFolderError.from_parts(
            folder / "adapter_config.json",
            "belongs to an adapter, not a complete model",
            "merge it into its base model, save the result and use that folder",
        )
    if not (folder / "config.json").is_file():
        remedy = _suggest_folder(folder)
        raise ModelFolderError(
            f"{folder} has no config.json: {remedy}.",
            file=str(folder / "config.json"),
            problem="is missing",
            remedy=remedy,
        )
    for name in _JSON_OBJECTS:
        if "auto_map" in _read_json(folder / name):
            raise ModelFolderError.from_parts(
                folder / name,
                "requires custom code (auto_map), which is never run",
                "choose a model that transformers supports, or remove auto_map if transformers "
                "supports this model",
            )


def _suggest_folder(folder: Path) -> str:
    inside = sorted(file.parent.name for file in folder.glob("*/config.json"))
    if len(inside) == 1:
        return f"use the model in its subfolder {inside[0]}"
    return "download the model again"


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS_FILE).is_file():
        return
    if not (folder / WEIGHTS_INDEX).is_file():
        remedy = _suggest_weights(folder)
        raise ModelFolderError(
            f"{folder} has no safetensors weights ({WEIGHTS_FILE}): {remedy}.",
            file=str(folder / WEIGHTS_FILE),
            problem="is missing",
            remedy=remedy,
        )
    shards = read_weights_index(folder)
    if not shards:
        raise ModelFolderError.from_parts(
            folder / WEIGHTS_INDEX, "does not list any weights (weight_map)", "download it again"
        )
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        names = ", ".join(missing)
        raise ModelFolderError(
            f"{folder} lacks weights: {names} (download them again).",
            file=str(folder / WEIGHTS_INDEX),
            problem=f"lists weights that are missing: {names}",
            remedy="download them again",
        )


def _suggest_weights(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "a GGUF file cannot be trained; use the original model"
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"the weight files in this folder need {WEIGHTS_INDEX}; download that file"
    others = [file.name for file in sorted(folder.glob("*.safetensors"))]
    if any(name.startswith("consolidated") for name in others):
        return f"{others[0]} has Mistral's own tensor names; download the files for transformers"
    if len(others) == 1:
        return f"rename {others[0]} to {WEIGHTS_FILE} if it contains the whole model"
    return "convert the model to safetensors, or download it again"


def _check_chat_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    if template.is_file():
        try:
            template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ModelFolderError.from_parts(
                template,
                f"is not UTF-8 text (byte {error.start})",
                "download it again, or save it as UTF-8",
            ) from error
        return
    for name in ("chat_template.json", "tokenizer_config.json"):
        if _read_json(folder / name).get("chat_template"):
            return
    remedy = "use an instruction-tuned model, or add chat_template.jinja"
    raise ModelFolderError(
        f"{folder} has no chat template: {remedy}.",
        file=str(template),
        problem="is missing, and so is any other chat template",
        remedy=remedy,
    )


def _read_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if there is no file."""
    if not file.is_file():
        return {}
    try:
        content = parse_json(file.read_bytes(), nan_is_null=True, leave_scalars=True)
    except MalformedInputError as error:
        raise ModelFolderError.from_parts(
            file, str(error).rstrip("."), "download it again, or correct it"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError.from_parts(
            file, "must contain one JSON object", "download or correct it"
        )
    return content
