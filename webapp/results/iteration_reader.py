"""An iteration's files, opened once and reopened only when its manifests change."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.method.battles import PositionWeights, compute_weights_from_counts
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore, hash_json
from meta_reward_core.storage.records import Battle
from meta_reward_core.storage.schemas import SCHEMAS, TOKEN_COLUMNS, list_columns, to_records
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.files import open_iteration_files, read_iteration_recipe
from webapp.experiments.models import Experiment

_MAX_OPEN: Final = 32
_REMOTE_SECONDS: Final = 10.0
_SETTLED_SECONDS: Final = 2.0
"""A folder changed more recently than this may change again with the same timestamp."""


@dataclass(frozen=True, slots=True)
class OpenIteration:
    """An iteration's files as of the manifests when it was opened.

    Attributes:
        number: t, from 1.
        state: hash of the contents of the manifests.
    """

    experiment: Experiment
    number: int
    recipe: Recipe
    files: IterationFiles
    state: str

    @property
    def weights(self) -> PositionWeights:
        """Position weights of the battles so far, from the counts of their shards."""
        made = [
            found.counts for found in self.files.list_manifests() if found.stage == "meta_judge"
        ]
        return compute_weights_from_counts(
            wins_first=sum(counts["won_by_first"] for counts in made),
            wins_second=sum(counts["won_by_second"] for counts in made),
            ties=sum(counts["ties"] for counts in made),
            unparsed=sum(counts["unparsed"] for counts in made),
        )

    def is_made(self, stage: str) -> bool:
        """Whether a single-shard stage is finished."""
        return self.files.find_manifest(stage) is not None


_lock = threading.Lock()
_opened: OrderedDict[tuple[str, UUID, int], tuple[float, OpenIteration]] = OrderedDict()


def open_iteration(experiment: Experiment, number: int) -> OpenIteration:
    """Open the current files of an iteration."""
    place = (experiment.artifact_root, experiment.uuid, number)
    files = open_iteration_files(experiment, number)
    stamp = _get_change_time(files.store, files.manifests_folder)
    with _lock:
        known = _opened.get(place)
        if known is not None and known[0] == stamp and _is_same(known[1].experiment, experiment):
            _opened.move_to_end(place)
            return known[1]
    opened = _open_files(experiment, number, files)
    if _is_settled(stamp, is_local=files.store.is_local):
        with _lock:
            _opened[place] = (stamp, opened)
            while len(_opened) > _MAX_OPEN:
                _opened.popitem(last=False)
    return opened


def _is_same(known: Experiment, now: Experiment) -> bool:
    """Whether the database row is unchanged; pages show its values."""
    return known == now and known.recipe == now.recipe


def _open_files(experiment: Experiment, number: int, files: IterationFiles) -> OpenIteration:
    promised = {
        f"{made.stage}-{made.shard}": [part.sha256 for part in made.parts]
        for made in files.list_manifests()
    }
    recipe = read_iteration_recipe(experiment, number)
    return OpenIteration(experiment, number, recipe, files, hash_json(promised))


def _get_change_time(store: ArtifactStore, folder: str) -> float:
    """Return the last change of the manifests; a remote store is queried every few seconds."""
    if not store.is_local:
        return time.time() // _REMOTE_SECONDS * _REMOTE_SECONDS
    try:
        return store.get_local_path(folder).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_settled(stamp: float, *, is_local: bool) -> bool:
    return not is_local or time.time() - stamp > _SETTLED_SECONDS


def read_prompt_rows(files: IterationFiles, table: str, part: int, prompt_id: str) -> pa.Table:
    """Read the rows of one prompt from a partition, without token ids.

    Raises:
        DamagedArtifactError: a file does not match its manifest.
    """
    columns = [name for name in SCHEMAS[table].names if name not in TOKEN_COLUMNS]
    return _filter_by_prompt(files.read(table, part, columns=columns), prompt_id)


def read_outcomes(files: IterationFiles, part: int, prompt_id: str | None = None) -> list[Battle]:
    """Read the battle outcomes of a partition, for one prompt or all, without texts.

    Raises:
        DamagedArtifactError: a file does not match its manifest.
    """
    names = [name for name in list_columns(Battle) if name != "text"]
    rows = files.read("battles", part, columns=names)
    if prompt_id is not None:
        rows = _filter_by_prompt(rows, prompt_id)
    blank = pa.array([""] * rows.num_rows, pa.string())
    return to_records(rows.append_column("text", blank), Battle)


def _filter_by_prompt(rows: pa.Table, prompt_id: str) -> pa.Table:
    return rows.filter(pc.equal(rows["prompt_id"], prompt_id))
