"""The shape of a recipe: every value of the method, with its unit, bounds and source.

A recipe is validated once, at the edge. Below `iteration`, functions take the values they need.
This module reads no files; `meta_reward_core.recipes` does.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, overload

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from meta_reward_core.recipes.field import OURS, PAPER, SECONDARY, Section, declare_field
from meta_reward_core.recipes.training_settings import DpoSettings
from meta_reward_core.storage.records import PairKind

Value = TypeVar("Value")


@overload
def get_scheduled_value(schedule: list[Value], iteration: int) -> Value: ...
@overload
def get_scheduled_value(schedule: Value, iteration: int) -> Value: ...
def get_scheduled_value(schedule: Any, iteration: int) -> Any:
    """Read a per-iteration schedule: a single value holds always, a list by iteration from 1.

    Past the end of a list its last value goes on.
    """
    if isinstance(schedule, list):
        return schedule[min(iteration, len(schedule)) - 1]
    return schedule


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NonEmpty = Annotated[list[Value], Field(min_length=1)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class PromptSampleRecipe(Section):
    """Which instructions of the pool an iteration works on."""

    prompts: int = declare_field(
        5000, "Instructions drawn for one iteration.", source=PAPER, unit="prompts", ge=1
    )
    allow_reuse: bool = declare_field(
        default=False,
        text="May an instruction serve in more than one iteration? Without it, a pool that is too "
        "small is refused.",
        source=PAPER,
    )
    held_out: str | None = declare_field(
        None,
        "A file of prompts that are kept for evaluation: whichever of them is in the pool, by a "
        "hash of its words, is left out when the experiment begins.",
        source=OURS,
    )


class DecodingRecipe(Section):
    """How tokens are drawn in one role."""

    temperature: float = declare_field(
        0.8, "Divides the logits; 0 is greedy.", source=PAPER, ge=0.0, le=5.0
    )
    top_p: float = declare_field(
        0.95, "Probability kept by nucleus sampling.", source=PAPER, gt=0, le=1
    )
    max_new_tokens: int = declare_field(
        1024, "Limit of one reply.", source=OURS, unit="tokens", ge=1, le=131_072
    )


class ActorRecipe(DecodingRecipe):
    """The actor answers instructions."""

    samples: int = declare_field(
        7, "Responses for each instruction (K).", source=PAPER, ge=2, le=256
    )
    system_prompt: str | None = declare_field(
        None, "A system message before every instruction.", source=OURS
    )


class JudgeRecipe(DecodingRecipe):
    """The judge scores responses."""

    samples: int = declare_field(11, "Judgments for each response (N).", source=PAPER, ge=1, le=256)
    template: str = declare_field(
        "judge", "Prompt template: a shipped name or a file.", source="Yuan et al. 2024, rubric"
    )
    rubric: str = declare_field("rubric", "The rubric that {rubric} stands for.", source=OURS)
    top_points: float = declare_field(
        5.0,
        "Where the rubric's scale ends. Points are kept as shares of 5: 8 of 10 is 4.",
        source="Yuan et al. 2024, rubric",
        unit="points",
        gt=0,
        le=1000,
    )
    min_valid_judgments: int = declare_field(
        1, "A response with fewer readable scores stays unscored.", source=OURS, ge=1
    )
    hopeless_at: float | None = declare_field(
        None,
        "Judgments are drawn in rounds, and a response gets no more of them when the prediction "
        "of its mean, so many standard deviations wide to each side, reaches neither the best nor "
        "the worst tier of its prompt. None: all judgments are drawn. What it saves and costs: "
        "docs/fewer_calls.md.",
        source=OURS,
        unit="standard deviations",
        gt=0,
        le=100,
    )
    endpoint: str | None = declare_field(
        None,
        "An outside judge instead of the model itself, for comparison: a named endpoint.",
        source=OURS,
    )


class PairingRecipe(Section):
    """Which responses become the chosen and the rejected one."""

    rho: NonEmpty[Share] | Share = declare_field(
        [0.0, 0.32, 0.32, 0.40],
        "Width of the tiers within which length decides; by iteration. 0 is best against worst.",
        source=f"{PAPER}; iterations 1 to 3 from {SECONDARY}",
    )
    max_chosen_chars: NonEmpty[Positive | None] | Positive | None = declare_field(
        [2500, None],
        "A longer chosen response gives no pair; by iteration.",
        source=SECONDARY,
        unit="characters",
    )
    length_unit: Literal["characters", "tokens"] = declare_field(
        "characters", "How the length of a response is measured.", source="AlpacaEval"
    )


class MetaJudgeRecipe(DecodingRecipe):
    """The meta-judge compares two judgments of one response."""

    temperature: float = declare_field(
        0.8, "Divides the logits; 0 is greedy.", source=OURS, ge=0.0, le=5.0
    )
    top_p: float = declare_field(
        0.95, "Probability kept by nucleus sampling.", source=OURS, gt=0, le=1
    )
    template: str = declare_field(
        "meta_judge", "Prompt template: a shipped name or a file.", source=PAPER
    )
    max_judgments: int | None = declare_field(
        None,
        "At most so many different judgments of a response battle, the first by sample. "
        "None: all of them.",
        source=OURS,
        ge=2,
    )
    max_chosen_judgment_chars: NonEmpty[Positive | None] | Positive | None = declare_field(
        [1100, 1000],
        "A longer winning judgment gives no pair; by iteration.",
        source=SECONDARY,
        unit="characters",
    )
    elo_prior: float = declare_field(
        1e-4,
        "Weight of the squared ratings in the Elo fit: it makes the optimum finite and unique.",
        source=OURS,
        gt=0,
        le=1,
    )
    hide_score_line: bool = declare_field(
        default=False,
        text="Remove the judges' score lines before the meta-judge reads them (against its "
        "preference for the higher score).",
        source=OURS,
    )
    max_score_gap: float | None = declare_field(
        None,
        "Only judgments whose scores differ by no more than this battle.",
        source=OURS,
        unit="points",
        ge=0,
        le=5,
    )
    decided_at: float | None = declare_field(
        None,
        "Battles are fought in rounds, and a judgment stops fighting others like it when the "
        "prediction of its wins, so many standard deviations wide to each side, leaves it out of "
        "the running for best and worst. None: all battles are fought. What it saves and costs: "
        "docs/fewer_calls.md.",
        source=OURS,
        unit="standard deviations",
        gt=0,
        le=100,
    )
    max_pair_share: float | None = declare_field(
        None,
        "Judge pairs are at most this share of all pairs (against a judge that always says 5).",
        source="NeMo-Aligner's documentation",
        gt=0,
        lt=1,
    )


class EngineRecipe(Section):
    """Where tokens come from."""

    kind: Literal["transformers", "vllm", "openai", "scripted"] = declare_field(
        "transformers", "The engine. `scripted` is for tests of the plumbing.", source=OURS
    )
    endpoint: str | None = declare_field(
        None,
        "Of `openai`: the server, by its name in META_REWARD_ENDPOINTS.",
        source=OURS,
    )
    device: str = declare_field("auto", "auto, cpu, cuda or cuda:<n>.", source=OURS)
    dtype: Literal["float32", "bfloat16", "float16"] = declare_field(
        "float32", "Number format of the weights while generating.", source=OURS
    )
    threads: int | None = declare_field(
        None,
        "CPU threads of torch. Part of the recipe because sums depend on it: with it, the same "
        "seed gives the same bytes.",
        source=OURS,
        unit="threads",
        ge=1,
        le=1024,
    )
    batch_tokens: int = declare_field(
        65_536,
        "Tokens held by one decoding batch, shared prefixes counted once.",
        source=OURS,
        unit="tokens",
        ge=64,
    )
    max_model_tokens: int | None = declare_field(
        None, "Longest prompt plus reply; None: what the model says.", source=OURS, unit="tokens"
    )
    tensor_parallel: int = declare_field(
        1, "Of `vllm`: devices that share each layer.", source=OURS, unit="devices", ge=1, le=64
    )
    memory_share: float = declare_field(
        0.9,
        "Of `vllm` on a GPU: share of its memory for weights and cache. On a CPU the cache holds "
        "batch_tokens.",
        source=OURS,
        gt=0,
        lt=1,
    )
    max_sequences: int = declare_field(
        256, "Of `vllm`: replies decoded at a time.", source=OURS, unit="replies", ge=1, le=8192
    )

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        if self.kind == "openai" and self.endpoint is None:
            raise ValueError(
                "openai as engine.kind needs a server: set engine.endpoint to one of the names in "
                "META_REWARD_ENDPOINTS"
            )
        if self.kind != "openai" and self.endpoint is not None:
            raise ValueError(
                "engine.endpoint names the server of engine.kind: openai, and of no other kind: "
                "set one of the two otherwise"
            )
        return self


class EvaluationTaskRecipe(Section):
    """A benchmark that measures every M_t on the same items."""

    name: TaskName = Field(description="The task, such as ifeval or labelled-pairs.")
    data: str = Field(
        description="Its data: a file, or a folder of files. It is read when the experiment begins."
    )
    prompts: Positive | None = Field(
        None, description="Measure on the items of so many prompts. None: on all."
    )


class EvaluationRecipe(Section):
    """What is measured after training. Nothing of it reaches training."""

    oracle: TaskName | None = declare_field(
        None,
        "The task whose ground truth measures M_t: the one that `world` names. None: no ground "
        "truth.",
        source=OURS,
    )
    prompts: int = declare_field(120, "Held-out instructions.", source=OURS, unit="prompts", ge=1)
    judge_items: int = declare_field(
        100, "Held-out responses of known quality that are judged.", source=OURS, ge=2
    )
    judgments: int = declare_field(5, "Judgments for each of those.", source=OURS, ge=1)
    comparisons: int = declare_field(
        100, "Held-out pairs of judgments that the meta-judge compares.", source=OURS, ge=2
    )
    tasks: list[EvaluationTaskRecipe] = declare_field(
        [],
        "Benchmarks with labels or checks of people's making, such as "
        "`[{name: ifeval, data: FILE}]`: after each iteration they measure M_t on the same items "
        "(docs/evaluation.md). Prompts of the pool that equal or nearly equal theirs are left out.",
        source=OURS,
    )

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("evaluation.tasks names a task twice: keep one entry of each")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_no_tasks(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without tasks the key is absent, so that earlier recipes keep their hashes."""
        values: dict[str, Any] = write(self)
        if not self.tasks:
            values.pop("tasks", None)
        return values


class AuditRecipe(Section):
    """What people's answers decide before an iteration trains."""

    required: bool = declare_field(
        default=False,
        text="An iteration trains on its judge pairs only after an audit of its battles has "
        "passed. The page of an experiment's audits can change this and the three values below.",
        source=OURS,
    )
    least_agreement: float = declare_field(
        0.5,
        "The agreement of people and meta-judge, ties left out, must be shown to be above this.",
        source=OURS,
        unit="share of verdicts",
        ge=0,
        lt=1,
    )
    confidence: float = declare_field(
        0.95, "Of the interval whose lower end must be above it.", source=OURS, gt=0, lt=1
    )
    answers: int = declare_field(
        50, "Answers that must count at least.", source=OURS, unit="answers", ge=1, le=100_000
    )
    otherwise: Literal["wait", "actor_pairs"] = declare_field(
        "wait",
        "When a complete audit has not passed: wait for a person, or train on the actor pairs "
        "alone.",
        source=OURS,
    )
    human_pairs_share: float = declare_field(
        0.0,
        "Judgments that people preferred in audits of earlier iterations train as judge pairs, "
        "up to this share of all pairs. 0: none.",
        source=OURS,
        unit="share of pairs",
        ge=0,
        le=0.9,
    )


class Recipe(Section):
    """A whole experiment's settings; the default values are the paper's."""

    name: str = Field(description="What people call it.", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    description: str = Field("", description="One sentence for lists.")
    world: TaskName | None = declare_field(
        None,
        "A task that supplies prompts, a base model or prompt templates: `miniature`, or one of "
        "another package (docs/tasks.md).",
        source=OURS,
    )
    model: str | None = declare_field(
        None,
        "The seed model M0: a folder, or a Hugging Face id, as org/name@revision.",
        source=PAPER,
    )
    iterations: int = declare_field(
        4, "How many iterations the schedule covers.", source=PAPER, ge=1
    )
    pair_kinds: NonEmpty[NonEmpty[PairKind]] = declare_field(
        [["actor", "judge"], ["actor", "judge"], ["actor"], ["actor"]],
        "Which pairs train; by iteration.",
        source=PAPER,
    )
    shard_prompts: int = declare_field(
        64, "Prompts of one shard: the unit of work that is claimed, stored and repeated.",
        source=OURS, unit="prompts", ge=1,
    )  # fmt: skip
    sample: PromptSampleRecipe = PromptSampleRecipe()
    actor: ActorRecipe = ActorRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    pairing: PairingRecipe = PairingRecipe()
    meta_judge: MetaJudgeRecipe = MetaJudgeRecipe()
    training: DpoSettings = DpoSettings()
    audit: AuditRecipe = AuditRecipe()
    engine: EngineRecipe = EngineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        if self.judge.min_valid_judgments > self.judge.samples:
            raise ValueError(
                f"judge.min_valid_judgments is {self.judge.min_valid_judgments}, but only "
                f"judge.samples = {self.judge.samples} judgments are made"
            )
        oracle = self.evaluation.oracle
        if oracle is not None and self.world != oracle:
            raise ValueError(f"evaluation.oracle: {oracle} needs world: {oracle}")
        return self

    def trains_on(self, kind: PairKind, iteration: int) -> bool:
        """Say whether pairs of this kind are scheduled in this iteration (counted from 1)."""
        return kind in get_scheduled_value(list(self.pair_kinds), iteration)

    @property
    def task_name(self) -> str | None:
        """The task that supplies prompts, a base model or templates; see `tasks.registry`."""
        return self.world

    @property
    def has_ground_truth(self) -> bool:
        """Whether the ground truth of the task measures every M_t."""
        return self.evaluation.oracle is not None

    @property
    def sha256(self) -> str:
        """Hash of every value, in hexadecimal. An experiment keeps the one that it began with."""
        return hash_recipe_values(self.model_dump(mode="json"))


def hash_recipe_values(values: Mapping[str, Any]) -> str:
    """Hash a recipe's values as they were written down, in hexadecimal.

    What is written down never changes, while a later version of this module may know more values:
    so experiments hash their own record, and an upgrade does not make work look like another's.
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
