"""Sample the items of a batch from an iteration's files, and copy the texts they need."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import InputError
from meta_reward_core.method.reasoning import select_answers
from meta_reward_core.models.reasoning import ReasoningPolicy, select_answer
from meta_reward_core.review.sampling_units import (
    JudgedPair,
    SamplingUnit,
    ScoredResponse,
    UnitKind,
    build_judged_pairs,
    build_pair_units,
    build_response_units,
)
from meta_reward_core.review.stratified_sampling import (
    STRATEGIES,
    BatchSample,
    SampledItem,
    StratumPlan,
    sample_items,
)
from meta_reward_core.storage.records import Battle, Judgment, Rating, ResponseScore
from meta_reward_core.storage.schemas import get_table_name, list_columns
from meta_reward_core.storage.shards import IterationFiles
from webapp.audit.models import HAND_PICKED, MIN_ACCURACY
from webapp.experiments.files import open_experiment_files, open_iteration_files
from webapp.experiments.models import Experiment, StageStatus

Record = TypeVar("Record")
Facts = dict[str, Any]
StatusCallback = Callable[[str], None]

SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "judgments": ("battles", "ratings"),
    "responses": ("scores",),
}
"""Tables that the items of a kind are sampled from."""
_OUTCOME: Final = [name for name in list_columns(Battle) if name != "text"]
_STAGES: Final[Mapping[str, str]] = {"judgments": "pair_judge", "responses": "judge"}


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """An item from a file with its answer.

    Attributes:
        answer: first, second, tie or neither; for a response, its score from 0 to 5, as text.
    """

    instruction: str
    response: str
    first: str
    second: str
    answer: str


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Settings of a new batch.

    Attributes:
        size: number of distinct items.
        same_share, other_share: shares of items repeated for the same or another auditor.
        min_accuracy: an auditor whose accuracy is shown to be below this is flagged.
        shows_quality: whether auditors see their own accuracy.
        adjudicated_items: number of adjudicated items of earlier batches that each auditor
            answers first.
        known_answers: items from a file that each auditor answers first.
    """

    kind: UnitKind
    strategy: str
    size: int
    seed: int
    same_share: float
    other_share: float
    hides_score_lines: bool
    reveals_at_once: bool
    guidelines: str
    min_accuracy: float = MIN_ACCURACY
    shows_quality: bool = False
    adjudicated_items: int = 0
    known_answers: tuple[KnownAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class _Population:
    """All items that can be sampled, with their facts by key."""

    units: Sequence[SamplingUnit]
    facts_of: Callable[[str], Facts]


@dataclass(frozen=True, slots=True)
class ItemTexts:
    """Texts of the sampled items, by id."""

    prompts: Mapping[str, str]
    responses: Mapping[str, str]
    judgments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """A batch that is sampled but not stored.

    Attributes:
        digest: hash of the files that it was sampled from.
        facts: outputs of judge and meta-judge for the sampled items, by key.
    """

    experiment: Experiment
    number: int
    plan: BatchPlan
    digest: str
    sample: BatchSample
    facts: Mapping[str, Facts]
    texts: ItemTexts


def format_strategy(name: str) -> str:
    """Format a sampling strategy briefly."""
    return "hand-picked items" if name == HAND_PICKED else STRATEGIES[name].partition(":")[0]


def _ignore_status(doing: str) -> None:
    """Ignore status messages."""


def hash_source_files(experiment: Experiment, number: int, kind: str) -> str:
    """Hash the current files that items of a kind are sampled from."""
    return open_iteration_files(experiment, number).hash_inputs(SOURCES[kind])


@dataclass(frozen=True, slots=True)
class ReasoningPolicies:
    """Reasoning policies of the actor and the judge."""

    actor: ReasoningPolicy
    judge: ReasoningPolicy


def read_reasoning_policies(experiment: Experiment) -> ReasoningPolicies:
    """Return the reasoning policies of an experiment's recipe; the default is `keep`."""
    recipe: Mapping[str, Mapping[str, Any]] = experiment.recipe
    actor, judge = (recipe.get(role, {}).get("reasoning", "keep") for role in ("actor", "judge"))
    return ReasoningPolicies(actor, judge)


def read_experiment_templates(experiment: Experiment) -> dict[str, str]:
    """Return the rubric and the templates of an experiment.

    Raises:
        InputError: its files are gone.
    """
    description = open_experiment_files(experiment).read_description()
    if description is None:
        raise InputError(f"the files of experiment {experiment.name!r} are gone")
    words: dict[str, str] = description["templates"]
    return words


def sample_batch(
    experiment: Experiment, number: int, plan: BatchPlan, *, say: StatusCallback = _ignore_status
) -> SampledBatch:
    """Sample the items of a batch without storing it; this is slow for a large iteration.

    Args:
        say: called with a message about what is being read.

    Raises:
        InputError: the iteration has no finished stage to sample from, or the plan cannot be met.
        ArtifactError: files are gone or damaged.
    """

    def draw(units: Sequence[SamplingUnit]) -> BatchSample:
        rng = random.Random(derive_seed(plan.seed, "audit"))
        return sample_items(units, strategy=plan.strategy, size=plan.size, rng=rng)

    return _sample_batch(experiment, number, plan, draw, say)


def pick_items(
    experiment: Experiment,
    number: int,
    kind: UnitKind,
    keys: Sequence[str],
    *,
    part: int | None = None,
    say: StatusCallback = _ignore_status,
) -> SampledBatch:
    """Build a batch of hand-picked items, by their keys.

    Their facts have no group by length, which is relative to all items of the iteration.

    Args:
        part: number of the partitions that hold the items; None if they may be in any.

    Raises:
        InputError: the iteration has no finished stage to take items from, or an item is missing.
        ArtifactError: files are gone or damaged.
    """
    plan = BatchPlan(kind, HAND_PICKED, len(keys), 0, 0.0, 0.0, True, True, "")  # noqa: FBT003

    def pick(units: Sequence[SamplingUnit]) -> BatchSample:
        known = {unit.key for unit in units}
        missing = [key for key in keys if key not in known]
        if missing:
            raise InputError(
                f"iteration {number} of {experiment.name!r} has no item {missing[0]!r} to audit: "
                "judgments must have battled, and responses must have a score"
            )
        strata = (StratumPlan(HAND_PICKED, len(keys), len(keys)),)
        return BatchSample(strata, tuple(SampledItem(key, HAND_PICKED, 1.0) for key in keys))

    picked = _sample_batch(experiment, number, plan, pick, say, part=part)
    for facts in picked.facts.values():
        facts["groups"].pop("length", None)
    return picked


def _sample_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    draw: Callable[[Sequence[SamplingUnit]], BatchSample],
    say: StatusCallback,
    *,
    part: int | None = None,
) -> SampledBatch:
    require_finished(experiment, number, plan.kind)
    files = open_iteration_files(experiment, number)
    digest = files.hash_inputs(SOURCES[plan.kind])
    policies = read_reasoning_policies(experiment)
    population = _POPULATIONS[plan.kind](files, part, say, policies)
    sample = draw(population.units)
    say("reading the texts of the sampled items")
    facts = {item.key: population.facts_of(item.key) for item in sample.items}
    texts = _read_texts(files, list(facts.values()), policies, part)
    return SampledBatch(experiment, number, plan, digest, sample, facts, texts)


def require_finished(experiment: Experiment, number: int, kind: UnitKind) -> None:
    """Require that the stage to sample from is finished.

    Raises:
        InputError: it is not.
    """
    stage = _STAGES[kind]
    finished = experiment.iterations.filter(
        number=number, stages__name=stage, stages__status=StageStatus.FINISHED
    )
    if not finished.exists():
        raise InputError(
            f"iteration {number} of {experiment.name!r} has no finished stage {stage!r} to sample "
            "from: wait for it, or choose another iteration"
        )


def _list_parts(files: IterationFiles, table: str, part: int | None) -> list[int]:
    """List the partitions of a table to read: one, or all."""
    return files.list_partition_numbers(table) if part is None else [part]


def _read_records(
    files: IterationFiles, record: type[Record], part: int | None = None
) -> list[Record]:
    return [row for one in _list_parts(files, get_table_name(record), part)
            for row in files.read_records(record, one)]  # fmt: skip


def _load_pair_population(
    files: IterationFiles, part: int | None, say: StatusCallback, policies: ReasoningPolicies
) -> _Population:
    battles: list[Battle] = []
    judgments: dict[str, Judgment] = {}
    parts = _list_parts(files, "battles", part)
    for place, one in enumerate(parts, start=1):
        say(f"reading battles, part {place} of {len(parts)}")
        found = [Battle(text="", **row) for row in
                  files.read("battles", one, columns=_OUTCOME).to_pylist()]  # fmt: skip
        names = {b.first_judgment_id for b in found} | {b.second_judgment_id for b in found}
        written = select_answers(files.read_records(Judgment, one), policies.judge)
        judgments |= {j.judgment_id: j for j in written if j.judgment_id in names}
        battles += found
    chosen = files.read("judge_pairs", columns=["chosen_judgment_id", "rejected_judgment_id"])
    decided = [frozenset(row.values()) for row in chosen.to_pylist()]
    say("assigning pairs to strata")
    pairs = build_judged_pairs(battles, judgments, _read_records(files, Rating), decided)
    units = build_pair_units(pairs)
    known = {pair.key: (pair, unit.strata) for pair, unit in zip(pairs, units, strict=True)}
    return _Population(units, lambda key: _make_pair_facts(*known[key]))


def _make_pair_facts(pair: JudgedPair, groups: Mapping[str, str]) -> Facts:
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


def _load_response_population(
    files: IterationFiles,
    part: int | None,
    say: StatusCallback,
    policies: ReasoningPolicies,  # noqa: ARG001 scores are of what counts already
) -> _Population:
    say("reading scores")
    paired: set[str] = set()
    if files.list_partitions("actor_pairs"):
        chosen = files.read("actor_pairs", columns=["chosen_response_id", "rejected_response_id"])
        paired = {*chosen["chosen_response_id"].to_pylist(),
                  *chosen["rejected_response_id"].to_pylist()}  # fmt: skip
    scored = {
        score.response_id: ScoredResponse(score, score.response_id in paired)
        for score in _read_records(files, ResponseScore, part)
    }
    units = build_response_units(scored.values())
    strata = {unit.key: unit.strata for unit in units}
    return _Population(units, lambda key: _make_response_facts(scored[key].score, strata[key]))


def _make_response_facts(score: ResponseScore, groups: Mapping[str, str]) -> Facts:
    return {
        "prompt_id": score.prompt_id,
        "response_id": score.response_id,
        "mean": score.mean,
        "variance": score.variance,
        "valid": score.valid,
        "groups": dict(groups),
    }


_POPULATIONS: Final = {"judgments": _load_pair_population, "responses": _load_response_population}


def _read_texts(
    files: IterationFiles, drawn: Sequence[Facts], policies: ReasoningPolicies, part: int | None
) -> ItemTexts:
    """Read the texts that the judge and the meta-judge saw."""

    def read(
        table: str, key: str, wanted: Iterable[str | None], policy: ReasoningPolicy
    ) -> dict[str, str]:
        return _read_text_column(files, table, part, key, wanted, policy)

    judgments = [fact.get(f"{side}_judgment_id") for fact in drawn for side in ("first", "second")]
    return ItemTexts(
        prompts=read("prompts", "prompt_id", [fact["prompt_id"] for fact in drawn], "keep"),
        responses=read(
            "responses", "response_id", [fact["response_id"] for fact in drawn], policies.actor
        ),
        judgments=read("judgments", "judgment_id", judgments, policies.judge),
    )


def _read_text_column(
    files: IterationFiles,
    table: str,
    part: int | None,
    key: str,
    wanted: Iterable[str | None],
    policy: ReasoningPolicy,
) -> dict[str, str]:
    names = {name for name in wanted if name}
    found: dict[str, str] = {}
    for one in _list_parts(files, table, part) if names else ():
        rows = files.read(table, one, columns=[key, "text"]).to_pylist()
        found |= {
            row[key]: select_answer(row["text"], policy) or "" for row in rows if row[key] in names
        }
    return found
