"""Estimate an iteration on given hardware: device-hours, wall time, disk. A calculation.

Nothing is measured here. Device specifications are the manufacturers'. The utilization is an
assumption, listed below, and can be overridden. docs/planning.md describes the method. Where
shards of a stage have been measured, `cost_estimate.plan_iteration` is more accurate.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from meta_reward_core.planning.cost_estimate import (
    REPLY_SHARE,
    StagePlan,
    estimate_disk_needed,
    plan_iteration,
)
from meta_reward_core.planning.shard_schedule import (
    MAX_IDLE_SHARE,
    choose_shard_size,
    estimate_shards,
)
from meta_reward_core.recipes.canonical import OPEN_SHARD_SIZE
from meta_reward_core.recipes.schema import DecodingRecipe, Recipe
from meta_reward_core.storage.records import PairKind

DECODE_UTILIZATION: Final = 0.6
"""Share of the memory bandwidth that is reached during generation."""
PREFILL_UTILIZATION: Final = 0.5
"""Share of the peak FLOP/s that is reached during prefill."""
TRAINING_UTILIZATION: Final = 0.4
"""Share of the peak FLOP/s that is reached in training."""
SECONDS_PER_SHARD: Final = 2.0
"""Worker overhead: claiming, reading and writing files."""

_BYTES_PER_WEIGHT: Final = 2
_MEMORY_UTILIZATION: Final = 0.9


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, with the manufacturer's specifications for bfloat16 without sparsity.

    Attributes:
        flops: arithmetic operations per second.
        bandwidth: memory bandwidth in bytes per second.
        memory: bytes.
    """

    title: str
    flops: float
    bandwidth: float
    memory: float


DEVICES: Final[Mapping[str, Device]] = {
    "a100-80gb": Device("NVIDIA A100 80 GB SXM", 312e12, 2.039e12, 80e9),
    "h100": Device("NVIDIA H100 SXM", 989e12, 3.35e12, 80e9),
    "h200": Device("NVIDIA H200 SXM", 989e12, 4.8e12, 141e9),
    "l40s": Device("NVIDIA L40S", 362e12, 0.864e12, 48e9),
    "rtx4090": Device("NVIDIA GeForce RTX 4090", 165e12, 1.008e12, 24e9),
}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model.

    Attributes:
        parameters: number of weights.
        kv_bytes: bytes of keys and values for one token of context.
    """

    parameters: float
    kv_bytes: float


LLAMA3_8B: Final = ModelSize(8.03e9, 2 * 32 * 8 * 128 * _BYTES_PER_WEIGHT)


@dataclass(frozen=True, slots=True)
class StageTime:
    """The estimate for a stage.

    Attributes:
        calls: number of completions, or of optimizer steps.
        device_hours: total of all devices.
        begin_seconds: start of the stage, in seconds since the start of the iteration; stages
            overlap.
        end_seconds: end of the stage, in seconds since the start of the iteration.
        shards: number of shards.
    """

    stage: str
    calls: int
    device_hours: float
    begin_seconds: float
    end_seconds: float
    shards: int


@dataclass(frozen=True, slots=True)
class IterationTime:
    """The estimate for an iteration.

    Attributes:
        engines: number of engines that generate at the same time, each on its own shard.
        idle_share: share of the engines' time before training in which they have no shard to run.
        advised_shard_size: number of prompts per shard that reduces the idle share, if it exceeds
            `MAX_IDLE_SHARE` with the recipe's number.
    """

    stages: tuple[StageTime, ...]
    engines: int
    idle_share: float
    advised_shard_size: int | None

    @property
    def wall_seconds(self) -> float:
        """Duration including training."""
        return max(stage.end_seconds for stage in self.stages)


@dataclass(frozen=True, slots=True)
class TextLengths:
    """Mean lengths of texts in tokens.

    Attributes:
        response, judgment, verdict: mean length of each; None for half of its token limit.
    """

    instruction: float = 200
    rubric: float = 400
    response: float | None = None
    judgment: float | None = None
    verdict: float | None = None


ASSUMED_LENGTHS: Final = TextLengths()


@dataclass(frozen=True, slots=True)
class _TokenLoad:
    """Tokens of a stage: prompt tokens read once each, generated tokens, and context length."""

    read: float
    sampled: float
    context: float


def plan_on_hardware(
    recipe: Recipe,
    iteration: int,
    *,
    device: Device,
    devices: int,
    workers: int,
    model: ModelSize = LLAMA3_8B,
    lengths: TextLengths = ASSUMED_LENGTHS,
) -> IterationTime:
    """Estimate the stages that generate or train.

    Args:
        devices: number of devices per worker. Each engine runs on `engine.tensor_parallel_size`
            devices, or on the minimum number that the model needs.
        workers: machines that run shards; one of them trains.
        lengths: mean lengths of prompts and replies.

    Raises:
        ValueError: the model's weights do not fit on a worker.
    """
    plans = {plan.stage: plan for plan in plan_iteration(recipe, iteration)}
    prompts = recipe.sample.prompts
    per_engine = max(recipe.engine.tensor_parallel_size, _count_devices_per_copy(device, model))
    if per_engine > devices:
        raise ValueError(
            f"an engine needs {per_engine} devices (engine.tensor_parallel_size is "
            f"{recipe.engine.tensor_parallel_size}, the weights take "
            f"{model.parameters * _BYTES_PER_WEIGHT / 1e9:.0f} GB), but a worker has only "
            f"{devices}, with {devices * device.memory / 1e9:.0f} GB in total: use more devices "
            "per worker"
        )
    engines = workers * (devices // per_engine)
    seconds = {
        stage: _estimate_sampling_seconds(
            load, device, per_engine, model, recipe.engine.max_num_seqs
        )
        for stage, load in _compute_loads(recipe, plans, lengths)
    }
    per_prompt = {stage: one / prompts / per_engine for stage, one in seconds.items()}
    size = recipe.prompts_per_shard or choose_shard_size(
        per_prompt,
        prompts=prompts,
        engines=engines,
        seconds_per_shard=SECONDS_PER_SHARD,
        max_size=min(prompts, OPEN_SHARD_SIZE),
    )
    shards = math.ceil(prompts / size)
    times = estimate_shards(
        {stage: SECONDS_PER_SHARD + size * one for stage, one in per_prompt.items()},
        shards=shards,
        engines=engines,
    )
    stages = [
        StageTime(stage, plans[stage].calls, seconds[stage] / 3600, span.begin, span.end, shards)
        for stage, span in times.spans.items()
    ]
    training = _estimate_training_seconds(recipe, iteration, device, model)
    end = times.seconds + training / devices
    calls = plans["train"].calls
    stages.append(StageTime("train", calls, training / 3600, times.seconds, end, 1))
    advised = None
    if times.idle_share > MAX_IDLE_SHARE:
        advised = choose_shard_size(
            per_prompt, prompts=prompts, engines=engines, seconds_per_shard=SECONDS_PER_SHARD
        )
    return IterationTime(tuple(stages), engines, times.idle_share, advised)


def estimate_disk_bytes(recipe: Recipe, iteration: int, *, model: ModelSize = LLAMA3_8B) -> int:
    """Estimate the disk space of an iteration, including training states."""
    return estimate_disk_needed(
        plan_iteration(recipe, iteration), model_bytes=round(model.parameters * _BYTES_PER_WEIGHT)
    )


def _compute_loads(
    recipe: Recipe, plans: Mapping[str, StagePlan], lengths: TextLengths
) -> Iterator[tuple[str, _TokenLoad]]:
    """Compute the tokens each stage reads and generates; shared prefixes are read once."""
    response = lengths.response or _estimate_reply_tokens(recipe.actor)
    judgment = lengths.judgment or _estimate_reply_tokens(recipe.judge)
    verdict = lengths.verdict or _estimate_reply_tokens(recipe.meta_judge)
    instruction, prompts = lengths.instruction, recipe.sample.prompts
    calls = plans["generate"].calls
    yield (
        "generate",
        _TokenLoad(prompts * instruction, calls * response, instruction + response),
    )
    asked = lengths.rubric + instruction + response
    if recipe.judge.reward_model is None:
        yield "judge", _TokenLoad(calls * asked, plans["judge"].calls * judgment, asked + judgment)
    else:  # assumes a reward model of the same size
        shown = instruction + response
        yield "judge", _TokenLoad(calls * shown, 0, shown)
    if "meta_judge" in plans:
        battles = plans["meta_judge"].calls
        read = prompts * asked + battles * 2 * judgment
        context = asked + 2 * judgment + verdict
        yield "meta_judge", _TokenLoad(read, battles * verdict, context)


def _count_devices_per_copy(device: Device, model: ModelSize) -> int:
    """Compute the minimum number of devices that a model is split over."""
    weights = model.parameters * _BYTES_PER_WEIGHT
    return max(1, math.ceil(weights / (device.memory * _MEMORY_UTILIZATION)))


def _estimate_reply_tokens(sampling: DecodingRecipe) -> float:
    return sampling.max_new_tokens * REPLY_SHARE


def _estimate_sampling_seconds(
    load: _TokenLoad, device: Device, devices: int, model: ModelSize, max_num_seqs: int
) -> float:
    """Estimate device-seconds of an engine: compute-bound prefill, then decoding.

    Args:
        devices: number of devices over which the engine splits the model.

    A step generates one token for each of b replies. It reads all weights once and each reply's
    keys and values, so a token costs less the more replies fit in memory.
    """
    weights = model.parameters * _BYTES_PER_WEIGHT
    room = devices * device.memory * _MEMORY_UTILIZATION - weights
    replies = max(1, min(max_num_seqs, int(room / (load.context * model.kv_bytes))))
    moved = weights + replies * load.context * model.kv_bytes
    step = max(
        moved / (devices * device.bandwidth * DECODE_UTILIZATION),
        2 * model.parameters * replies / (devices * device.flops * PREFILL_UTILIZATION),
    )
    reading = 2 * model.parameters * load.read / (device.flops * PREFILL_UTILIZATION)
    return reading + devices * step * load.sampled / replies


def _estimate_training_seconds(
    recipe: Recipe, iteration: int, device: Device, model: ModelSize
) -> float:
    """Estimate device-seconds of DPO: per weight 2 operations forward, 4 back, 2 to recompute."""
    prompt = ASSUMED_LENGTHS.instruction + _estimate_reply_tokens(recipe.actor)
    lengths: dict[PairKind, float] = {
        "actor": prompt,
        "judge": ASSUMED_LENGTHS.rubric + prompt + _estimate_reply_tokens(recipe.judge),
    }
    trained = [length for kind, length in lengths.items() if recipe.trains_on(kind, iteration)]
    tokens = (
        2
        * recipe.sample.prompts
        * sum(min(length, recipe.training.max_length) for length in trained)
    )
    per_token = 8 if recipe.training.gradient_checkpointing else 6
    operations = model.parameters * tokens * (per_token * recipe.training.epochs + 2)
    return operations / (device.flops * TRAINING_UTILIZATION)
