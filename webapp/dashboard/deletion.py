"""Deletion of an experiment: disk space freed, data lost, and obstacles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms

from meta_reward_core.errors import ArtifactError
from webapp.experiments.details import is_busy
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment, RunStatus


class DeletionForm(forms.Form):
    """A confirmation by the name of the experiment."""

    name = forms.CharField(
        max_length=64,
        label="Name of the experiment",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any = None, *, name: str) -> None:
        super().__init__(data, label_suffix="")
        self._name = name

    def clean_name(self) -> str:
        """Require the exact name of the experiment."""
        given: str = self.cleaned_data["name"]
        if given != self._name:
            raise forms.ValidationError(f"Enter the name exactly: {self._name}")
        return given


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of an experiment on disk.

    Attributes:
        size: in bytes; 0 if its weights were deleted.
        made: whether the iteration that trains it is completed.
    """

    number: int
    size: int
    made: bool


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Disk use of an experiment in bytes: tables and models."""

    total: int
    models: Sequence[StoredModel]

    @property
    def tables(self) -> int:
        """Size of everything except checkpoints."""
        return self.total - sum(model.size for model in self.models)

    @property
    def stores_base_model(self) -> bool:
        """Whether M0 is stored with the experiment; usually it is stored elsewhere."""
        return any(model.number == 0 for model in self.models)


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """A deletion to be confirmed.

    Attributes:
        obstacles: why the experiment cannot be deleted now.
    """

    disk: DiskUse | None
    iterations: int
    audits: int
    obstacles: Sequence[str]


def is_on_this_machine(experiment: Experiment) -> bool:
    """Whether the files can be measured without requests to a remote store."""
    return open_experiment_files(experiment).store.is_local


def read_disk_use(experiment: Experiment) -> DiskUse | None:
    """Measure the files of an experiment; None if its store cannot be read."""
    files = open_experiment_files(experiment)
    try:
        sizes = files.list_sizes()
    except (ArtifactError, OSError):
        return None
    folder = files.layout.folder
    models = []
    finished = {row.number for row in experiment.iterations.all() if row.model_out}
    for number in sorted(finished | {0}):
        prefix = files.layout.get_checkpoint(number).removeprefix(f"{folder}/") + "/"
        size = sum(size for path, size in sizes.items() if path.startswith(prefix))
        if number or size:
            models.append(StoredModel(number, size, number in finished))
    return DiskUse(sum(sizes.values()), models)


def plan_deletion(experiment: Experiment) -> DeletionPlan:
    """Collect what deleting an experiment frees, and what is lost."""
    completed = experiment.iterations.filter(status=RunStatus.FINISHED).count()
    return DeletionPlan(
        disk=read_disk_use(experiment),
        iterations=completed,
        audits=experiment.audits.count(),
        obstacles=list(_iter_obstacles(experiment)),
    )


def _iter_obstacles(experiment: Experiment) -> list[str]:
    found = []
    if is_busy(experiment):
        found.append("An iteration is running. Stop it first.")
    elif experiment.iterations.filter(status=RunStatus.PAUSED).exists():
        found.append("An iteration is paused. Stop it first.")
    folder = f"{open_experiment_files(experiment)}/"
    heirs = Experiment.objects.exclude(pk=experiment.pk).filter(
        base_model_folder__startswith=folder
    )
    if count := heirs.count():
        found.append(
            f"A model of this experiment is the base model of {count} other "
            f"experiment{'s'[: count != 1]}. Delete {'them' if count != 1 else 'it'} first."
        )
    return found
