"""Models that can be chosen as M0: loadable folders below the model root."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.template.defaultfilters import filesizeformat

from meta_reward_core.errors import InputError, ModelFolderError
from meta_reward_core.models.check.weights_files import UnreadableWeightsError, read_header
from meta_reward_core.models.validation import check_model_folder
from meta_reward_core.planning.base_model import find_base_model_folder
from meta_reward_core.recipes.schema import Recipe

_MAX_FOLDERS: Final = 200


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model folder; its name is its path relative to the model root."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class UnusableModel:
    """A folder that looks like a model but cannot be loaded."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChoices:
    """Models below the root."""

    choices: tuple[ModelChoice, ...]
    unusable: tuple[UnusableModel, ...]


def list_models() -> ModelChoices:
    """List the folders below the root, up to two levels deep (`org/name`)."""
    root = Path(settings.META_REWARD_MODEL_ROOT)
    choices, unusable = [], []
    for count, folder in enumerate(_iter_candidates(root)):
        if count >= _MAX_FOLDERS:
            break
        name = folder.relative_to(root).as_posix()
        try:
            found = check_model_folder(folder, allowed_roots=[root])
        except ModelFolderError as error:
            unusable.append(UnusableModel(name, str(error).replace(f"{root.resolve()}/", "")))
        else:
            choices.append(ModelChoice(name, compute_folder_bytes(found)))
    return ModelChoices(tuple(choices), tuple(unusable))


def find_model_bytes(recipe: Recipe) -> int | None:
    """Return the size of a recipe's base model; None if it is not stored locally."""
    root = Path(settings.META_REWARD_MODEL_ROOT)
    try:
        folder = find_base_model_folder(recipe, root)
    except (InputError, OSError):
        return None
    return None if folder is None else compute_folder_bytes(folder)


def describe_base_model(recipe: Recipe) -> str:
    """Describe the size of a recipe's base model; empty while it is not stored locally."""
    try:
        folder = find_base_model_folder(recipe, Path(settings.META_REWARD_MODEL_ROOT))
        if folder is None:
            return ""
        headers = [read_header(file) for file in sorted(folder.glob("*.safetensors"))]
    except (InputError, OSError, UnreadableWeightsError):
        return ""
    count = sum(math.prod(tensor.shape) for header in headers for tensor in header.values())
    size = filesizeformat(compute_folder_bytes(folder))
    return f"{_format_count(count)} parameters, {size}" if count else size


def _format_count(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if count >= unit / 10:
            return f"{count / unit:.1f} {name}"
    return f"{count:,}"


def compute_folder_bytes(folder: Path) -> int:
    """Compute the size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _iter_candidates(root: Path) -> Iterator[Path]:
    for folder in _list_folders(root):
        if _is_model_like(folder):
            yield folder
        elif not folder.is_symlink():
            yield from (inner for inner in _list_folders(folder) if _is_model_like(inner))


def _list_folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(
        entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _is_model_like(folder: Path) -> bool:
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))
