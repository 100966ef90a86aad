"""The part of the model check that only reads files: fast, without a model library."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_reward_core.errors import ModelFolderError
from meta_reward_core.models.check.configuration import (
    check_dtype,
    check_positions,
    check_quantisation,
    check_repeated_keys,
    find_position_limit,
    has_learned_positions,
    read_config,
)
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Check, Level, find_worst_level
from meta_reward_core.models.check.weights_files import TensorInfo, read_weights
from meta_reward_core.models.validation import check_model_folder, iter_visible_files


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Contents read from the files of a model folder.

    Attributes:
        folder: path of the folder with links resolved; None if the folder may not be read.
        config: contents of config.json.
        tensors: tensors by name, from the headers.
        checks: the results so far; nothing more can be checked if one of them is red.
    """

    folder: Path | None
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    checks: tuple[Check, ...]

    @property
    def is_sound(self) -> bool:
        """Whether further checks are possible."""
        return find_worst_level(self.checks) is not Level.RED


def check_files(path: Path, needs: ModelNeeds, *, allowed_roots: Sequence[Path]) -> FolderFiles:
    """Check a model folder as far as possible without a model library.

    Args:
        allowed_roots: folders that must contain the model and all targets of its links.
    """
    try:
        folder = check_model_folder(path, allowed_roots=allowed_roots)
    except ModelFolderError as error:
        return FolderFiles(None, {}, {}, (explain_folder_error(error, path),))
    config = read_config(folder)
    tensors, weights = read_weights(folder)
    checks = [
        Check("folder", "Folder", Level.GREEN, "complete, no code and no pickles"),
        *weights,
        *check_quantisation(folder, config, tensors, needs=needs),
    ]
    if find_worst_level(checks) is not Level.RED:
        checks += [
            *check_repeated_keys(folder),
            *check_dtype(config, tensors),
            *check_positions(
                find_position_limit(config), needs, is_learned=has_learned_positions(tensors)
            ),
        ]
    return FolderFiles(folder, config, tensors, tuple(checks))


def explain_folder_error(error: ModelFolderError, folder: Path) -> Check:
    """Convert the error for a folder that must not be loaded to a result of the check."""

    def shorten(text: str) -> str:
        return text.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")

    return Check(
        "folder",
        "Folder",
        Level.RED,
        shorten(error.problem),
        shorten(error.remedy),
        shorten(error.file),
    )


def compute_fingerprint(folder: Path) -> str:
    """Hash names, sizes and times of a folder's files: fast, and different after any change."""
    total = hashlib.sha256()
    for file in iter_visible_files(folder):
        found = file.stat() if file.exists() else file.lstat()
        name = file.relative_to(folder).as_posix()
        total.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return total.hexdigest()
