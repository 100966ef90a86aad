"""Publish a model: a folder with a model card, an archive, and optionally on the Hub.

This job handler creates a publication atomically; publishing again replaces the previous one.
Published files are checked for local paths.
"""

import contextlib
import shutil
import struct
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings

from meta_reward_core.errors import (
    ArtifactError,
    DamagedArtifactError,
    HubError,
    InputError,
    TaskError,
)
from meta_reward_core.experiment import Experiment
from meta_reward_core.models.hf_hub import (
    HubName,
    explain_error,
    get_client_errors,
    hide_progress_bars,
    make_hub_client,
    parse_pinned_name,
)
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.reporting.model_card import Lineage, get_public_model_name, write_model_card
from meta_reward_core.storage.layout import label_folder
from meta_reward_core.tasks.registry import get_task
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.experiments import models
from webapp.experiments.models import Job, JobStatus, RunStatus
from webapp.paths import BASE_DIR
from workers.pipeline.local_run import summarize
from workers.pipeline.open_experiment import open_row

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Outcome = dict[str, Any]

_SUFFIXES: Final = frozenset({".json", ".safetensors", ".jinja", ".txt", ".model"})
_CARD: Final = "README.md"
_REPLACED: Final = ["*.safetensors", "*.safetensors.index.json"]
"""Old weights are deleted from the repository, because loaders would use them for this model."""
_LOCAL_COPY_NOTE: Final = "The folder and the archive were created."
_FOLDER_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Published:
    """A local publication; paths are relative to the publications root."""

    folder: str
    archive: str
    size_bytes: int
    files: Sequence[str]

    def to_outcome(self) -> Outcome:
        """Convert to plain values for the job's row."""
        return {
            "folder": self.folder,
            "archive": self.archive,
            "bytes": self.size_bytes,
            "files": list(self.files),
        }


def publish_model(job: Job) -> Outcome:
    """Run a job that publishes a model.

    Raises:
        InputError: the experiment is gone, or has no such model.
        ArtifactError: the model's files are missing or damaged.
        HubError: the Hub refused; the local copy is kept.
    """
    if job.experiment is None:
        raise InputError(f"experiment {job.experiment_name!r} was deleted")
    number = int(job.payload["number"])
    experiment = open_row(job.experiment)
    card = _write_card(experiment, job.experiment, number)
    published = _publish_locally(experiment, number, card)
    outcome = published.to_outcome()
    repository = str(job.payload.get("repository", ""))
    if repository:
        _save_outcome(job, {**outcome, "doing": f"uploading to {repository}"})
        outcome |= _upload_to_hub(
            Path(settings.META_REWARD_PUBLISH_ROOT) / published.folder,
            repository,
            message=f"{experiment.name} M{number}",
            is_public=bool(job.payload.get("is_public")),
        )
    where = f"in {published.folder}{f' and as {repository}' if repository else ''}"
    log_event(Action.PUBLISHED, f"{experiment.name} M{number}", detail=where, by=job.created_by)
    return outcome


def _save_outcome(job: Job, outcome: Outcome) -> None:
    Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING).update(outcome=outcome)


def _write_card(experiment: Experiment, row: models.Experiment, number: int) -> str:
    finished = row.iterations.filter(number__lte=number, status=RunStatus.FINISHED)
    iterations = list(finished.order_by("number"))
    if number < 1 or [iteration.number for iteration in iterations] != list(range(1, number + 1)):
        raise InputError(f"M{number} of experiment {row.name!r} does not exist yet")
    return write_model_card(
        experiment=row.name,
        number=number,
        recipe=experiment.recipe,
        seed=experiment.seed,
        lineage=Lineage(
            _get_seed_model_name(experiment),
            [experiment.get_model(made).sha256 for made in range(number + 1)],
        ),
        summaries=[
            iteration.metrics or summarize(experiment, iteration) for iteration in iterations
        ],
    )


def _get_seed_model_name(experiment: Experiment) -> str:
    """Return the public name of M0, with its commit if it comes from the Hub."""
    on_hub = parse_pinned_name(experiment.seed_folder)
    if on_hub is not None:
        return str(on_hub)
    recipe = experiment.recipe
    if recipe.model is not None or recipe.task is None:
        return get_public_model_name(recipe.model)
    return get_public_model_name(None, task=_get_task_title(recipe.task))


def _get_task_title(name: str) -> str:
    """Return the title of a task, or its name if it is not installed."""
    try:
        return get_task(name).title
    except TaskError:
        return f"the task {name}"


def _publish_locally(experiment: Experiment, number: int, card: str) -> Published:
    """Build the folder and the archive in temporary locations, then move both."""
    root = Path(settings.META_REWARD_PUBLISH_ROOT)
    home = root / label_folder(experiment.name, experiment.uuid)
    name = f"M{number}"
    with _open_partial_folder(home / f".{name}.partial") as partial:
        folder, archive = partial / name, partial / f"{name}.tar"
        folder.mkdir()
        _copy_model(experiment, number, folder)
        (folder / _CARD).write_text(card, encoding="utf-8")
        _check_no_local_paths(folder)
        _write_archive(folder, archive, prefix=f"{experiment.name}-{name}")
        _replace_folder(folder, home / name)
        archive.replace(home / archive.name)
    files = sorted(file.name for file in (home / name).iterdir())
    return Published(
        folder=f"{home.name}/{name}",
        archive=f"{home.name}/{archive.name}",
        size_bytes=(home / archive.name).stat().st_size,
        files=files,
    )


@contextlib.contextmanager
def _open_partial_folder(partial: Path) -> Iterator[Path]:
    """Open a temporary folder, deleting leftovers of a killed publication.

    One thread runs these jobs sequentially.
    """
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # independent of the umask, because published models are meant for other users
    partial.chmod(_FOLDER_MODE)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_model(experiment: Experiment, number: int, folder: Path) -> None:
    """Copy the files of a model, and check their hashes.

    Raises:
        DamagedArtifactError: its files have changed.
    """
    model = experiment.get_model(number)
    for file in sorted(model.folder.iterdir()):
        if file.suffix in _SUFFIXES and file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
            (folder / file.name).chmod(_FILE_MODE)
    if hash_model_folder(folder) != model.current_sha256:
        raise DamagedArtifactError(
            f"the files of M{number} have changed since it was made: run iteration {number} again"
        )


def _check_no_local_paths(folder: Path) -> None:
    """Refuse to publish a file that contains a local path.

    Raises:
        ArtifactError: a file contains one; the message includes the file's name.
    """
    named = {
        str(Path(place).absolute()).encode()
        for place in (
            BASE_DIR,
            settings.META_REWARD_ARTIFACT_ROOT,
            settings.META_REWARD_MODEL_ROOT,
            settings.META_REWARD_SCRATCH_ROOT,
            settings.META_REWARD_PUBLISH_ROOT,
        )
        if "://" not in str(place)
    }
    for file in sorted(folder.iterdir()):
        words = _read_text_parts(file)
        if any(place in words for place in named):
            raise ArtifactError(
                f"{file.name} contains the path of a folder on this machine, so it is not published"
            )


def _read_text_parts(file: Path) -> bytes:
    """Read the text of a file; for safetensors, the header after its eight-byte size."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as stream:
        size = stream.read(8)
        return stream.read(struct.unpack("<Q", size)[0]) if len(size) == 8 else b""


def _write_archive(folder: Path, archive: Path, *, prefix: str) -> None:
    """Write an archive without user names and times."""
    with tarfile.open(archive, "w") as tar:
        for file in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(f"{prefix}/{file.name}")
            entry.size = file.stat().st_size
            entry.mode = _FILE_MODE
            with file.open("rb") as stream:
                tar.addfile(entry, stream)
    archive.chmod(_FILE_MODE)


def _replace_folder(new: Path, target: Path) -> None:
    """Replace a folder atomically, and delete the old one."""
    if target.exists():
        target.rename(new.parent / "before")
    new.rename(target)


def _upload_to_hub(folder: Path, repository: str, *, message: str, is_public: bool) -> Outcome:
    """Upload a folder to a Hub repository, creating it if necessary.

    Returns:
        The repository's address, and the commit that contains the folder.

    Raises:
        HubError: no token is configured, or the Hub refused.
    """
    if not settings.META_REWARD_HF_TOKEN:
        raise HubError(f"no Hub token is configured: set HF_TOKEN. {_LOCAL_COPY_NOTE}")
    hub = make_hub_client(settings.META_REWARD_HF_TOKEN)
    try:
        with hide_progress_bars():
            made = hub.create_repo(repository, private=not is_public, exist_ok=True)
            _check_hidden(hub, repository, is_public=is_public)
            commit = hub.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message,
                delete_patterns=_REPLACED,
            )
    except get_client_errors() as error:
        reason = explain_error(error, HubName(repository))
        raise HubError(
            f"could not upload {repository} to the Hub: {reason}. {_LOCAL_COPY_NOTE}"
        ) from error
    return {"repository": str(made), "commit": commit.oid}


def _check_hidden(hub: "HfApi", repository: str, *, is_public: bool) -> None:
    """Refuse to publish a private model in a repository that is already public.

    Raises:
        HubError: the repository is public; the message lists the options.
    """
    if not is_public and not hub.model_info(repository).private:
        raise HubError(
            f"repository {repository} is already public on the Hub, but a public upload was "
            f"not requested: request it, make the repository private, or use another one. "
            f"{_LOCAL_COPY_NOTE}"
        )
