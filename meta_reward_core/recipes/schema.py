"""The schema of a recipe: every value of the method with its unit, bounds and source.

A recipe is validated once, when it is loaded. Modules below `iteration` receive only the values
that they need. This module reads no files; `meta_reward_core.recipes` does.
"""

from typing import Annotated, Any, Literal, Self, TypeVar, overload

from pydantic import Field, model_validator

from meta_reward_core.models.reasoning import ReasoningPolicy
from meta_reward_core.recipes.canonical import (
    OPEN_SHARD_SIZE,
    canonicalize_recipe,
    hash_recipe_values,
)
from meta_reward_core.recipes.field import (
    OURS,
    PAPER,
    SECONDARY,
    PathText,
    Section,
    declare_field,
)
from meta_reward_core.recipes.training_settings import DpoSettings
from meta_reward_core.storage.records import PairKind, ScoreReadout, VerdictReadout

Value = TypeVar("Value")


@overload
def get_scheduled_value(schedule: list[Value], iteration: int) -> Value: ...
@overload
def get_scheduled_value(schedule: Value, iteration: int) -> Value: ...
def get_scheduled_value(schedule: Any, iteration: int) -> Any:
    """Return the value of an iteration: a single value applies to all, a list is indexed from 1.

    Iterations past the end of a list use its last value.
    """
    if isinstance(schedule, list):
        return schedule[min(iteration, len(schedule)) - 1]
    return schedule


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NonEmpty = Annotated[list[Value], Field(min_length=1, max_length=1000)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class PromptSampleRecipe(Section):
    """Prompts of each iteration."""

    prompts: int = declare_field(
        5000, "Number of prompts sampled per iteration.", source=PAPER, unit="prompts", ge=1
    )
    allow_reuse: bool = declare_field(
        default=False,
        text="Whether a prompt may be used in more than one iteration. If false, a pool that is "
        "too small for all iterations is refused.",
        source=PAPER,
    )
    held_out: PathText | None = declare_field(
        None,
        "File of prompts reserved for evaluation. When the experiment is created, they are removed "
        "from the pool; prompts are compared by a hash of their text.",
        source=OURS,
    )


class DecodingRecipe(Section):
    """Sampling of tokens in one role."""

    temperature: float = declare_field(
        0.8, "Sampling temperature. 0 is greedy.", source=PAPER, ge=0.0, le=5.0
    )
    top_p: float = declare_field(
        0.95, "Probability mass of nucleus sampling.", source=PAPER, gt=0, le=1
    )
    max_new_tokens: int = declare_field(
        1024, "Maximum tokens per completion.", source=OURS, unit="tokens", ge=1, le=131_072
    )


class ActorRecipe(DecodingRecipe):
    """The actor, which writes responses."""

    samples: int = declare_field(
        7, "Number of responses per prompt (K).", source=PAPER, ge=2, le=256
    )
    system_prompt: str | None = declare_field(
        None, "System prompt before each prompt. None: no system prompt.", source=OURS
    )
    reasoning: ReasoningPolicy = declare_field(
        "keep",
        "Treatment of reasoning blocks in responses. keep: the whole response counts. strip: only "
        "the text after the reasoning is judged, compared, measured and trained on. forbid: the "
        "chat template turns reasoning off, and any block that the model still writes is stripped.",
        source=OURS,
    )


class JudgeRecipe(DecodingRecipe):
    """The judge, which scores responses."""

    samples: int = declare_field(
        11, "Number of judgments per response (N).", source=PAPER, ge=1, le=256
    )
    template: PathText = declare_field(
        "judge", "Prompt template: a built-in name or a file.", source="Yuan et al. 2024, rubric"
    )
    rubric: PathText = declare_field(
        "rubric", "Rubric inserted at {rubric}: a built-in name or a file.", source=OURS
    )
    max_score: float = declare_field(
        5.0,
        "Maximum score of the rubric. Scores are stored on a scale of 0 to 5: 8 of 10 is stored "
        "as 4.",
        source="Yuan et al. 2024, rubric",
        unit="points",
        gt=0,
        le=1000,
    )
    min_valid_judgments: int = declare_field(
        1,
        "Minimum number of scored judgments per response. With fewer, the response is unscored.",
        source=OURS,
        ge=1,
    )
    early_stop_z: float | None = declare_field(
        None,
        "Deprecated, without effect: all judgments are sampled. Kept in the recipes of earlier "
        "experiments, whose hashes depend on it.",
        source=OURS,
        unit="standard deviations",
        gt=0,
        le=100,
    )
    score_readout: ScoreReadout = declare_field(
        "free",
        "How the score is read. free: the judge writes the score, and it is read from the text. "
        "forced: after the justification, the start of the score line is given, and one of the "
        "integer scores is sampled. expected: as forced, but the score is the probability-weighted "
        "mean of all integer scores. See docs/readout.md.",
        source=OURS,
    )
    endpoint: str | None = declare_field(
        None,
        "External judge that replaces the model as judge, for comparison: a name in "
        "META_REWARD_ENDPOINTS.",
        source=OURS,
    )
    reward_model: PathText | None = declare_field(
        None,
        "Reward model that replaces the model as judge: a folder, or a Hugging Face id such as "
        "org/name@revision. It gives each response one raw score and writes no judgments. See "
        "docs/reward_model.md.",
        source=PAPER,
    )
    reasoning: ReasoningPolicy = declare_field(
        "keep",
        "Treatment of reasoning blocks in judgments that the meta-judge reads or that are used in "
        "judge pairs; see actor.reasoning. The score is always read after the reasoning.",
        source=OURS,
    )


class PairingRecipe(Section):
    """Selection of the chosen and the rejected response."""

    rho: NonEmpty[Share] | Share = declare_field(
        [0.0, 0.32, 0.32, 0.40],
        "Width of the top and bottom score tiers, as a share of the range of a prompt's scores; by "
        "iteration. Within a tier, length decides. 0: highest score against lowest.",
        source=f"{PAPER}; iterations 1 to 3 from {SECONDARY}",
    )
    max_chosen_chars: NonEmpty[Positive | None] | Positive | None = declare_field(
        [2500, None],
        "Maximum length of a chosen response; by iteration. None: no limit.",
        source=SECONDARY,
        unit="characters",
    )
    length_unit: Literal["characters", "tokens"] = declare_field(
        "characters", "Unit of the length of a response.", source="AlpacaEval"
    )


class MetaJudgeRecipe(DecodingRecipe):
    """The meta-judge, which compares two judgments of one response."""

    temperature: float = declare_field(
        0.8, "Sampling temperature. 0 is greedy.", source=OURS, ge=0.0, le=5.0
    )
    top_p: float = declare_field(
        0.95, "Probability mass of nucleus sampling.", source=OURS, gt=0, le=1
    )
    template: PathText = declare_field(
        "meta_judge", "Prompt template: a built-in name or a file.", source=PAPER
    )
    verdict_readout: VerdictReadout = declare_field(
        "free",
        "How the verdict is read. free: the meta-judge writes the verdict, and it is read from the "
        "text. forced: after the comparison, the start of the verdict line is given, and A or B is "
        "sampled.",
        source=OURS,
    )
    max_judgments: int | None = declare_field(
        None,
        "Maximum number of distinct judgments per response that take part in battles; the first "
        "ones sampled are used. None: no limit.",
        source=OURS,
        ge=2,
    )
    max_chosen_judgment_chars: NonEmpty[Positive | None] | Positive | None = declare_field(
        [1100, 1000],
        "Maximum length of a chosen judgment; by iteration. None: no limit.",
        source=SECONDARY,
        unit="characters",
    )
    elo_prior: float = declare_field(
        1e-4,
        "L2 penalty on the ratings in the Elo fit, which makes the optimum finite and unique.",
        source=OURS,
        gt=0,
        le=1,
    )
    hide_score_line: bool = declare_field(
        default=False,
        text="Whether to remove the score lines of judgments before the meta-judge reads them, "
        "which reduces its preference for the higher score.",
        source=OURS,
    )
    max_score_gap: float | None = declare_field(
        None,
        "Maximum difference between the scores of two judgments in a battle. None: no limit.",
        source=OURS,
        unit="points",
        ge=0,
        le=5,
    )
    adaptive_z: float | None = declare_field(
        None,
        "Run battles in rounds, and skip battles between judgments whose predicted number of wins "
        "(+- z standard deviations) can be neither the highest nor the lowest. None: run all "
        "battles. See docs/fewer_calls.md for savings and costs.",
        source=OURS,
        unit="standard deviations",
        gt=0,
        le=100,
    )
    min_readable_share: Share = declare_field(
        0.0,
        "Minimum share of opponents against which the chosen judgment has readable verdicts in "
        "both orders; the same limit applies to the rejected judgment. Below it, the prompt "
        "yields no judge pair. 0: no limit; an alarm then reports such pairs.",
        source=OURS,
    )
    max_pair_share: float | None = declare_field(
        None,
        "Maximum share of judge pairs among all pairs, which protects against a judge that always "
        "gives the maximum score. None: no limit.",
        source="NeMo-Aligner's documentation",
        gt=0,
        lt=1,
    )


Decoding = Literal["auto", "shared_prefixes", "generate"]


class EngineRecipe(Section):
    """Inference engine."""

    kind: Literal["transformers", "vllm", "openai", "scripted"] = declare_field(
        "transformers", "Inference engine. `scripted` is for tests.", source=OURS
    )
    endpoint: str | None = declare_field(
        None,
        "Server that the `openai` engine uses: a name in META_REWARD_ENDPOINTS.",
        source=OURS,
    )
    device: str = declare_field("auto", "Device: auto, cpu, cuda or cuda:<n>.", source=OURS)
    dtype: Literal["float32", "bfloat16", "float16"] = declare_field(
        "float32", "Data type of the weights during generation.", source=OURS
    )
    decoding: Decoding = declare_field(
        "auto",
        "Decoding loop of the `transformers` engine: `shared_prefixes` processes common "
        "prefixes once, `generate` uses transformers' own generate(). auto: generate on a GPU, "
        "else shared_prefixes.",
        source=OURS,
    )
    threads: int | None = declare_field(
        None,
        "Number of CPU threads of torch. With a fixed number, the same seed produces identical "
        "outputs on a CPU. "
        "None: torch's default.",
        source=OURS,
        unit="threads",
        ge=1,
        le=1024,
    )
    max_batch_tokens: int = declare_field(
        65_536,
        "Maximum tokens in a decoding batch; a prefix shared by several sequences counts once.",
        source=OURS,
        unit="tokens",
        ge=64,
    )
    max_model_len: int | None = declare_field(
        None,
        "Maximum total tokens of prompt and completion. None: the model's limit.",
        source=OURS,
        unit="tokens",
    )
    tensor_parallel_size: int = declare_field(
        1, "Number of devices per model replica (`vllm`).", source=OURS, unit="devices", ge=1, le=64
    )
    gpu_memory_utilization: float = declare_field(
        0.9,
        "Share of GPU memory that `vllm` uses for weights and KV cache. On a CPU, the cache holds "
        "max_batch_tokens tokens.",
        source=OURS,
        gt=0,
        lt=1,
    )
    max_num_seqs: int = declare_field(
        256,
        "Maximum number of sequences decoded at the same time (`vllm`).",
        source=OURS,
        unit="sequences",
        ge=1,
        le=8192,
    )
    max_num_batched_tokens: int | None = declare_field(
        None,
        "Maximum tokens per engine step, prefill and decoding combined (`vllm`). "
        "None: vLLM's default for the GPU.",
        source=OURS,
        unit="tokens",
        ge=64,
    )
    kv_cache_dtype: Literal["auto", "fp8"] = declare_field(
        "auto",
        "Data type of the KV cache (`vllm`). With fp8, the cache has room for twice as many "
        "replies as with bfloat16. auto: the data type of the weights.",
        source=OURS,
    )
    quantization: Literal["fp8"] | None = declare_field(
        None,
        "Quantization applied to the weights when they are loaded, for generation only (`vllm`). "
        "None: no quantization.",
        source=OURS,
    )

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        if self.kind == "openai" and self.endpoint is None:
            raise ValueError(
                "engine.kind: openai needs a server: set engine.endpoint to a name in "
                "META_REWARD_ENDPOINTS"
            )
        if self.kind != "openai" and self.endpoint is not None:
            raise ValueError(
                "engine.endpoint is for engine.kind: openai only: remove engine.endpoint or set "
                "engine.kind: openai"
            )
        return self


class EvaluationTaskRecipe(Section):
    """A benchmark that measures every M_t on the same items."""

    name: TaskName = Field(description="Benchmark, such as ifeval or labelled-pairs.")
    data: PathText = Field(
        description="Data: a file or a folder of files, read when the experiment is created."
    )
    prompts: Positive | None = Field(
        None, description="Number of prompts whose items are used. None: all."
    )


class EvaluationRecipe(Section):
    """Evaluation after training. It never influences training."""

    ground_truth: bool = declare_field(
        default=True,
        text="Whether to measure each model against the ground truth of the task. Has no effect "
        "without a task.",
        source=OURS,
    )
    prompts: int = declare_field(
        120, "Number of held-out prompts.", source=OURS, unit="prompts", ge=1
    )
    judge_items: int = declare_field(
        100, "Number of held-out responses with a known score.", source=OURS, ge=2
    )
    judgments: int = declare_field(
        5, "Number of judgments per held-out response.", source=OURS, ge=1
    )
    comparisons: int = declare_field(
        100,
        "Number of held-out pairs of judgments that the meta-judge compares.",
        source=OURS,
        ge=2,
    )
    tasks: list[EvaluationTaskRecipe] = declare_field(
        [],
        "Benchmarks with human labels or programmatic checks, such as "
        "`[{name: ifeval, data: FILE}]`. Each benchmark measures every M_t on the same items "
        "(docs/evaluation.md). Prompts that nearly duplicate a benchmark prompt are removed from "
        "the pool.",
        source=OURS,
    )

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("evaluation.tasks lists a task twice: keep one entry per task")
        return self


class DevelopmentRecipe(Section):
    """Tasks that select the checkpoint of each training, on data that no evaluation uses."""

    tasks: list[EvaluationTaskRecipe] = declare_field(
        [],
        "Tasks that evaluate the model of each saved epoch, in the same format as "
        "`evaluation.tasks`. `training.checkpoint_selection: highest_development_score` keeps the "
        "epoch with the highest mean of the tasks' first metrics. Prompts that nearly duplicate a "
        "prompt of these tasks are removed from the pool.",
        source=OURS,
    )
    judgments: int = declare_field(5, "Number of judgments per response.", source=OURS, ge=1)

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("development.tasks lists a task twice: keep one entry per task")
        return self


class ProbeRecipe(Section):
    """A trial of actor, judge and meta-judge on a few prompts before the first full stage."""

    prompts: int = declare_field(
        8,
        "Number of prompts in the probe. 0: no probe.",
        source=OURS,
        unit="prompts",
        ge=0,
        le=1000,
    )
    seconds: float = declare_field(
        120.0,
        "Time limit of the probe. When it is reached, the probe reports the prompts completed so "
        "far.",
        source=OURS,
        unit="seconds",
        gt=0,
        le=86_400,
    )
    min_readable_share: Share = declare_field(
        0.5,
        "Minimum share of readable judgments, and minimum share of readable verdicts. 0: no check.",
        source=OURS,
    )
    max_cut_off_share: Share = declare_field(
        0.9,
        "Maximum share of replies that are truncated by the token limit. 1: no check.",
        source=OURS,
    )
    max_same_score_share: Share = declare_field(
        0.95,
        "Maximum share of scores that have the same value. 1: no check.",
        source=OURS,
    )
    max_refused_share: Share = declare_field(
        0.2,
        "Maximum share of prompts that the engine refuses. 1: no check.",
        source=OURS,
    )
    min_pair_share: Share = declare_field(
        0.05,
        "Minimum share of prompts that yield a preference pair. 0: no check.",
        source=OURS,
    )
    check_shards: bool = declare_field(
        default=True,
        text="Whether to check each finished shard against the same limits. A stage stops if a "
        "shard certainly violates one of them.",
        source=OURS,
    )


class AuditRecipe(Section):
    """Human review that an iteration must pass before it trains."""

    required: bool = declare_field(
        default=False,
        text="Whether judge pairs are used for training only after an audit of the iteration's "
        "battles has passed. This and the next four settings can be changed on the audits page of "
        "an experiment.",
        source=OURS,
    )
    min_agreement: float = declare_field(
        0.5,
        "Required agreement between auditors and the meta-judge, ties excluded: the lower bound of "
        "its confidence interval must exceed this value.",
        source=OURS,
        unit="share of verdicts",
        ge=0,
        lt=1,
    )
    confidence: float = declare_field(
        0.95, "Confidence level of the interval of the agreement.", source=OURS, gt=0, lt=1
    )
    min_answers: int = declare_field(
        50, "Minimum number of valid answers.", source=OURS, unit="answers", ge=1, le=100_000
    )
    on_failure: Literal["wait", "actor_pairs"] = declare_field(
        "wait",
        "Action if a completed audit did not pass. wait: wait for a user's decision. actor_pairs: "
        "train on actor pairs only.",
        source=OURS,
    )
    human_pairs_share: float = declare_field(
        0.0,
        "Maximum share, among all pairs, of judge pairs built from human preferences in audits of "
        "earlier iterations. 0: no such pairs.",
        source=OURS,
        unit="share of pairs",
        ge=0,
        le=0.9,
    )


class Recipe(Section):
    """Settings of an experiment. The defaults are the paper's."""

    name: str = Field(description="Name of the recipe.", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    description: str = Field("", description="One-sentence description of the recipe, for lists.")
    task: TaskName | None = declare_field(
        None,
        "Task that supplies prompts, a base model, prompt templates or a ground truth: `toy`, or "
        "a task of another package (docs/tasks.md).",
        source=OURS,
    )
    model: PathText | None = declare_field(
        None,
        "Base model M0: a folder, or a Hugging Face id such as org/name@revision. None: the "
        "task's model.",
        source=PAPER,
    )
    iterations: int = declare_field(4, "Number of iterations.", source=PAPER, ge=1)
    train_on: NonEmpty[NonEmpty[PairKind]] = declare_field(
        [["actor", "judge"], ["actor", "judge"], ["actor"], ["actor"]],
        "Kinds of preference pairs to train on; by iteration.",
        source=PAPER,
    )
    prompts_per_shard: int | None = declare_field(
        None, "Number of prompts per shard, the unit of work that is claimed, saved and retried. "
        "None: a number up to 64 that is chosen when the experiment is created, so that its "
        "engines are idle for less than 2% of the time before training.",
        source=OURS, unit="prompts", ge=1,
    )  # fmt: skip
    sample: PromptSampleRecipe = PromptSampleRecipe()
    actor: ActorRecipe = ActorRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    pairing: PairingRecipe = PairingRecipe()
    meta_judge: MetaJudgeRecipe = MetaJudgeRecipe()
    training: DpoSettings = DpoSettings()
    development: DevelopmentRecipe = DevelopmentRecipe()
    probe: ProbeRecipe = ProbeRecipe()
    audit: AuditRecipe = AuditRecipe()
    engine: EngineRecipe = EngineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @property
    def shard_size(self) -> int:
        """Prompts per shard; the maximum if the size is still open."""
        return self.prompts_per_shard or OPEN_SHARD_SIZE

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        if self.judge.min_valid_judgments > self.judge.samples:
            raise ValueError(
                f"judge.min_valid_judgments is {self.judge.min_valid_judgments}, but only "
                f"judge.samples = {self.judge.samples} judgments are made"
            )
        if self.pairing.length_unit == "tokens" and self.actor.reasoning != "keep":
            raise ValueError(
                "pairing.length_unit: tokens also counts the tokens of the reasoning, which "
                f"actor.reasoning: {self.actor.reasoning} removes; use pairing.length_unit: "
                "characters"
            )
        if self.training.selects_by_tasks and not self.development.tasks:
            raise ValueError(
                "training.checkpoint_selection: highest_development_score selects by "
                "development.tasks, which is empty: add a task to development.tasks"
            )
        self._check_readouts()
        self._check_reward_model()
        return self

    def _check_reward_model(self) -> None:
        """Refuse values that have no meaning for a reward model: it writes no judgments."""
        if self.judge.reward_model is None:
            return
        if self.judge.endpoint is not None:
            raise ValueError(
                "judge.reward_model and judge.endpoint both replace the judge: remove one of them"
            )
        if self.judge.samples != 1:
            raise ValueError(
                f"judge.samples is {self.judge.samples}, but a reward model (judge.reward_model) "
                "gives a response the same score each time: set judge.samples to 1"
            )
        if self.judge.score_readout != "free":
            raise ValueError(
                "judge.score_readout is for a judge that writes text, and judge.reward_model "
                "writes none: remove one of them"
            )
        if any("judge" in kinds for kinds in self.train_on):
            raise ValueError(
                "train_on includes judge pairs, but a reward model (judge.reward_model) writes no "
                "judgments to compare: set train_on to [[actor]]"
            )

    def _check_readouts(self) -> None:
        """Refuse a forced readout for an external judge; engines of the model itself support it.

        A server without support for forced lines is refused at its first request.
        """
        if self.judge.score_readout != "free" and self.judge.endpoint is not None:
            raise ValueError(
                "judge.score_readout forces scores of an external judge (judge.endpoint), whose "
                "server is not asked to continue a reply: use judge.score_readout: free"
            )

    def trains_on(self, kind: PairKind, iteration: int) -> bool:
        """Whether pairs of this kind are scheduled in this iteration (counted from 1)."""
        return kind in get_scheduled_value(list(self.train_on), iteration)

    @property
    def forces_lines(self) -> bool:
        """Whether a score or a verdict is forced."""
        return self.judge.score_readout != "free" or self.meta_judge.verdict_readout != "free"

    @property
    def outside_judge(self) -> str | None:
        """Name of the judge that scores responses in place of the model; None if the model does."""
        return self.judge.endpoint or self.judge.reward_model

    @property
    def has_ground_truth(self) -> bool:
        """Whether models are measured against the task's ground truth, if it has one."""
        return self.task is not None and self.evaluation.ground_truth

    @property
    def sha256(self) -> str:
        """Hash of the canonical form, in hexadecimal. An experiment keeps its original hash."""
        return hash_recipe_values(canonicalize_recipe(self))
