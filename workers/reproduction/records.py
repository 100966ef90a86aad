"""A portable folder of records: results of runs, and gate results of base models.

    <folder>/<run>.json                 a finished run, while a new run would have the same
                                        fingerprint (`meta_reward_core.reporting.run_record`)
    <folder>/seed_models/<name>.json    a seed model's gate, and the hash of what was trained

The folder is enough to build the report: it needs no experiment and no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from meta_reward_core.data.file_io import write_atomically, write_json
from meta_reward_core.errors import ArtifactError
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.reporting.run_loader import ExperimentRun, read_run
from meta_reward_core.reporting.run_record import RunFingerprint, RunRecord, build_record
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.system.untrusted_input import parse_json
from meta_reward_core.tasks.toy.base_model import GateResult
from meta_reward_core.tasks.toy.base_model_variants import (
    SeedModelVariant,
    find_cached_variant,
    find_gate_result,
)
from webapp.experiments.models import Experiment
from webapp.reporting.selectors import get_summaries
from workers.reproduction.matrix import PlannedRun

StatusCallback = Callable[[str], None]

_SEED_MODELS: Final = "seed_models"


@dataclass(frozen=True, slots=True)
class SeedCandidate:
    """A trained and measured seed model.

    Attributes:
        model: sha256 of its folder; None if it failed the gate and was not kept.
    """

    gate: GateResult
    model: str | None


@dataclass(frozen=True, slots=True)
class SeedModelRecords:
    """Results of seed models, from the records folder or, failing that, from this machine.

    Attributes:
        models: parent folder of trained seed models.
        folder: folder of the records.
    """

    models: Path
    folder: Path
    say: StatusCallback

    def find_or_record(self, variant: SeedModelVariant) -> SeedCandidate | None:
        """Return a seed model's result if known; a result known only here is recorded.

        Raises:
            ArtifactError: a record cannot be read or written.
        """
        if (recorded := self._read_recorded(variant)) is not None:
            return recorded
        here = self.find_local(variant)
        if here is not None:
            self._record(variant, here)
        return here

    def find_local(self, variant: SeedModelVariant) -> SeedCandidate | None:
        """Return the result of a seed model tried on this machine, or shipped with the package."""
        gate = find_gate_result(variant, self.models)
        if gate is None:
            return None
        folder = find_cached_variant(variant, self.models)
        return SeedCandidate(gate, None if folder is None else hash_model_folder(folder))

    def get_path(self, variant: SeedModelVariant) -> Path:
        """Return the path of a seed model's record."""
        return self.folder / _SEED_MODELS / f"{variant.name}.json"

    def _read_recorded(self, variant: SeedModelVariant) -> SeedCandidate | None:
        path = self.get_path(variant)
        if not path.is_file():
            return None
        try:
            found = parse_json(path.read_bytes())
            if found["key"] == variant.key:
                return SeedCandidate(GateResult(**found["gate"]), found["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} is not a record of a base model ({error}): restore the original "
                "file, or remove it to train the base model again"
            ) from error
        self.say(f"{path.name} is not used: its training settings differ from the current ones")
        return None

    def _record(self, variant: SeedModelVariant, tried: SeedCandidate) -> None:
        path = self.get_path(variant)
        _make_folder(path.parent)
        write_json(path, {"key": variant.key, "gate": asdict(tried.gate), "model": tried.model})


class RunRecords:
    """Finished runs, from any machine.

    Args:
        folder: folder of the records.
        store: experiments on this machine; their files take precedence over their records.
        basis_of: computes the fingerprint that a new run would have.
        say: receives the reason why a record or a finished run does not count.
    """

    def __init__(
        self,
        folder: Path,
        store: ArtifactStore,
        *,
        basis_of: Callable[[PlannedRun], RunFingerprint],
        say: StatusCallback,
    ) -> None:
        self._folder = folder
        self._store = store
        self._basis_of = basis_of
        self._print_line = say
        self._said: set[str] = set()
        self._found: dict[str, ExperimentRun] = {}

    def find(self, run: PlannedRun) -> ExperimentRun | None:
        """Return a finished run, or None; record it if it was run on this machine.

        Raises:
            ArtifactError: a record cannot be written.
        """
        if run.name not in self._found:
            record = self._read_from_files(run) or self._read_from_record(run)
            if record is not None:
                self._found[run.name] = record.run
        return self._found.get(run.name)

    def count_iterations(self, run: PlannedRun) -> int:
        """Count the finished iterations of a run, by its files or its record."""
        found = self._found.get(run.name)
        return self._count_finished(run) if found is None else found.iterations

    def _read_from_files(self, run: PlannedRun) -> RunRecord | None:
        if self._count_finished(run) < run.iterations:
            return None
        what = f"the finished experiment {run.name}"
        try:
            record = build_record(self._store, self._read(run))
        except ArtifactError as error:
            self._report_invalid(what, [str(error)])
            return None
        if not self._is_valid(record, run, what=what):
            return None
        _make_folder(self._folder)
        write_atomically(self._get_path(run), [record.to_json().decode()])
        return record

    def _read(self, run: PlannedRun) -> ExperimentRun:
        row = Experiment.objects.filter(name=run.name).first()
        return read_run(
            ExperimentFiles(self._store, run.name),
            summaries=None if row is None else get_summaries(row),
            seed_model=None if run.model is None else f"SFT seed {run.model.sft_seed}",
            look_at_answers=True,
        )

    def _read_from_record(self, run: PlannedRun) -> RunRecord | None:
        path = self._get_path(run)
        if not path.is_file():
            return None
        try:
            record = RunRecord.from_json(path.read_bytes())
        except ArtifactError as error:
            self._report_invalid(path.name, [str(error)])
            return None
        return record if self._is_valid(record, run, what=path.name) else None

    def _is_valid(self, record: RunRecord, run: PlannedRun, *, what: str) -> bool:
        why = self._basis_of(run).list_differences(record.basis)
        if record.run.name != run.name:
            why.append(f"it is of {record.run.name}")
        if record.run.iterations < run.iterations:
            why.append(f"{record.run.iterations} of {run.iterations} iterations")
        if why:
            self._report_invalid(what, why)
        return not why

    def _report_invalid(self, what: str, why: Sequence[str]) -> None:
        """Report an invalid record only once, because runs are looked up repeatedly."""
        text = f"{what} is not used: {'; '.join(why)}"
        if text not in self._said:
            self._said.add(text)
            self._print_line(text)

    def _count_finished(self, run: PlannedRun) -> int:
        """Count the finished iterations of a run, by its files."""
        return ExperimentFiles(self._store, run.name).count_finished_iterations()

    def _get_path(self, run: PlannedRun) -> Path:
        return self._folder / f"{run.name}.json"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"could not create the folder {folder}: {error}") from error
