"""A finished run as one small file: all that a report reads of it, and what it was a function of.

A record outlives the run's own files and the machine that made them. It counts for as long as a
new run under its name would begin with the same settings, words, instructions, seed and M0, in the
same version of the world and of the tables; nothing that it is compared by names a machine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from meta_reward_core.artifacts import ArtifactStore, canonical_json, digest_of
from meta_reward_core.errors import ArtifactError, RecipeError
from meta_reward_core.evaluation.figures import Finding
from meta_reward_core.experiment import kept_templates
from meta_reward_core.miniature.world import WORLD_VERSION
from meta_reward_core.recipes import parse_recipe
from meta_reward_core.reporting.runs import Run
from meta_reward_core.shards import IterationFiles
from meta_reward_core.tables import MEANING_VERSION

_FORMAT: Final = 1
_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Basis:
    """What a run is a function of; the same on every machine.

    Attributes:
        recipe: sha256 of the recipe's values as this version reads them.
        templates: sha256 of the words in which judge and meta-judge are asked.
        prompts: sha256 of the ids of the instructions that it draws from, in order.
        seed: of everything random.
        seed_model: sha256 of M0; None where nobody here knows it.
        world: version of the miniature world.
        schema: version of what the tables mean.
    """

    recipe: str
    templates: str
    prompts: str
    seed: int
    seed_model: str | None
    world: int = WORLD_VERSION
    schema: int = MEANING_VERSION

    def differences(self, recorded: Self) -> list[str]:
        """What a run of today would have otherwise than a recorded one, in words."""
        pairs = [
            (one.name.replace("_", " "), getattr(recorded, one.name), getattr(self, one.name))
            for one in fields(self)
        ]
        return [
            f"{name} {_short(then)} then, {_short(now)} now"
            for name, then, now in pairs
            if then != now and None not in (then, now)
        ]


def _short(value: object) -> str:
    return str(value)[:_SHOWN]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run and what it rests on."""

    run: Run
    basis: Basis

    def to_json(self) -> bytes:
        """Write the record; the same record gives the same bytes."""
        content = {"run": _run_json(self.run), "basis": asdict(self.basis)}
        return canonical_json({"format": _FORMAT, "sha256": digest_of(content), **content})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a record.

        Raises:
            ArtifactError: the bytes are no record, or were changed since it was written.
        """
        try:
            found = json.loads(data)
            content = {"run": found["run"], "basis": found["basis"]}
            if found["format"] != _FORMAT or digest_of(content) != found["sha256"]:
                raise ValueError("it was changed, or written by another version")
            run = _run_of(content["run"])
            return cls(run, Basis(**content["basis"] | {"recipe": run.recipe.sha256}))
        except (ValueError, KeyError, TypeError, RecipeError) as error:
            raise ArtifactError(f"it is no record of a run: {error}") from error


def record_of(store: ArtifactStore, run: Run) -> RunRecord:
    """The record of a run that was read from an experiment's files.

    Raises:
        ArtifactError: the files are gone or damaged.
    """
    words = json.loads(store.read(f"{run.name}/experiment.json"))["templates"]
    pool = IterationFiles(store, f"{run.name}/iteration-0").read("prompts")
    return RunRecord(
        run,
        Basis(
            recipe=run.recipe.sha256,
            templates=kept_templates(words).sha256,
            prompts=digest_of(pool["prompt_id"].to_pylist()),
            seed=run.seed,
            seed_model=run.models[0],
        ),
    )


def _run_json(run: Run) -> dict[str, Any]:
    values = {one.name: getattr(run, one.name) for one in fields(run)}
    return values | {
        "recipe": run.recipe.model_dump(mode="json"),
        "figures": [[*key, *figure] for key, figure in run.figures.items()],
        "gaming": None if run.gaming is None else _findings_json(run.gaming),
    }


def _findings_json(gaming: Mapping[int, Sequence[Finding]]) -> dict[int, list[dict[str, Any]]]:
    return {number: [asdict(one) for one in found] for number, found in gaming.items()}


def _run_of(values: Mapping[str, Any]) -> Run:
    read = {
        "recipe": parse_recipe(values["recipe"], origin=values["name"]),
        "figures": {tuple(row[:4]): tuple(row[4:]) for row in values["figures"]},
        "cards": _by_number(values["cards"]),
        "gaming": None if values["gaming"] is None else _findings_of(values["gaming"]),
    }
    return Run(**{**values, **read})


def _findings_of(values: Mapping[str, Any]) -> dict[int, list[Finding]]:
    return {
        number: [Finding(**one) for one in found] for number, found in _by_number(values).items()
    }


def _by_number(values: Mapping[str, Any]) -> dict[int, Any]:
    """JSON's keys are texts."""
    return {int(number): value for number, value in values.items()}
