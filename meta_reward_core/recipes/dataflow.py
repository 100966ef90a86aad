"""What each stage of an iteration reads, writes and depends on.

All stage keys are derived from this.

`iteration` assigns a function to every stage; this module has few imports, so that pages can show
which stages a changed setting invalidates without loading the code that runs them.

A stage stays finished as long as its inputs are unchanged. So it declares, as needed,

- the tables that it reads: their hashes are part of its key;
- the values of the recipe that its bytes depend on, and under which condition;
- how it uses the model: to sample from it, to train it, or not at all.

A value that no stage declares does not affect results; `NOT_IN_RESULTS` gives the reason. A new
recipe value belongs in one of the two; a section (`"actor"`) covers all its values, including new
ones. When in doubt, declare it: an extra value causes an unnecessary recomputation, while a missing
value keeps a result that no longer matches the recipe.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from meta_reward_core.recipes.canonical import get_current_key, get_frozen_key
from meta_reward_core.recipes.schema import Recipe, get_scheduled_value
from meta_reward_core.storage.layout import CHECKPOINT, get_partition_path, get_table_path
from meta_reward_core.storage.records import PairKind
from meta_reward_core.storage.schemas import (
    WRITERS,
    get_own_part,
    is_shared_table,
    list_written_tables,
)

Resource = Literal["cpu", "engine", "trainer"]
Condition = Callable[[Recipe], bool]
Values = Mapping[str, Any]


def _apply_always(recipe: Recipe) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True, slots=True)
class Need:
    """A recipe value or section that a stage's output depends on.

    Attributes:
        field: dotted name of the value or section.
        when: condition on the rest of the recipe under which it affects the output.
        is_borrowed: whether it is a whole section that belongs to other stages. A value that is
            added to such a section must also be declared by one of these stages.
    """

    field: str
    when: Condition = _apply_always
    is_borrowed: bool = False

    def covers(self, field: str) -> bool:
        """Whether a value is this value or part of this section."""
        return field == self.field or field.startswith(f"{self.field}.")


ModelUse = Literal["drawing", "training"]
"""Sampling reads weights, config, tokenizer, chat template, and the end token ids of the generation
config. Training also copies the generation config into its checkpoint.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """Static description of one stage.

    Attributes:
        reads: tables of this iteration that the stage reads.
        writes: tables that it writes, and `CHECKPOINT` if it creates a model.
        by_shard: whether shard k reads only partition k of its tables; otherwise one shard reads
            all.
        resource: resource that a shard needs: none, a model that generates, or training.
        needs: recipe values on which its output depends.
        model: how it uses M_{t-1}; None if it does not.
        model_when: condition on the recipe under which it uses the model.
        pair_kind: kind of pairs; only iterations that train on this kind have the stage. None: all
            iterations have it.
        earlier_reads: tables that it read before keys covered only needed inputs, if they differ.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    by_shard: bool
    resource: Resource
    needs: tuple[Need, ...]
    model: ModelUse | None = None
    model_when: Condition = _apply_always
    pair_kind: PairKind | None = None
    earlier_reads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check that the tables of this stage match `storage.schemas.WRITERS`."""
        tables = {name for name in self.writes if name != CHECKPOINT}
        if tables != set(list_written_tables(self.name)):
            raise ValueError(
                f"stage {self.name!r} writes {sorted(tables)}, but storage.schemas.WRITERS lists "
                f"{sorted(list_written_tables(self.name))}: change both"
            )

    def is_scheduled(self, recipe: Recipe, number: int) -> bool:
        """Whether an iteration has the stage."""
        return self.pair_kind is None or recipe.trains_on(self.pair_kind, number)

    def get_model_use(self, recipe: Recipe) -> ModelUse | None:
        """Return how the stage uses the model under a recipe."""
        return self.model if self.model_when(recipe) else None

    def depends_on(self, field: str, recipe: Recipe) -> bool:
        """Whether a recipe value is part of the stage's key."""
        return any(need.covers(field) and need.when(recipe) for need in self.needs)

    def list_outputs(self, shard: int) -> list[str]:
        """List all files of a shard except its manifest, relative to the iteration's folder.

        These are partitions of tables; for a stage with a single shard, a whole table or
        checkpoint.
        """
        return [self._get_output(name, shard) for name in self.writes]

    def _get_output(self, name: str, shard: int) -> str:
        if name == CHECKPOINT:
            return CHECKPOINT
        if self.by_shard:
            return get_partition_path(name, shard)
        if is_shared_table(name):
            return get_partition_path(name, get_own_part(name, self.name))
        return get_table_path(name)


def _need(*fields: str, when: Condition = _apply_always) -> tuple[Need, ...]:
    return tuple(Need(field, when) for field in fields)


def _require_engine(*kinds: str) -> Condition:
    return lambda recipe: recipe.engine.kind in kinds


def _combine_conditions(one: Condition, other: Condition) -> Condition:
    return lambda recipe: one(recipe) and other(recipe)


def _restrict_needs(condition: Condition, needs: Iterable[Need]) -> tuple[Need, ...]:
    return tuple(replace(need, when=_combine_conditions(condition, need.when)) for need in needs)


def _judges_here(recipe: Recipe) -> bool:
    return recipe.judge.endpoint is None


def _judges_itself(recipe: Recipe) -> bool:
    return _judges_here(recipe) and recipe.judge.reward_model is None


def _stopped_judging_early(recipe: Recipe) -> bool:
    """Whether an earlier version used `judge.early_stop_z`; its shards stay finished."""
    return recipe.judge.early_stop_z is not None


def _has_task(recipe: Recipe) -> bool:
    return recipe.task is not None


def _selects_by_tasks(recipe: Recipe) -> bool:
    return recipe.training.selects_by_tasks


def _measures_models(recipe: Recipe) -> bool:
    return recipe.has_ground_truth or bool(recipe.evaluation.tasks)


# Fields that each engine reads (`engines.registry`). For vLLM, fields that only divide memory
# count, too: they decide which requests share a batch, and the batch decides the order of random
# numbers.
_ENGINE: Final = (
    *_need("engine.kind"),
    *_need(
        "engine.dtype",
        "engine.threads",
        "engine.max_batch_tokens",
        "engine.max_model_len",
        when=_require_engine("transformers", "vllm"),
    ),
    *_need("engine.device", "engine.decoding", when=_require_engine("transformers")),
    *_need(
        "engine.max_num_seqs",
        "engine.tensor_parallel_size",
        "engine.gpu_memory_utilization",
        "engine.max_num_batched_tokens",
        "engine.kv_cache_dtype",
        "engine.quantization",
        when=_require_engine("vllm"),
    ),
    *_need("engine.endpoint", when=_require_engine("openai")),
)

SAMPLE: Final = StageSpec(
    name="sample",
    title="Sample prompts",
    reads=(),
    writes=("prompts",),
    by_shard=False,
    resource="cpu",
    needs=_need("sample.prompts", "sample.allow_reuse", "prompts_per_shard"),
)
GENERATE: Final = StageSpec(
    name="generate",
    title="Generate responses",
    reads=("prompts",),
    writes=("responses", "refused_by_actor"),
    by_shard=True,
    resource="engine",
    needs=(*_need("actor"), *_ENGINE),
    model="drawing",
)
JUDGE: Final = StageSpec(
    name="judge",
    title="Judge responses",
    reads=("prompts", "responses"),
    writes=("judgments", "scores", "refused_by_judge"),
    by_shard=True,
    resource="engine",
    needs=(
        *_need("judge", "actor.reasoning"),
        *_need("pairing.rho", when=_stopped_judging_early),
        *_restrict_needs(_judges_here, _ENGINE),
    ),
    model="drawing",
    model_when=_judges_itself,
)
PAIR_ACTOR: Final = StageSpec(
    name="pair_actor",
    title="Select actor pairs",
    reads=("prompts", "responses", "scores"),
    writes=("actor_pairs", "dropped"),
    by_shard=False,
    resource="cpu",
    needs=_need("pairing", "actor.system_prompt", "actor.reasoning"),
    pair_kind="actor",
)
META_JUDGE: Final = StageSpec(
    name="meta_judge",
    title="Meta-judge judgments",
    reads=("prompts", "responses", "judgments", "scores"),
    writes=("battles", "refused_by_meta_judge"),
    by_shard=True,
    resource="engine",
    needs=(
        *_need(
            "meta_judge.temperature",
            "meta_judge.top_p",
            "meta_judge.max_new_tokens",
            "meta_judge.template",
            "meta_judge.max_judgments",
            "meta_judge.max_score_gap",
            "meta_judge.hide_score_line",
            "meta_judge.adaptive_z",
            "meta_judge.verdict_readout",
            "judge.rubric",
            "actor.reasoning",
            "judge.reasoning",
        ),
        *_ENGINE,
    ),
    model="drawing",
    pair_kind="judge",
)
PAIR_JUDGE: Final = StageSpec(
    name="pair_judge",
    title="Select judge pairs",
    reads=("prompts", "responses", "judgments", "scores", "battles", "actor_pairs"),
    writes=("ratings", "judge_pairs", "dropped"),
    by_shard=False,
    resource="cpu",
    needs=_need(
        "judge.template",
        "judge.rubric",
        "actor.reasoning",
        "judge.reasoning",
        "meta_judge.elo_prior",
        "meta_judge.max_chosen_judgment_chars",
        "meta_judge.max_judgments",
        "meta_judge.max_pair_share",
        "meta_judge.min_readable_share",
    ),
    pair_kind="judge",
)
TRAIN: Final = StageSpec(
    name="train",
    title="Train with DPO",
    reads=(
        *("responses", "judgments"),  # the sampled tokens
        *("actor_pairs", "judge_pairs", *list_written_tables("audit")),
    ),
    writes=("training_log", "refused", CHECKPOINT),
    by_shard=False,
    resource="trainer",
    needs=(
        *_need(
            *("training", "engine.threads", "train_on", "audit.human_pairs_share"),
            *("actor.reasoning", "judge.reasoning"),
        ),
        *_restrict_needs(  # the tasks that select the checkpoint generate and judge
            _selects_by_tasks,
            (
                *_need("development"),
                *(Need(role, is_borrowed=True) for role in ("actor", "judge", "meta_judge")),
                *_ENGINE,
            ),
        ),
    ),
    model="training",
    earlier_reads=("actor_pairs", "judge_pairs", *list_written_tables("audit")),
)
EVALUATE: Final = StageSpec(
    name="evaluate",
    title="Evaluate the model",
    reads=("scores", "judgments", "battles", "actor_pairs", "judge_pairs", "training_log"),
    writes=("evaluation", "task_scorecards", "task_items"),
    by_shard=False,
    resource="engine",
    needs=(
        *_need("task", "evaluation.tasks", "train_on", "judge.reasoning"),
        *_need("evaluation.ground_truth", when=_has_task),
        *_restrict_needs(  # tasks of other packages may read any field of the three roles
            _measures_models,
            (
                *_need("evaluation", "training.lora"),
                *(Need(role, is_borrowed=True) for role in ("actor", "judge", "meta_judge")),
                *_ENGINE,
            ),
        ),
    ),
    model="drawing",
    model_when=_measures_models,
)

STAGE_SPECS: Final = (
    SAMPLE,
    GENERATE,
    JUDGE,
    PAIR_ACTOR,
    META_JUDGE,
    PAIR_JUDGE,
    TRAIN,
    EVALUATE,
)
"""Stages in the order of the paper."""


def _list_inputs(spec: StageSpec, *, streamed: bool) -> tuple[str, ...]:
    writers = {writer for table in spec.reads for writer in WRITERS[table]}
    return tuple(
        one.name
        for one in STAGE_SPECS
        if one.name in writers and (one.by_shard and spec.by_shard) is streamed
    )


STREAMED_INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    spec.name: _list_inputs(spec, streamed=True) for spec in STAGE_SPECS
}
"""For each stage, the stages whose shard k must be finished before its own shard k may start."""

WHOLE_INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    spec.name: _list_inputs(spec, streamed=False) for spec in STAGE_SPECS
}
"""For each stage, the stages that must be completely finished before any of its shards may start.
"""

NOT_IN_RESULTS: Final[Mapping[str, str]] = {
    "name": "a name, for users only",
    "description": "a description, for users only",
    "model": "its files are hashed instead",
    "iterations": "it sets the number of iterations, and does not change any of them",
    "sample.held_out": "it is applied once, to the pool of prompts, which is hashed itself",
    "probe.prompts": "it decides whether an iteration continues; its rows never train",
    "probe.seconds": "it decides whether an iteration continues; its rows never train",
    "probe.min_readable_share": "it decides whether an iteration continues; its rows never train",
    "probe.max_cut_off_share": "it decides whether an iteration continues; its rows never train",
    "probe.max_same_score_share": "it decides whether an iteration continues; its rows never train",
    "probe.max_refused_share": "it decides whether an iteration continues; its rows never train",
    "probe.min_pair_share": "it decides whether an iteration continues; its rows never train",
    "probe.check_shards": "it decides whether an iteration continues",
    "audit.required": "it decides whether an iteration trains; withheld pairs are a table",
    "audit.min_agreement": "it decides whether an iteration trains; withheld pairs are a table",
    "audit.confidence": "it decides whether an iteration trains; withheld pairs are a table",
    "audit.min_answers": "it decides whether an iteration trains; withheld pairs are a table",
    "audit.on_failure": "it decides whether an iteration trains; withheld pairs are a table",
}
"""Values that affect neither tables nor checkpoints, with the reason."""

SCHEDULED_FIELDS: Final = (
    "train_on",
    "pairing.rho",
    "pairing.max_chosen_chars",
    "meta_judge.max_chosen_judgment_chars",
)
"""Values that may be lists by iteration; a key contains the value of its iteration."""


def select_needed_values(
    spec: StageSpec, recipe: Recipe, number: int, *, values: Values, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Select the recipe values that a stage depends on, by canonical name.

    Args:
        values: the recipe's canonical values by dotted name, as `flatten_values` returns them, so
            that a shard's key does not change if a key of the recipe is renamed or added.
        texts: content hashes for the values that name a file or a template.
    """
    chosen = {
        field: value
        for field, value in values.items()
        if spec.depends_on(get_current_key(field), recipe)
    }
    for field in map(get_frozen_key, SCHEDULED_FIELDS):
        if field in chosen:
            chosen[field] = get_scheduled_value(chosen[field], number)
    return chosen | {field: texts[field] for field in texts if field in chosen}


def flatten_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten_values(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def list_affected_stages(fields: Iterable[str], recipe: Recipe, number: int) -> list[StageSpec]:
    """List the stages that depend on one of these values, and the stages that read their outputs.

    Args:
        fields: dotted names, either current or in the canonical form.
        recipe: the recipe after the change. For stages that depend on a value only before the
            change, call the function again with the recipe before the change.
    """
    changed = tuple(map(get_current_key, fields))
    affected: list[StageSpec] = []
    made_again: set[str] = set()
    for spec in STAGE_SPECS:
        if not spec.is_scheduled(recipe, number):
            continue
        depends = any(spec.depends_on(field, recipe) for field in changed)
        if depends or made_again & set(spec.reads):
            affected.append(spec)
            made_again.update(spec.writes)
    return affected
