"""Where the scorecards of an experiment's models lie, so that its report finds them.

`<experiment>/evaluations/M<t>/<benchmark>.json`, as `manage.py evaluate --json` writes them; a
judge's agreement with people has a name of its own beside its agreement with a model. Another
evaluation of the same model by the same rule takes the place of the earlier one. What the tasks of
`evaluation.tasks` have measured lies in the iterations' own tables and is listed with them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.evaluation.scorecard import Scorecard, serialize_scorecard
from meta_reward_core.processes.command_hint import make_missing_experiment_error
from meta_reward_core.reporting.task_scorecards import read_task_scorecards
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.shards import get_partition_path

ScorecardDict = dict[str, Any]
ReferenceKind = Literal["model", "humans"]


@dataclass(frozen=True, slots=True)
class ScorecardFile:
    """A scorecard of M_number, and its file's path below the experiment's folder."""

    number: int
    path: str
    card: ScorecardDict


_PLACE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)/M([0-9]{1,6})")
_MODEL: Final = re.compile(r"M([0-9]{1,6})", re.ASCII)
_ITERATION: Final = re.compile(r"iteration-([1-9][0-9]{0,5})", re.ASCII)
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
    """Keep what an evaluation says of M_number; return where.

    Args:
        reference: of a judge's agreement: with whom.

    Raises:
        InputError: there is no such experiment.
        ArtifactError: it cannot be written.
    """
    if not store.exists(f"{experiment}/experiment.json"):
        raise make_missing_experiment_error(experiment, root=store.root)
    benchmark = _UNSAFE.sub("-", card.benchmark.lower()).strip("-")
    file = "-".join(filter(None, [benchmark, reference]))
    name = f"{experiment}/{_get_folder(number)}/{file}.json"
    store.delete(name)
    store.put_if_absent(
        name, encode_canonical_json({"reference": reference, **serialize_scorecard(card)})
    )
    return name


def parse_model_spec(text: str) -> tuple[str, int]:
    """The experiment and the number of a model that is named `EXPERIMENT/M<t>`.

    Raises:
        InputError: it is not named so.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} names no model: write EXPERIMENT/M0, EXPERIMENT/M1, ...")
    return found[1], int(found[2])


def list_scorecards(store: ArtifactStore, experiment: str, number: int) -> list[ScorecardDict]:
    """All scorecards of M_number, by name.

    Raises:
        ArtifactError: one of them is not readable.
    """
    return [made.card for made in _iter_model_scorecards(store, experiment, number)]


def iter_scorecard_files(store: ArtifactStore, experiment: str) -> Iterator[ScorecardFile]:
    """All scorecards of an experiment, by model; those of `evaluation.tasks` before kept ones.

    Raises:
        ArtifactError: one of them is not readable.
    """
    models = store.names(f"{experiment}/evaluations")
    numbers = {int(found[1]) for found in map(_MODEL.fullmatch, models) if found}
    for number in sorted(numbers | _find_measured_models(store, experiment)):
        yield from _iter_model_scorecards(store, experiment, number)


def _find_measured_models(store: ArtifactStore, experiment: str) -> set[int]:
    """Numbers of the models that tasks have measured."""
    folders = map(_ITERATION.fullmatch, store.names(experiment))
    iterations = {
        int(found[1])
        for found in folders
        if found and store.exists(f"{experiment}/{found[0]}/{_TASK_TABLE}")
    }
    return iterations | ({0} if 1 in iterations else set())


def _iter_model_scorecards(
    store: ArtifactStore, experiment: str, number: int
) -> Iterator[ScorecardFile]:
    table = f"iteration-{max(number, 1)}/{_TASK_TABLE}"
    if store.exists(f"{experiment}/{table}"):
        for card in read_task_scorecards(store, experiment, number):
            yield ScorecardFile(number, table, card)
    for name in store.names(f"{experiment}/{_get_folder(number)}"):
        path = f"{_get_folder(number)}/{name}"
        yield ScorecardFile(number, path, _read_scorecard(store, f"{experiment}/{path}"))


def _read_scorecard(store: ArtifactStore, name: str) -> ScorecardDict:
    try:
        card: ScorecardDict = json.loads(store.read(name))
        if not isinstance(card["figures"], list) or not isinstance(card["benchmark"], str):
            raise TypeError("not a scorecard")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{store.path(name)} is no scorecard ({error}): remove it, or evaluate again"
        ) from error
    return card


def _get_folder(number: int) -> str:
    """Below the experiment's folder."""
    return f"evaluations/M{number}"
