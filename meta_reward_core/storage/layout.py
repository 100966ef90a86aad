"""Paths of the files of an experiment. Only this module defines paths below a store's root.

    <folder>/experiment.json                        recipe, templates, seed and M0 at creation
    <folder>/settings/00001.json, ...               changes of the recipe since, in order
    <folder>/model_check.json                       results of the model check at creation
    <folder>/model_checks/<hash>.json               the same after a change of settings
    <folder>/evaluation-data/<task>.json            items on which a task measures every model
    <folder>/evaluation-data/development/<task>.json  items by which a task selects checkpoints
    <folder>/evaluations/M<t>/<benchmark>.json      scorecards of a model
    <folder>/iteration-0/                           the pool of prompts; in a remote store also M0
    <folder>/iteration-<t>/<table>/part-<k>.parquet
    <folder>/iteration-<t>/manifests/<stage>-<shard>.json
    <folder>/iteration-<t>/probe/                   report and rows of the judge probe
    <folder>/iteration-<t>/checkpoint/              M_t
    <folder>/iteration-<t>/manifest.json            written last: the iteration is finished

`<folder>` is the experiment's name: a label, which can be reused after a deletion. The UUID in
`experiment.json`, which is never reused, identifies the experiment; folders outside the store
(scratch, publications) contain the UUID. All other code uses `ExperimentFiles` (to open files) or
this module (for names), so the folder name could be changed here alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

POOL: Final = 0
"""The pseudo-iteration with the pool of prompts."""

CHECKPOINT: Final = "checkpoint"
"""Folder of the model that an iteration trains, relative to the iteration's folder."""

REWARD_MODEL: Final = "reward_model"
"""Copy of the reward model of a remote experiment, relative to the pool's folder."""

FINAL_MANIFEST: Final = "manifest.json"
"""File that marks an iteration as finished, relative to the iteration's folder."""

SHARD_MANIFESTS: Final = "manifests"
"""Folder of the shards' manifests, relative to the iteration's folder."""

PROBE_REPORT: Final = "probe/report.json"
"""Report of the judge probe of an iteration, relative to the iteration's folder."""

PROBE_ACCEPTANCE: Final = "probe/accepted.json"
"""File with the user who accepted the probe's findings, relative to the iteration's folder."""

BREAKER_ACCEPTANCE: Final = "breakers/accepted.json"
"""File with the accepted causes of stopped stages, relative to the iteration's folder."""

_DESCRIPTION: Final = "experiment.json"
_MODEL_RECHECKS: Final = "model_checks"
_SETTINGS: Final = "settings"
_MODEL_CHECK: Final = "model_check.json"
_EVALUATIONS: Final = "evaluations"
_EVALUATION_ITEMS: Final = "evaluation-data"
_ITERATION: Final = "iteration-"
_SHARD_MANIFEST: Final = re.compile(r"(?P<stage>\w+)-(?P<shard>\d{5,})\.json")
_SETTINGS_FILE: Final = re.compile(r"(?P<number>\d{5})\.json", re.ASCII)
_MODEL: Final = re.compile(r"M(?P<number>[0-9]{1,6})", re.ASCII)

_EARLIER: Final = UUID("6f1a0a52-6a3e-4f0b-9a59-0d6a7ad0c1f3")
"""Namespace of the UUIDs of experiments that were created without one."""
_EARLIER_VERSION: Final = 5
"""Version of these UUIDs; their experiments keep using the scratch folders of their names."""

_PLAIN_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,249}"
ITERATION_PATTERN: Final = rf"{_ITERATION}(?P<number>\d{{1,6}})"
"""Regular expression of an iteration's folder below the experiment's; group `number`."""


@dataclass(frozen=True, slots=True)
class ExperimentLayout:
    """Names of the files of one experiment.

    Attributes:
        folder: folder of the experiment, below the store's root; with "", names are relative to the
            experiment's folder.
        uuid: UUID of the experiment, for folders outside the store; None if the layout belongs to
            no experiment.
    """

    folder: str
    uuid: UUID | None = None

    @classmethod
    def from_name(cls, name: str, uuid: UUID | None = None) -> "ExperimentLayout":
        """Lay out the experiment of this name."""
        return cls(name, uuid)

    @property
    def description(self) -> str:
        """Name of the file that describes the experiment."""
        return self.get_path(_DESCRIPTION)

    def get_model_recheck(self, key: str) -> str:
        """Name of the results of a model check of changed settings, by the hash of the settings."""
        return self.get_path(f"{_MODEL_RECHECKS}/{key}.json")

    @property
    def lock(self) -> str:
        """Name of the lock: a file in a local store, a folder in a remote one."""
        return self.get_path(".lock")

    @property
    def settings(self) -> str:
        """Folder of the settings changes."""
        return self.get_path(_SETTINGS)

    @property
    def model_check(self) -> str:
        """Name of the report of the model check at creation."""
        return self.get_path(_MODEL_CHECK)

    @property
    def evaluations(self) -> str:
        """Folder of the scorecards of all models."""
        return self.get_path(_EVALUATIONS)

    @property
    def evaluation_items(self) -> str:
        """Folder of the items on which tasks measure every model."""
        return self.get_path(_EVALUATION_ITEMS)

    def get_settings_change(self, number: int) -> str:
        """Name of a settings change, counted from 1."""
        return f"{self.settings}/{number:05d}.json"

    def get_scorecards(self, number: int) -> str:
        """Folder of the scorecards of M_number."""
        return f"{self.evaluations}/M{number}"

    def get_evaluation_items(self, task: str) -> str:
        """Name of the file with a task's evaluation items, the same for every model."""
        return self.get_path(f"{_EVALUATION_ITEMS}/{task}.json")

    def get_development_items(self, task: str) -> str:
        """Name of the file with the items of a task that selects checkpoints."""
        return self.get_path(f"{_EVALUATION_ITEMS}/development/{task}.json")

    def get_iteration(self, number: int) -> str:
        """Folder of an iteration; see `POOL`."""
        return self.get_path(f"{_ITERATION}{number}")

    def get_checkpoint(self, number: int) -> str:
        """Folder of the model that an iteration trains."""
        return f"{self.get_iteration(number)}/{CHECKPOINT}"

    def get_path(self, path: str) -> str:
        """Name of a file by its path relative to the experiment's folder."""
        return f"{self.folder}/{path}" if self.folder else path

    def get_scratch(self, root: Path, number: int | None = None) -> Path:
        """Private folder of the experiment, or of one of its iterations, below a scratch root."""
        uuid = self.uuid
        if uuid is None or uuid.version == _EARLIER_VERSION:
            folder = root / self.folder
        else:
            folder = root / label_folder(self.folder, uuid)
        return folder if number is None else folder / f"{_ITERATION}{number}"

    def is_own_folder(self, name: str) -> bool:
        """Whether an experiment writes a folder of this name into its own folder."""
        folders = (_SETTINGS, _EVALUATIONS, _EVALUATION_ITEMS)
        return name in folders or parse_iteration_name(name) is not None


def label_folder(name: str, uuid: UUID) -> str:
    """Readable name of a folder that is unique to this experiment."""
    return f"{name}-{uuid.hex}"


def derive_earlier_uuid(
    name: str, *, recipe_sha256: str, seed: int, base_model_sha256: str
) -> UUID:
    """UUID of an experiment that was created before descriptions had one.

    Its files are not rewritten: the same value is derived from rows and from descriptions.
    """
    return uuid5(_EARLIER, f"{name} {recipe_sha256} {seed} {base_model_sha256}")


def get_partition_path(table: str, part: int) -> str:
    """Path of a partition of a table, relative to the iteration's folder."""
    return f"{table}/part-{part:05d}.parquet"


def get_table_path(table: str) -> str:
    """Path of all partitions of a table, relative to the iteration's folder."""
    return table


def parse_partition_number(path: str) -> int:
    """Parse the number of a partition from its path."""
    return int(path.removesuffix(".parquet").rpartition("-")[2])


def get_breaker_path(stage: str) -> str:
    """Path of the finding that stopped a stage, relative to the iteration's folder."""
    return f"breakers/{stage}.json"


def get_probe_table_path(table: str) -> str:
    """Path of the rows that the judge probe sampled, relative to the iteration's folder."""
    return f"probe/{table}.parquet"


def get_shard_manifest_path(stage: str, shard: int) -> str:
    """Path of a shard's manifest, relative to the iteration's folder."""
    return f"{SHARD_MANIFESTS}/{stage}-{shard:05d}.json"


def parse_shard_manifest_name(name: str) -> tuple[str, int] | None:
    """Parse stage and number from the name of a shard manifest; None for another file."""
    found = _SHARD_MANIFEST.fullmatch(name)
    return None if found is None else (found["stage"], int(found["shard"]))


def parse_settings_change_name(name: str) -> int | None:
    """Parse the number of a settings change from its file name; None for another file."""
    found = _SETTINGS_FILE.fullmatch(name)
    return None if found is None else int(found["number"])


def get_iteration_name(number: int) -> str:
    """Return the name of the folder of an iteration."""
    return f"{_ITERATION}{number}"


def parse_iteration_name(name: str) -> int | None:
    """Parse the number of an iteration from its folder name; None for another folder."""
    found = re.fullmatch(ITERATION_PATTERN, name, re.ASCII)
    return None if found is None else int(found["number"])


def parse_model_name(name: str) -> int | None:
    """Parse t from a model name M<t>; None for another name."""
    found = _MODEL.fullmatch(name)
    return None if found is None else int(found["number"])


def get_experiment_folder(iteration_folder: str) -> str:
    """Return the experiment folder that contains an iteration folder."""
    return iteration_folder.rpartition("/")[0]


def is_plain_name(name: str) -> bool:
    """Whether a checkpoint file can be offered for download: neither a folder nor hidden."""
    return re.fullmatch(_PLAIN_NAME, name) is not None


def compile_stored_pattern(tables: Iterable[str]) -> re.Pattern[str]:
    """Compile the pattern of valid paths of an experiment's files, relative to its folder.

    The lock and incomplete files are excluded. A checkpoint is flat: its folders are excluded.

    Args:
        tables: names of the tables that an iteration may have.
    """
    return re.compile(
        rf"{re.escape(_DESCRIPTION)}"
        rf"|{re.escape(_MODEL_CHECK)}"
        rf"|{_MODEL_RECHECKS}/[0-9a-f]{{64}}\.json"
        rf"|{_SETTINGS}/\d{{5}}\.json"
        rf"|{_EVALUATIONS}/M\d{{1,6}}/{_PLAIN_NAME}\.json"
        rf"|{_ITERATION}\d{{1,6}}/(?:"
        rf"{re.escape(FINAL_MANIFEST)}"
        rf"|{SHARD_MANIFESTS}/[a-z_]+-\d{{5}}\.json"
        rf"|(?:{'|'.join(map(re.escape, tables))})/part-\d{{5}}\.parquet"
        rf"|(?:{CHECKPOINT}|{REWARD_MODEL})/{_PLAIN_NAME}"
        rf"|probe/[a-z]+\.(?:json|parquet)"
        rf"|breakers/[a-z_]+\.json"
        r")",
        re.ASCII,
    )
