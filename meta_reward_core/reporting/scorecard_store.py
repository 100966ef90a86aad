"""Storage of the scorecards of an experiment's models.

There is one file for each benchmark of each model (see `storage.layout`), in the format of
`manage.py evaluate --output`. A judge's agreement with humans and its agreement with a model are
stored under different names. A later evaluation of the same model by the same rule replaces the
earlier one. Metrics of the tasks in `evaluation.tasks` are in the iterations' own tables and are
listed with them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from meta_reward_core.errors import InputError
from meta_reward_core.evaluation.scorecard import Scorecard, serialize_scorecard
from meta_reward_core.reporting.scorecard_schema import (
    ReferenceKind,
    ScorecardDict,
    parse_scorecard,
)
from meta_reward_core.reporting.task_scorecards import read_task_scorecards
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.layout import (
    ExperimentLayout,
    get_partition_path,
    parse_iteration_name,
    parse_model_name,
)
from meta_reward_core.system.command_hint import make_missing_experiment_error


@dataclass(frozen=True, slots=True)
class ScorecardFile:
    """A scorecard of M_number with its path relative to the experiment's folder."""

    number: int
    path: str
    card: ScorecardDict


_PLACE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)/M([0-9]{1,6})")
_TASK_TABLE: Final = get_partition_path("task_scorecards", 0)
_UNSAFE: Final = re.compile(r"[^a-z0-9.]+")


def save_scorecard(
    store: ArtifactStore,
    experiment: str,
    number: int,
    card: Scorecard,
    *,
    reference: ReferenceKind | None = None,
) -> str:
    """Store a scorecard of M_number; return its path.

    Args:
        reference: reference against which a judge's agreement was measured.

    Raises:
        InputError: the experiment does not exist.
        ArtifactError: the scorecard cannot be written.
    """
    files = ExperimentFiles(store, experiment)
    if not files.exists():
        raise make_missing_experiment_error(experiment, root=store.root)
    benchmark = _UNSAFE.sub("-", card.benchmark.lower()).strip("-")
    file = "-".join(filter(None, [benchmark, reference]))
    name = f"{files.layout.get_scorecards(number)}/{file}.json"
    store.delete(name)
    store.put_if_absent(
        name, encode_canonical_json({"reference": reference, **serialize_scorecard(card)})
    )
    return name


def parse_model_spec(text: str) -> tuple[str, int]:
    """Parse `EXPERIMENT/M<t>` into the experiment and the number of the model.

    Raises:
        InputError: the text does not have this form.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InputError(
            f"{text!r} does not specify a model: use EXPERIMENT/M0, EXPERIMENT/M1, ..."
        )
    return found[1], int(found[2])


def list_scorecards(files: ExperimentFiles, number: int) -> list[ScorecardDict]:
    """List all scorecards of M_number by name.

    Raises:
        ArtifactError: a scorecard cannot be read.
    """
    return [made.card for made in _iter_model_scorecards(files, number)]


def iter_scorecard_files(files: ExperimentFiles) -> Iterator[ScorecardFile]:
    """Yield all scorecards of an experiment by model, those of `evaluation.tasks` first.

    Raises:
        ArtifactError: a scorecard cannot be read.
    """
    found = map(parse_model_name, files.store.list_names(files.layout.evaluations))
    numbers = {number for number in found if number is not None}
    for number in sorted(numbers | _find_measured_models(files)):
        yield from _iter_model_scorecards(files, number)


def _find_measured_models(files: ExperimentFiles) -> set[int]:
    """Return the numbers of the models that tasks have measured."""
    store, layout = files.store, files.layout
    found = map(parse_iteration_name, store.list_names(layout.folder))
    iterations = {
        number
        for number in found
        if number and store.exists(f"{layout.get_iteration(number)}/{_TASK_TABLE}")
    }
    return iterations | ({0} if 1 in iterations else set())


def _iter_model_scorecards(files: ExperimentFiles, number: int) -> Iterator[ScorecardFile]:
    store, folder, inside = files.store, files.layout, ExperimentLayout("")
    table = f"{inside.get_iteration(max(number, 1))}/{_TASK_TABLE}"
    if store.exists(folder.get_path(table)):
        for card in read_task_scorecards(files, number):
            yield ScorecardFile(number, table, card)
    for name in store.list_names(folder.get_scorecards(number)):
        card = _read_scorecard(store, f"{folder.get_scorecards(number)}/{name}")
        yield ScorecardFile(number, f"{inside.get_scorecards(number)}/{name}", card)


def _read_scorecard(store: ArtifactStore, name: str) -> ScorecardDict:
    return parse_scorecard(store.read(name), place=str(store.get_path(name)))
