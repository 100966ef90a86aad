"""Where the scorecards of an experiment's models lie, so that its report finds them.

`<experiment>/evaluations/M<t>/<benchmark>.json`, as `manage.py evaluate --json` writes them; a
judge's agreement with people has a name of its own beside its agreement with a model. Another
evaluation of the same model by the same rule takes the place of the earlier one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from meta_reward_core.artifacts import ArtifactStore, canonical_json
from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.evaluation.figures import Scorecard, scorecard_json
from meta_reward_core.shown_commands import no_experiment

Card = dict[str, Any]
ReferenceKind = Literal["model", "humans"]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A scorecard of M_number, and its file's path below the experiment's folder."""

    number: int
    path: str
    card: Card


_PLACE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)/M([0-9]{1,6})")
_MODEL: Final = re.compile(r"M([0-9]{1,6})", re.ASCII)
_UNSAFE: Final = re.compile(r"[^a-z0-9.]+")


def keep_card(
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
        raise no_experiment(experiment, root=store.root)
    benchmark = _UNSAFE.sub("-", card.benchmark.lower()).strip("-")
    file = "-".join(filter(None, [benchmark, reference]))
    name = f"{experiment}/{_folder(number)}/{file}.json"
    store.delete(name)
    store.put_if_absent(name, canonical_json({"reference": reference, **scorecard_json(card)}))
    return name


def read_place(text: str) -> tuple[str, int]:
    """The experiment and the number of a model that is named `EXPERIMENT/M<t>`.

    Raises:
        InputError: it is not named so.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} names no model: write EXPERIMENT/M0, EXPERIMENT/M1, ...")
    return found[1], int(found[2])


def kept_cards(store: ArtifactStore, experiment: str, number: int) -> list[Card]:
    """All scorecards of M_number, by name.

    Raises:
        ArtifactError: one of them is not readable.
    """
    return [made.card for made in _kept(store, experiment, number)]


def kept_files(store: ArtifactStore, experiment: str) -> Iterator[KeptFile]:
    """All scorecards of an experiment, by model and name.

    Raises:
        ArtifactError: one of them is not readable.
    """
    models = store.names(f"{experiment}/evaluations")
    numbers = sorted(int(found[1]) for found in map(_MODEL.fullmatch, models) if found)
    for number in numbers:
        yield from _kept(store, experiment, number)


def _kept(store: ArtifactStore, experiment: str, number: int) -> Iterator[KeptFile]:
    for name in store.names(f"{experiment}/{_folder(number)}"):
        path = f"{_folder(number)}/{name}"
        yield KeptFile(number, path, _read(store, f"{experiment}/{path}"))


def _read(store: ArtifactStore, name: str) -> Card:
    try:
        card: Card = json.loads(store.read(name))
        if not isinstance(card["figures"], list) or not isinstance(card["benchmark"], str):
            raise TypeError("not a scorecard")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{store.path(name)} is no scorecard ({error}): remove it, or evaluate again"
        ) from error
    return card


def _folder(number: int) -> str:
    """Below the experiment's folder."""
    return f"evaluations/M{number}"
