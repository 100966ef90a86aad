"""Estimate the cost of an iteration before it runs: calls, tokens, time and disk of each stage.

Calls are exact, or upper bounds where they depend on generated text. Tokens assume replies of
`REPLY_SHARE` of their limit; time divides them by an assumed rate. Once shards of the stage are
finished, lengths and time come from a linear fit: seconds per shard and per token. Training time is
unknown until it has been measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meta_reward_core.recipes.schema import Recipe

REPLY_SHARE = 0.5
"""Assumed length of a reply, as a share of its token limit, until lengths have been measured."""

ASSUMED_TOKENS_PER_SECOND = 1_000.0
"""Rate assumed while nothing has been measured; small models on a CPU reach several thousand."""

_BYTES_PER_TOKEN = 6.0
_DISK_SAFETY_FACTOR = 1.5
_MIN_SHARDS = 4
_MIN_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The expected cost of one stage.

    Attributes:
        calls: number of completions that the engine will generate; for `train`, of optimizer steps.
        at_most: whether `calls` is an upper bound.
        tokens: estimated number of generated tokens.
        seconds: estimated duration; None if no estimate is possible.
        bytes: estimated disk usage.
        basis: source of the rate and the lengths.
    """

    stage: str
    calls: int
    at_most: bool
    tokens: int
    seconds: float | None
    bytes: int
    basis: Literal["measured", "assumed"]


@dataclass(frozen=True, slots=True)
class StageRate:
    """Measurements on finished shards of a stage: tokens per reply, and tokens per second."""

    tokens_per_call: float
    tokens_per_second: float
    seconds_per_shard: float = 0.0


@dataclass(frozen=True, slots=True)
class MeasuredThroughput:
    """Measurements for a plan.

    Attributes:
        measured_in: the measured experiment; empty if nothing has been measured.
        rates: measurements on the shards of each generating stage.
        seconds_per_row: training time per row and epoch.
    """

    measured_in: str = ""
    rates: Mapping[str, StageRate] = field(default_factory=dict)
    seconds_per_row: float | None = None


@dataclass(frozen=True, slots=True)
class ShardCost:
    """Cost of one finished shard."""

    calls: int
    tokens: int
    seconds: float


def fit_rate(shards: Sequence[ShardCost]) -> StageRate | None:
    """Fit seconds = a + b * tokens by least squares, with nonnegative a and b.

    Shards of similar size do not determine `a`: a is 0 unless the standard deviation of their
    tokens is at least `_MIN_SPREAD` of the mean, and if the fit is not plausible.
    """
    calls, tokens = sum(one.calls for one in shards), sum(one.tokens for one in shards)
    seconds = sum(one.seconds for one in shards)
    if not (calls and tokens and seconds):
        return None
    mean = tokens / len(shards)
    spread = sum((one.tokens - mean) ** 2 for one in shards)
    if len(shards) >= _MIN_SHARDS and spread >= len(shards) * (_MIN_SPREAD * mean) ** 2:
        slope = sum((one.tokens - mean) * one.seconds for one in shards) / spread
        start = seconds / len(shards) - slope * mean
        if slope > 0 and start > 0:
            return StageRate(tokens / calls, 1 / slope, start)
    return StageRate(tokens / calls, tokens / seconds)


def plan_iteration(
    recipe: Recipe, iteration: int, *, measured: MeasuredThroughput | None = None
) -> list[StagePlan]:
    """Estimate every stage that generates or trains.

    Args:
        iteration: t, from 1; the schedule decides which stages it has.
        measured: measurements on earlier shards.
    """
    speeds = measured or MeasuredThroughput()
    return [
        _plan_training(calls, speeds.seconds_per_row, recipe=recipe)
        if stage == "train"
        else _plan_stage(stage, calls, limit, at_most, speeds.rates.get(stage), recipe=recipe)
        for stage, calls, limit, at_most in _iter_calls(recipe, iteration)
    ]


def _plan_training(steps: int, seconds_per_row: float | None, *, recipe: Recipe) -> StagePlan:
    """Estimate training from its steps, assuming that every prompt has a pair."""
    rows = steps * recipe.training.batch_size
    return StagePlan(
        stage="train",
        calls=steps,
        at_most=True,
        tokens=0,
        seconds=None if seconds_per_row is None else rows * seconds_per_row,
        bytes=0,
        basis="assumed" if seconds_per_row is None else "measured",
    )


def _iter_calls(recipe: Recipe, iteration: int) -> Iterator[tuple[str, int, int, bool]]:
    """Yield (stage, calls, token limit of a reply, whether calls is an upper bound)."""
    prompts = recipe.sample.prompts
    responses = prompts * recipe.actor.samples
    yield "generate", responses, recipe.actor.max_new_tokens, False
    has_reward_model = recipe.judge.reward_model is not None  # generates no tokens
    limit = 0 if has_reward_model else recipe.judge.max_new_tokens
    yield "judge", responses * recipe.judge.samples, limit, True
    if recipe.trains_on("judge", iteration):
        compared = min(recipe.judge.samples, recipe.meta_judge.max_judgments or 10**9)
        battles = prompts * compared * (compared - 1)
        yield "meta_judge", battles, recipe.meta_judge.max_new_tokens, True
    kinds = sum(recipe.trains_on(kind, iteration) for kind in ("actor", "judge"))
    rows = prompts * kinds * recipe.training.epochs
    yield "train", -(-rows // recipe.training.batch_size), 0, True
    if recipe.has_ground_truth:
        asked = recipe.evaluation
        calls = 2 * asked.prompts + asked.judge_items * asked.judgments + asked.comparisons
        models = 2 if iteration == 1 else 1
        yield "evaluate", calls * models, recipe.judge.max_new_tokens, False


def _plan_stage(
    stage: str,
    calls: int,
    limit: int,
    at_most: bool,  # noqa: FBT001
    rate: StageRate | None,
    *,
    recipe: Recipe,
) -> StagePlan:
    per_call = rate.tokens_per_call if rate else limit * REPLY_SHARE
    per_second = rate.tokens_per_second if rate else ASSUMED_TOKENS_PER_SECOND
    tokens = round(calls * per_call)
    shards = -(-recipe.sample.prompts // recipe.shard_size)
    starting = shards * rate.seconds_per_shard if rate else 0.0
    return StagePlan(
        stage=stage,
        calls=calls,
        at_most=at_most,
        tokens=tokens,
        seconds=starting + tokens / per_second if limit or rate else None,
        bytes=round(tokens * _BYTES_PER_TOKEN),
        basis="measured" if rate else "assumed",
    )


def estimate_disk_needed(stages: list[StagePlan], *, model_bytes: int) -> int:
    """Estimate the disk space of an iteration, in bytes.

    The model is stored twice during training (scratch and checkpoint) and once for each epoch's
    optimizer state; two of these are kept at a time.
    """
    return round(_DISK_SAFETY_FACTOR * sum(stage.bytes for stage in stages)) + 8 * model_bytes


def estimate_disk_for_iterations(plans: Sequence[Sequence[StagePlan]], *, model_bytes: int) -> int:
    """Estimate the disk space of several consecutive iterations, in bytes.

    Files and checkpoints of all iterations are kept; the last one also needs space for training.
    """
    if not plans:
        return 0
    left = sum(
        _DISK_SAFETY_FACTOR * sum(stage.bytes for stage in plan) + model_bytes
        for plan in plans[:-1]
    )
    return round(left) + estimate_disk_needed(list(plans[-1]), model_bytes=model_bytes)
