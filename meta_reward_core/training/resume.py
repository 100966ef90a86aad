"""Files of training: private states to resume from, and the published folder.

A trainer's own state contains pickles and local paths, so it stays in a scratch folder that only
the job that wrote it reads. The published folder contains config, tokenizer, chat template and
safetensors.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers.trainer_utils import sort_checkpoints

from meta_reward_core.errors import ArtifactError
from meta_reward_core.models.validation import INHERITED_FILES
from meta_reward_core.system.untrusted_input import parse_json

JOB_FILE = "job.json"
COMPLETE_MARKER = "complete"
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json")
# Keys in which transformers stores where a model was loaded from.
PATH_KEYS = ("_name_or_path", "name_or_path")


def open_scratch(scratch: Path, job: Mapping[str, object]) -> None:
    """Create the private folder of a job; files of other jobs in it are deleted."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch.chmod(0o700)
    note, wanted = scratch / JOB_FILE, json.dumps(job, sort_keys=True, indent=1)
    if note.is_file() and note.read_text(encoding="utf-8") == wanted:
        return
    for entry in scratch.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    note.write_text(wanted, encoding="utf-8")


def mark_complete(state: Path) -> None:
    """Mark a trainer's state as complete, once all of it is on disk."""
    sync_folder(state)
    (state / COMPLETE_MARKER).touch()
    sync_folder(state)


def find_resume_state(states: Path) -> Path | None:
    """Return the latest complete state; partial states left by a killed trainer are removed."""
    latest = None
    for state in map(Path, sort_checkpoints(str(states)) if states.is_dir() else ()):
        if (state / COMPLETE_MARKER).is_file():
            latest = state
        else:
            shutil.rmtree(state)
    return latest


def get_step(state: Path | None) -> int:
    """Return the optimizer step of a state; 0 without a state."""
    return 0 if state is None else int(state.name.partition("-")[2])


def publish_model(
    write_weights: Callable[[Path], None],
    *,
    start: Path,
    checkpoint: Path,
    job_name: str,
    write_more: Callable[[Path], None] | None = None,
    verify: Callable[[Path], None] | None = None,
) -> bool:
    """Create `checkpoint` atomically, unless it already exists.

    Args:
        write_weights: writes safetensors into the given folder, and may write more.
        start: source of config, tokenizer and chat template.
        checkpoint: the folder to publish.
        job_name: unique per job, so that only the same job clears its interrupted publication.
        write_more: writes files other than the model to the folder; all of them are published.
        verify: checks the whole folder and raises an error if it must not be published.

    Returns:
        Whether this call published the folder; False if another writer was first.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.parent / f".{checkpoint.name}.{job_name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_weights(partial)
        _keep_weights_only(partial)
        _copy_inherited_files(start, partial)
        if write_more is not None:
            write_more(partial)
        if verify is not None:
            verify(partial)
        sync_folder(partial)
        return _rename_if_absent(partial, checkpoint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Sync every file of `folder`, and the folder itself, to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _keep_weights_only(folder: Path) -> None:
    weights = {file for pattern in WEIGHT_FILES for file in folder.glob(pattern)}
    if not weights:
        raise ArtifactError("The training wrote no safetensors weights.")
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry not in weights:
            entry.unlink()
        else:
            entry.chmod(0o644)


def _copy_inherited_files(start: Path, folder: Path) -> None:
    """Copy the starting model's small files, without the local paths in them."""
    for name in INHERITED_FILES:
        source = start / name
        if not source.is_file():
            continue
        content = source.read_bytes()
        if name.endswith("config.json"):
            content = _remove_paths(content)
        (folder / name).write_bytes(content)


def _remove_paths(content: bytes) -> bytes:
    """Return the JSON without local paths; without such paths, it is returned byte for byte."""
    config = parse_json(content, leave_scalars=True)
    if not any(key in config for key in PATH_KEYS):
        return content
    kept = {key: value for key, value in config.items() if key not in PATH_KEYS}
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def _rename_if_absent(partial: Path, checkpoint: Path) -> bool:
    """Rename a folder; an existing folder with files is never replaced."""
    try:
        partial.rename(checkpoint)
    except OSError:
        if checkpoint.is_dir() and any(checkpoint.iterdir()):
            return False
        raise
    descriptor = os.open(checkpoint.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True
