"""Download Hub models: pinned to a commit, and completely or not at all.

A name is resolved once; from then on the commit is part of the folder's name,
`<root>/<owner>/<name>@<commit>`, so that a name never refers to two models. Files are downloaded to
a hidden folder next to it, which is then renamed. After a kill or a lost connection, complete files
stay in the hidden folder, and the next attempt downloads the rest.
"""

import contextlib
import errno
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from meta_reward_core.errors import HubError, ModelFolderError, StorageFullError
from meta_reward_core.models.hf_hub import (
    HubName,
    explain_error,
    get_client_errors,
    get_hub_address,
    hide_progress_bars,
    is_transient,
    make_hub_client,
)
from meta_reward_core.models.validation import (
    PICKLE_SUFFIXES,
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    check_model_folder,
    check_non_weight_files,
    hash_file,
    read_weights_index,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

StatusCallback = Callable[[str], None]

_TEXT_SUFFIXES: Final = frozenset({".json", ".jinja", ".model"})
_TEXT_NAMES: Final = frozenset({"merges.txt", "vocab.txt"})
_TIMEOUT_SECONDS: Final = 30.0
_PROGRESS_SECONDS: Final = 1.0
_PROGRESS_STEPS: Final = 10
_BLOCK_BYTES: Final = 512  # unit of `st_blocks`, independent of the file system


@dataclass(frozen=True, slots=True)
class _RemoteModel:
    """A model at a commit of the Hugging Face Hub.

    Attributes:
        files: the files in its top-level folder, by name; a model is loaded only from there.
    """

    name: HubName
    client: "HfApi"
    files: Mapping[str, "RepoSibling"]

    def sum_sizes(self, names: Sequence[str]) -> int:
        """Sum the sizes of some of the model's files, as far as the Hub reports them."""
        return sum(self.files[name].size or 0 for name in names)


def fetch_model(name: HubName, root: Path, *, token: str | None, say: StatusCallback) -> Path:
    """Return the folder of a Hub model, downloading it if necessary.

    Args:
        root: folder below which models are stored.
        token: Hub token; None: the token that the Hub's client finds.
        say: called with messages: the commit that the name resolves to, and the progress of a long
            download.

    Raises:
        ModelFolderError: the model does not exist, may not be downloaded with this token, or may
            not be loaded.
        HubError: the Hub does not respond, or a file that it sent is damaged.
        StorageFullError: the disk has no room for the model.
    """
    remote = _query_hub(name, root, token)
    folder = root / str(remote.name)
    if folder.is_dir():
        say(f"{name} is {remote.name}, which is already on this machine")
        return folder
    _check_listing(remote)
    with _translate_errors(remote.name, root):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock_download(folder, say):
            if not folder.is_dir():
                _fetch_folder(folder, remote, say)
    return folder


def _fetch_folder(folder: Path, remote: _RemoteModel, say: StatusCallback) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    with _clean_up_on_failure(partial, remote.name), hide_progress_bars():
        _download_model(partial, remote, say)
    partial.rename(folder)


def list_local_commits(name: HubName, root: Path) -> list[str]:
    """List the downloaded commits of a Hub model below a root, as names."""
    owner, _, short = name.repository.partition("/")
    folders = (root / owner).glob(f"{short}@*")
    return sorted(f"{owner}/{folder.name}" for folder in folders if folder.is_dir())


def list_partial_downloads(root: Path) -> list[Path]:
    """List download folders below a root that are incomplete or in progress."""
    return sorted(folder for folder in root.glob("*/.*@*.partial") if folder.is_dir())


@contextlib.contextmanager
def _lock_download(folder: Path, say: StatusCallback) -> Iterator[None]:
    """Lock out other processes on this machine that download the same model."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"another process is downloading {folder.parent.name}/{folder.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _query_hub(name: HubName, root: Path, token: str | None) -> _RemoteModel:
    """Query the commit that a name refers to, and its files."""
    client = make_hub_client(token)
    with _translate_errors(name, root):
        found = client.model_info(
            name.repository,
            revision=name.revision,
            files_metadata=True,
            timeout=_TIMEOUT_SECONDS,
        )
    pinned = HubName(name.repository, found.sha)
    if not pinned.is_pinned:
        raise HubError(
            f"{get_hub_address()} did not return a commit of {name} and may not be a Hub: "
            f"check HF_ENDPOINT"
        )
    listed = {file.rfilename: file for file in found.siblings or []}
    top = {file: entry for file, entry in listed.items() if "/" not in file and file[0] != "."}
    return _RemoteModel(pinned, client, top)


def _check_listing(remote: _RemoteModel) -> None:
    """Refuse models that cannot be loaded, by their file names, before any download."""
    name, files = remote.name, remote.files
    if "adapter_config.json" in files:
        raise ModelFolderError(
            f"{name} is an adapter: merge it into its base model and use the resulting folder"
        )
    if WEIGHTS_FILE not in files and WEIGHTS_INDEX not in files:
        raise ModelFolderError(_explain_no_weights(name, files))
    if "config.json" not in files:
        raise ModelFolderError(f"{name} has no config.json: transformers cannot load it")


def _explain_no_weights(name: HubName, files: Mapping[str, "RepoSibling"]) -> str:
    pickles = sorted(file for file in files if Path(file).suffix.lower() in PICKLE_SUFFIXES)
    if not pickles:
        return f"{name} has no safetensors weights ({WEIGHTS_FILE}): use another repository"
    return (
        f"{name} only has weights as pickles ({pickles[0]}), which can run code when loaded "
        f"and are never downloaded: choose a repository or a revision with safetensors "
        "(many have one as a pull request, refs/pr/NUMBER), or convert the model on a "
        "disposable machine and use the resulting folder"
    )


def _download_model(partial: Path, remote: _RemoteModel, say: StatusCallback) -> None:
    """Download the small files, check that the model is allowed, then download the weights."""
    partial.mkdir(exist_ok=True)
    # left by a killed attempt; the client cannot resume it
    for left in partial.rglob("*.incomplete"):
        left.unlink()
    words = [file for file in remote.files if _is_text_file(file)]
    _download_files(remote, words, partial)
    check_non_weight_files(partial)
    weights = _list_weight_files(remote, partial)
    _check_disk_space(remote, weights, partial)
    told = _DownloadProgress(str(remote.name), remote.sum_sizes(weights), say)
    _run_with_progress(
        lambda: _download_files(remote, weights, partial),
        lambda: told.tell(_count_bytes_in(partial)),
    )
    _check_bytes(remote, [*words, *weights], partial)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # metadata of the Hub client
    check_model_folder(partial, allowed_roots=[partial])


def _is_text_file(file: str) -> bool:
    return Path(file).suffix in _TEXT_SUFFIXES or file in _TEXT_NAMES


def _list_weight_files(remote: _RemoteModel, partial: Path) -> list[str]:
    """List the weight files to load; repositories can contain them twice."""
    if WEIGHTS_FILE in remote.files:
        return [WEIGHTS_FILE]
    shards = sorted(read_weights_index(partial))
    missing = [
        shard
        for shard in shards
        if shard not in remote.files or Path(shard).suffix != ".safetensors"
    ]
    if missing or not shards:
        raise ModelFolderError(f"{remote.name} lacks weights: {', '.join(missing) or WEIGHTS_FILE}")
    return shards


def _check_disk_space(remote: _RemoteModel, weights: Sequence[str], partial: Path) -> None:
    needed = remote.sum_sizes([file for file in weights if not (partial / file).is_file()])
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise StorageFullError(
            f"{remote.name} needs {needed / 1e6:,.0f} MB more, but {partial.parent} has "
            f"{free / 1e6:,.0f} MB free: free space or move META_REWARD_MODEL_ROOT"
        )


def _download_files(remote: _RemoteModel, files: Sequence[str], partial: Path) -> None:
    """Download files one by one, skipping complete ones."""
    repository, commit = remote.name.repository, remote.name.revision
    for file in files:
        remote.client.hf_hub_download(repository, file, revision=commit, local_dir=partial)


def _check_bytes(remote: _RemoteModel, files: Sequence[str], partial: Path) -> None:
    """Check that downloaded files match the commit, and delete those that do not."""
    for file in files:
        listed, here = remote.files[file], partial / file
        if listed.lfs is not None:
            is_right = hash_file(here) == listed.lfs.sha256
        else:
            is_right = listed.size in (None, here.stat().st_size)
        if not is_right:
            here.unlink()
            raise HubError(
                f"{file} of {remote.name} differs from the copy on {get_hub_address()}: rerun "
                f"the command to download the file again"
            )


class _DownloadProgress:
    """Reports the progress of a download, at most ten times."""

    def __init__(self, name: str, total: int, say: StatusCallback) -> None:
        self._name, self._total, self._print_line, self._parts = name, total, say, 0
        say(f"fetching {name}, {total / 1e6:,.0f} MB")

    def tell(self, arrived: int) -> None:
        """Report the progress if another tenth of the bytes has been received."""
        parts = _PROGRESS_STEPS * arrived // self._total if self._total else 0
        if self._parts < parts < _PROGRESS_STEPS:
            self._parts = parts
            self._print_line(
                f"fetched {arrived / 1e6:,.0f} of {self._total / 1e6:,.0f} MB of {self._name}"
            )


def _count_bytes_in(folder: Path) -> int:
    """Count the received bytes: a file can be preallocated."""
    found = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed in the meantime
            found += file.lstat().st_blocks * _BLOCK_BYTES if file.is_file() else 0
    return found


def _run_with_progress(work: Callable[[], None], tell: Callable[[], None]) -> None:
    """Run a long task in a thread, and report its progress from this one.

    Progress is reported from the caller's thread, because reporting may use a database connection
    that belongs to that thread. The work runs in a daemon thread, so a stopped process can exit.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 raised again below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_PROGRESS_SECONDS)
        tell()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _clean_up_on_failure(partial: Path, name: HubName) -> Iterator[None]:
    """Keep an incomplete model only if another attempt can complete it."""
    try:
        with _translate_errors(name, partial.parents[1]):
            yield
    except ModelFolderError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelFolderError(str(error).replace(str(partial), str(name))) from error
    except StorageFullError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def _translate_errors(name: HubName, root: Path) -> Iterator[None]:
    """Translate the client's exceptions into our errors."""
    try:
        yield
    except get_client_errors() as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"no room left for {name} in {root}: free space, or move "
                f"META_REWARD_MODEL_ROOT, then rerun the command"
            ) from error
        if isinstance(error, OSError) and error.filename:
            raise ModelFolderError(
                f"cannot write {error.filename} for {name} ({error.strerror}): make the "
                f"folder writable for this user, or move META_REWARD_MODEL_ROOT"
            ) from error
        if not is_transient(error):
            raise ModelFolderError(f"cannot fetch {name}: {explain_error(error, name)}") from error
        raise HubError(
            f"cannot fetch {name}: {explain_error(error, name)}{_format_local_commits(name, root)}"
        ) from error


def _format_local_commits(name: HubName, root: Path) -> str:
    """Format the local commits of a model, for use while the Hub is unreachable."""
    kept = list_local_commits(name, root)
    return f". Available offline: {', '.join(kept)}" if kept else ""
