"""Hashes of the model files that generation, or training, depends on.

A model folder contains more than the model: a user may correct a README, and must correct a
generation config that cannot be saved, without invalidating everything that was sampled. So in
addition to the hash of the whole folder, each use has a hash of the files that it needs. A file is
included unless it is known to be unneeded.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from meta_reward_core.errors import MalformedInputError, ModelFolderError
from meta_reward_core.models.validation import hash_file, hash_model_files, iter_visible_files
from meta_reward_core.system.untrusted_input import parse_json

GENERATION_CONFIG: Final = "generation_config.json"
_CONFIG: Final = "config.json"
_DOCUMENT_SUFFIXES: Final = frozenset(
    {".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}
)
_DOCUMENT_NAMES: Final = frozenset(
    {"README", "LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY", "CITATION", "CHANGELOG"}
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model folder, by hash.

    Attributes:
        hashes: SHA-256 of each visible file, by its path in the folder.
        drawing: hash of the inputs of sampling: all files except documents, but of the generation
            config only the ids that end a reply, because engines read nothing else from it.
        training: hash of the inputs of a training that starts from the model, and of the checkpoint
            that it creates: all files except documents.
    """

    hashes: Mapping[str, str]
    drawing: str
    training: str

    @property
    def sha256(self) -> str:
        """Hash of the whole folder, as `hash_model_folder` returns it."""
        return hash_model_files(self.hashes)

    @classmethod
    def read(cls, folder: Path) -> "ModelFiles":
        """Hash the files of a folder.

        Raises:
            ModelFolderError: a configuration is not JSON.
        """
        hashes = {
            file.relative_to(folder).as_posix(): hash_file(file)
            for file in iter_visible_files(folder)
        }
        return cls.build(hashes, end_ids=read_end_ids(folder))

    @classmethod
    def build(cls, hashes: Mapping[str, str], *, end_ids: tuple[int, ...] | None) -> "ModelFiles":
        """Derive the hashes of each use from the hashes of all files.

        Args:
            end_ids: end token ids, as `read_end_ids` returns them.
        """
        needed = {name: sha256 for name, sha256 in hashes.items() if not is_document(name)}
        needed_to_generate = {
            name: sha256 for name, sha256 in needed.items() if name != GENERATION_CONFIG
        }
        needed_to_generate[f"{GENERATION_CONFIG}#eos_token_id"] = hashlib.sha256(
            repr(end_ids).encode()
        ).hexdigest()
        return cls(hashes, hash_model_files(needed_to_generate), hash_model_files(needed))

    def list_differences(self, others: Mapping[str, str]) -> list[str]:
        """List the files that differ from other hashes, sorted."""
        return sorted(
            name for name in {*self.hashes, *others} if self.hashes.get(name) != others.get(name)
        )


def is_document(name: str) -> bool:
    """Whether a file of a model folder is documentation and not needed for loading."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _DOCUMENT_SUFFIXES or path.stem.upper() in _DOCUMENT_NAMES


def read_end_ids(folder: Path) -> tuple[int, ...] | None:
    """Read the end token ids of the generation config, else of the config.

    Engines add the tokenizer's own end token, which is defined in the tokenizer's files.

    Raises:
        ModelFolderError: one of the two files is not JSON, or its end tokens are not ids.
    """
    file = folder / GENERATION_CONFIG
    found = _read_object(file) if file.is_file() else _read_object(folder / _CONFIG)
    named = found.get("eos_token_id")
    if named is None and not file.is_file():
        named = (found.get("text_config") or {}).get("eos_token_id")
    if named is None:
        return None
    ids = named if isinstance(named, list) else [named]
    if not all(isinstance(one, int) for one in ids):
        raise ModelFolderError(f"{file}: eos_token_id should be an id or a list, not {named!r}.")
    return tuple(sorted(ids))


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = parse_json(file.read_bytes(), nan_is_null=True, leave_scalars=True)
    except MalformedInputError as error:
        raise ModelFolderError(f"{file} {error}") from error
    if not isinstance(found, dict):
        raise ModelFolderError(f"{file} must contain one JSON object.")
    return found


def find_end_token_ids(folder: Path, *, tokenizer_eos: int | None) -> tuple[int, ...]:
    """Return the ids of the tokens that end a completion, ascending.

    Args:
        tokenizer_eos: the end token of the tokenizer, if it has one.

    Raises:
        ModelFolderError: a configuration of the folder cannot be read.
    """
    ends = {*(read_end_ids(folder) or ()), *([] if tokenizer_eos is None else [tokenizer_eos])}
    return tuple(sorted(ends))
