"""Make a batch: draw items from an iteration's files, and copy the few texts that they need."""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from django.contrib.auth.models import User
from django.db import transaction

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.audit.sampling import Place, Sample, draw_sample, order_places
from meta_reward_core.audit.units import (
    JudgedPair,
    Kind,
    ScoredResponse,
    Unit,
    describe_pairs,
    describe_responses,
    find_pairs,
)
from meta_reward_core.errors import InputError
from meta_reward_core.records import Battle, Judgment, Rating, ResponseScore
from meta_reward_core.seeds import derive_seed
from meta_reward_core.shards import IterationFiles
from meta_reward_core.tables import columns_of, table_name
from webapp.audit.acts import set_auditors
from webapp.audit.models import Batch, Item, Truth
from webapp.experiments.models import Experiment, StageStatus

Record = TypeVar("Record")
Facts = dict[str, Any]
Say = Callable[[str], None]

SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "judgments": ("battles", "ratings"),
    "responses": ("scores",),
}
"""Tables that the items of a kind are drawn from."""
_OUTCOME: Final = [name for name in columns_of(Battle) if name != "text"]
_STAGES: Final[Mapping[str, str]] = {"judgments": "pair_judge", "responses": "judge"}


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch shall be.

    Attributes:
        size: distinct items.
        same_share, other_share: shares of them that come again.
    """

    kind: Kind
    strategy: str
    size: int
    seed: int
    same_share: float
    other_share: float
    hides_score_lines: bool
    reveals_at_once: bool
    guidelines: str


@dataclass(frozen=True, slots=True)
class _Population:
    """Everything that could be drawn, and what is known of an item, by its key."""

    units: Sequence[Unit]
    facts_of: Callable[[str], Facts]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of the drawn items alone, by id."""

    prompts: Mapping[str, str]
    responses: Mapping[str, str]
    judgments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """A batch that is not written yet.

    Attributes:
        digest: hash of the files that it was drawn from.
        facts: what judge and meta-judge said of the drawn items, by key.
    """

    experiment: Experiment
    number: int
    plan: BatchPlan
    digest: str
    sample: Sample
    facts: Mapping[str, Facts]
    texts: Texts


def _say_nothing(doing: str) -> None:
    """Nobody wants to know."""


def iteration_files(experiment: Experiment, number: int) -> IterationFiles:
    """Open the files of an iteration."""
    store = ArtifactStore(experiment.artifact_root)
    return IterationFiles(store, f"{experiment.name}/iteration-{number}")


def source_digest(experiment: Experiment, number: int, kind: str) -> str:
    """Hash the files that items of a kind are drawn from, as they are now."""
    return iteration_files(experiment, number).inputs_digest(SOURCES[kind])


def experiment_words(experiment: Experiment) -> dict[str, str]:
    """Rubric and templates that the experiment began with.

    Raises:
        InputError: its files are gone.
    """
    store = ArtifactStore(experiment.artifact_root)
    name = f"{experiment.name}/experiment.json"
    if not store.exists(name):
        raise InputError(f"the files of experiment {experiment.name!r} are gone")
    words: dict[str, str] = json.loads(store.read(name))["templates"]
    return words


def make_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    *,
    by: User | None,
    auditors: Iterable[User] = (),
) -> Batch:
    """Draw the items of a batch and write their rows, all or none.

    Raises:
        InputError: the iteration has no finished stage to draw from, or the plan cannot be drawn.
        ArtifactError: files are gone or damaged.
    """
    return write_batch(draw_batch(experiment, number, plan), by=by, auditors=auditors)


def draw_batch(
    experiment: Experiment, number: int, plan: BatchPlan, *, say: Say = _say_nothing
) -> DrawnBatch:
    """Draw the items of a batch, without a row; it takes a while where an iteration is large.

    Args:
        say: told what is being read.

    Raises:
        InputError: the iteration has no finished stage to draw from, or the plan cannot be drawn.
        ArtifactError: files are gone or damaged.
    """
    require_finished(experiment, number, plan.kind)
    files = iteration_files(experiment, number)
    digest = files.inputs_digest(SOURCES[plan.kind])
    population = _POPULATIONS[plan.kind](files, say)
    sample = draw_sample(
        population.units,
        strategy=plan.strategy,
        size=plan.size,
        rng=random.Random(derive_seed(plan.seed, "audit")),
    )
    say("reading the texts of the items that were drawn")
    facts = {drawn.key: population.facts_of(drawn.key) for drawn in sample.drawn}
    texts = _texts_of(files, list(facts.values()))
    return DrawnBatch(experiment, number, plan, digest, sample, facts, texts)


def write_batch(drawn: DrawnBatch, *, by: User | None, auditors: Iterable[User] = ()) -> Batch:
    """Write the rows of a batch, all or none."""
    plan, experiment = drawn.plan, drawn.experiment
    with transaction.atomic():
        batch = Batch.objects.create(
            experiment=experiment,
            subject=experiment.name,
            iteration=drawn.number,
            kind=plan.kind,
            strategy=plan.strategy,
            seed=plan.seed,
            strata=[asdict(stratum) for stratum in drawn.sample.strata],
            source_sha256=drawn.digest,
            hides_score_lines=plan.hides_score_lines,
            reveals_at_once=plan.reveals_at_once,
            same_share=plan.same_share,
            other_share=plan.other_share,
            guidelines=plan.guidelines,
            rubric=experiment_words(experiment)["rubric"],
            by=by,
        )
        set_auditors(batch, auditors, by=by)
        _write_items(batch, drawn)
    return batch


def require_finished(experiment: Experiment, number: int, kind: Kind) -> None:
    """Refuse to draw from a stage that is not finished.

    Raises:
        InputError: it is not.
    """
    stage = _STAGES[kind]
    finished = experiment.iterations.filter(
        number=number, stages__name=stage, stages__status=StageStatus.FINISHED
    )
    if not finished.exists():
        raise InputError(
            f"iteration {number} of {experiment.name!r} has no finished stage {stage!r} to draw "
            "from: wait for it, or choose another iteration"
        )


def _read(files: IterationFiles, record: type[Record]) -> list[Record]:
    return [row for part in files.part_numbers(table_name(record))
            for row in files.read_records(record, part)]  # fmt: skip


def _pairs_of(files: IterationFiles, say: Say) -> _Population:
    battles: list[Battle] = []
    judgments: dict[str, Judgment] = {}
    parts = files.part_numbers("battles")
    for place, part in enumerate(parts, start=1):
        say(f"reading battles, part {place} of {len(parts)}")
        fought = [Battle(text="", **row) for row in
                  files.read("battles", part, columns=_OUTCOME).to_pylist()]  # fmt: skip
        names = {b.first_judgment_id for b in fought} | {b.second_judgment_id for b in fought}
        written = files.read_records(Judgment, part)
        judgments |= {j.judgment_id: j for j in written if j.judgment_id in names}
        battles += fought
    chosen = files.read("judge_pairs", columns=["chosen_judgment_id", "rejected_judgment_id"])
    decided = [frozenset(row.values()) for row in chosen.to_pylist()]
    say("sorting pairs into strata")
    pairs = find_pairs(battles, judgments, _read(files, Rating), decided)
    units = describe_pairs(pairs)
    known = {pair.key: (pair, unit.strata) for pair, unit in zip(pairs, units, strict=True)}
    return _Population(units, lambda key: _pair_facts(*known[key]))


def _pair_facts(pair: JudgedPair, groups: Mapping[str, str]) -> Facts:
    return {
        "prompt_id": pair.first.prompt_id,
        "response_id": pair.first.response_id,
        "first_judgment_id": pair.first.judgment_id,
        "second_judgment_id": pair.second.judgment_id,
        "forward": pair.forward,
        "backward": pair.backward,
        "elo_first": pair.elo_first,
        "elo_second": pair.elo_second,
        "score_first": pair.first.score,
        "score_second": pair.second.score,
        "chars_first": len(pair.first.text),
        "chars_second": len(pair.second.text),
        "cut_off_first": pair.first.is_cut_off,
        "cut_off_second": pair.second.is_cut_off,
        "decided_pair": pair.decided_pair,
        "groups": dict(groups),
    }


def _responses_of(files: IterationFiles, say: Say) -> _Population:
    say("reading scores")
    paired: set[str] = set()
    if files.parts("actor_pairs"):
        chosen = files.read("actor_pairs", columns=["chosen_response_id", "rejected_response_id"])
        paired = {*chosen["chosen_response_id"].to_pylist(),
                  *chosen["rejected_response_id"].to_pylist()}  # fmt: skip
    scored = {
        score.response_id: ScoredResponse(score, score.response_id in paired)
        for score in _read(files, ResponseScore)
    }
    units = describe_responses(scored.values())
    strata = {unit.key: unit.strata for unit in units}
    return _Population(units, lambda key: _response_facts(scored[key].score, strata[key]))


def _response_facts(score: ResponseScore, groups: Mapping[str, str]) -> Facts:
    return {
        "prompt_id": score.prompt_id,
        "response_id": score.response_id,
        "mean": score.mean,
        "variance": score.variance,
        "valid": score.valid,
        "groups": dict(groups),
    }


_POPULATIONS: Final = {"judgments": _pairs_of, "responses": _responses_of}


def _texts_of(files: IterationFiles, drawn: Sequence[Facts]) -> Texts:
    names = [fact.get(f"{side}_judgment_id") for fact in drawn for side in ("first", "second")]
    return Texts(
        prompts=_column(files, "prompts", "prompt_id", [fact["prompt_id"] for fact in drawn]),
        responses=_column(
            files, "responses", "response_id", [fact["response_id"] for fact in drawn]
        ),
        judgments=_column(files, "judgments", "judgment_id", names),
    )


def _column(
    files: IterationFiles, table: str, key: str, wanted: Iterable[str | None]
) -> dict[str, str]:
    names = {name for name in wanted if name}
    found: dict[str, str] = {}
    for part in files.part_numbers(table) if names else ():
        rows = files.read(table, part, columns=[key, "text"]).to_pylist()
        found |= {row[key]: row["text"] for row in rows if row[key] in names}
    return found


def _write_items(batch: Batch, drawn: DrawnBatch) -> None:
    rng = random.Random(derive_seed(batch.seed, "audit-order"))
    places = order_places(
        len(drawn.sample.drawn), same=batch.same_share, other=batch.other_share, rng=rng
    )
    items = [_item(batch, number, place, drawn) for number, place in enumerate(places, start=1)]
    for item in items:
        item.is_swapped = rng.random() < 0.5
    originals = {
        place.index: item for place, item in zip(places, items, strict=True) if place.again is None
    }
    Item.objects.bulk_create(originals.values())
    repeats = [
        (item, originals[place.index])
        for place, item in zip(places, items, strict=True)
        if place.again is not None
    ]
    for item, original in repeats:
        item.original = original
    Item.objects.bulk_create(item for item, _ in repeats)
    Truth.objects.bulk_create(Truth(item=item, facts=drawn.facts[item.key]) for item in items)


def _item(batch: Batch, number: int, place: Place, drawn: DrawnBatch) -> Item:
    chosen, texts = drawn.sample.drawn[place.index], drawn.texts
    facts = drawn.facts[chosen.key]
    return Item(
        batch=batch,
        number=number,
        key=chosen.key,
        stratum=chosen.stratum,
        probability=chosen.probability,
        instruction=texts.prompts[facts["prompt_id"]],
        response=texts.responses[facts["response_id"]],
        first=texts.judgments.get(facts.get("first_judgment_id", ""), ""),
        second=texts.judgments.get(facts.get("second_judgment_id", ""), ""),
        again=place.again or "",
    )
