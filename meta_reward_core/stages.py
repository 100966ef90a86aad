"""Stage functions: each reads the tables of a shard and performs one step of the method."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.context import IterationContext, StageResources, make_sampling_params
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import NoPairsError
from meta_reward_core.evaluation.probe_gate import require_judge_probed
from meta_reward_core.method.actor_pairs import build_actor_pairs
from meta_reward_core.method.battles import PositionWeights, compute_weights_from_counts
from meta_reward_core.method.generation import generate_responses
from meta_reward_core.method.judge_pairs import (
    JudgedPrompts,
    build_judge_pairs,
    cap_judge_pairs,
    plan_battles,
)
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.method.meta_judging import run_battles
from meta_reward_core.method.pairing import score_responses
from meta_reward_core.method.prompt_sampling import sample_prompts
from meta_reward_core.method.reasoning import select_answers, select_finished
from meta_reward_core.method.refusals import list_refused_battles, list_refused_judgments
from meta_reward_core.method.reward_scoring import score_by_reward_model
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.schema import get_scheduled_value
from meta_reward_core.storage.artifact_store import explain_full_disk, hash_json
from meta_reward_core.storage.records import (
    Battle,
    Dropped,
    Judgment,
    Prompt,
    RefusedPrompt,
    Response,
    ResponseScore,
)
from meta_reward_core.storage.schemas import build_table, get_own_part, to_records
from meta_reward_core.storage.shards import Counts, IterationFiles, StageOutput
from meta_reward_core.system.library_imports import pause_garbage_collection
from meta_reward_core.training.dataset import load_training_rows

if TYPE_CHECKING:
    from meta_reward_core.training.checkpoint_candidates import CheckpointScorer


def run_sample(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:  # noqa: ARG001
    """Sample prompts and split them into the partitions that later stages process."""
    pool = context.pool.read("prompts")
    used = {
        prompt_id
        for files in context.earlier
        for prompt_id in files.read("prompts")["prompt_id"].to_pylist()
    }
    sampled = sample_prompts(
        _to_prompts(pool),
        used=used,
        count=context.recipe.sample.prompts,
        allow_reuse=context.recipe.sample.allow_reuse,
        seed=_derive_stage_seed(context, "sample"),
    )
    rows = {row["prompt_id"]: row for row in pool.to_pylist()}
    size = context.recipe.shard_size
    tables = {
        ("prompts", start // size): build_table(
            "prompts", [rows[prompt.prompt_id] for prompt in sampled[start : start + size]]
        )
        for start in range(0, len(sampled), size)
    }
    return StageOutput(
        tables, {"pool": pool.num_rows, "used_before": len(used), "prompts": len(sampled)}
    )


def hash_earlier_inputs(context: IterationContext) -> str:
    """Hash the inputs of `run_sample`: the pool, and the prompts of earlier iterations."""
    read = [files.hash_inputs(["prompts"]) for files in (context.pool, *context.earlier)]
    return hash_json(read)


def hash_earlier_judgments(context: IterationContext) -> str | None:
    """Hash the judgments of earlier iterations if human pairs train on their tokens."""
    if not any(part.rows for part in context.files.list_partitions("human_pairs")):
        return None
    return hash_json([files.hash_inputs(["judgments"]) for files in context.earlier])


def run_generate(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:
    """Let the actor respond to one partition of the prompts, once the judge probe has passed."""
    require_judge_probed(context, resources)
    actor = context.recipe.actor
    responses, refused, counts = generate_responses(
        _to_prompts(context.files.read("prompts", shard)),
        resources.get_engine(context.model, context.recipe.engine),
        samples=actor.samples,
        sampling=make_sampling_params(actor, chat_date=context.chat_date),
        system_prompt=actor.system_prompt,
        seed=_derive_stage_seed(context, "generate", shard),
        reasoning=actor.reasoning,
        progress=resources.progress,
    )
    tables = {("responses", shard): build_table("responses", responses)}
    return StageOutput(tables | _build_refusals("refused_by_actor", shard, refused), counts)


def _build_refusals(
    name: str, shard: int, refused: Sequence[RefusedPrompt]
) -> dict[tuple[str, int], pa.Table]:
    """Return the table of refused prompts, which is written only if there are any."""
    return {(name, shard): build_table(name, refused)} if refused else {}


def run_judge(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:
    """Let the judge, or the reward model, score one partition of the responses."""
    require_judge_probed(context, resources)
    recipe, policy = context.recipe.judge, context.recipe.actor.reasoning
    sampled = context.files.read_records(Response, shard)
    responses = select_answers(sampled, policy)
    finished, unfinished = select_finished(sampled, policy)
    judgments, counts = _score(context, shard, resources, select_answers(finished, policy))
    scores = score_responses(responses, judgments, min_valid_judgments=recipe.min_valid_judgments)
    if unfinished:
        counts["unfinished_reasoning"] = unfinished
    counts["unscored_responses"] = sum(score.mean is None for score in scores)
    tables = {
        ("judgments", shard): build_table("judgments", judgments),
        ("scores", shard): build_table("scores", scores),
    }
    refused = list_refused_judgments(judgments)
    return StageOutput(tables | _build_refusals("refused_by_judge", shard, refused), counts)


def _score(
    context: IterationContext,
    shard: int,
    resources: StageResources,
    responses: Sequence[Response],
) -> tuple[list[Judgment], Counts]:
    recipe = context.recipe.judge
    sampling = make_sampling_params(recipe, chat_date=context.chat_date)
    instructions = {
        prompt.prompt_id: prompt.text
        for prompt in _to_prompts(context.files.read("prompts", shard))
    }
    if context.reward_model is not None:
        return score_by_reward_model(
            responses,
            resources.get_reward_model(context.reward_model, context.recipe.engine),
            instructions=instructions,
            options=sampling.chat_options,
            progress=resources.progress,
        )
    return judge_responses(
        responses,
        resources.get_judge_engine(context.model, context.recipe),
        instructions=instructions,
        template=context.templates.judge,
        rubric=context.templates.rubric,
        samples=recipe.samples,
        sampling=sampling,
        seed=_derive_stage_seed(context, "judge", shard),
        max_score=recipe.max_score,
        readout=recipe.score_readout,
        progress=resources.progress,
    )


def run_pair_actor(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:  # noqa: ARG001
    """Pair the best response with the worst response to every prompt."""
    recipe = context.recipe.pairing
    pairs: list[dict[str, object]] = []
    dropped: list[Dropped] = []
    for part in context.files.list_partition_numbers("prompts"):
        made, missed = build_actor_pairs(
            _to_prompts(context.files.read("prompts", part)),
            _read_responses(context, part),
            context.files.read_records(ResponseScore, part),
            iteration=context.number,
            rho=get_scheduled_value(recipe.rho, context.number),
            max_chosen_chars=get_scheduled_value(recipe.max_chosen_chars, context.number),
            length_unit=recipe.length_unit,
            system_prompt=context.recipe.actor.system_prompt,
        )
        pairs += made
        dropped += missed
    tables = {
        ("actor_pairs", 0): build_table("actor_pairs", pairs),
        ("dropped", get_own_part("dropped", "pair_actor")): build_table("dropped", dropped),
    }
    return StageOutput(tables, _count_pairs(len(pairs), dropped))


def run_meta_judge(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:
    """Let the meta-judge compare the judgments of one partition."""
    require_judge_probed(context, resources)
    recipe = context.recipe.meta_judge
    planned = plan_battles(
        _read_judged_prompts(context, shard),
        seed=context.seed,
        max_judgments=recipe.max_judgments,
        max_score_gap=recipe.max_score_gap,
    )
    battles, counts = run_battles(
        planned,
        resources.get_engine(context.model, context.recipe.engine),
        template=context.templates.meta_judge,
        rubric=context.templates.rubric,
        hide_score_line=recipe.hide_score_line,
        sampling=make_sampling_params(recipe, chat_date=context.chat_date),
        seed=_derive_stage_seed(context, "meta_judge", shard),
        adaptive_z=recipe.adaptive_z,
        readout=recipe.verdict_readout,
        progress=resources.progress,
    )
    tables = {("battles", shard): build_table("battles", battles)}
    refused = list_refused_battles(battles)
    return StageOutput(tables | _build_refusals("refused_by_meta_judge", shard, refused), counts)


def run_pair_judge(context: IterationContext, shard: int, resources: StageResources) -> StageOutput:  # noqa: ARG001
    """Rate the judgments, and pair the best judgment with the worst one for every prompt."""
    recipe = context.recipe.meta_judge
    weights = _compute_position_weights(context.files)
    pairs: list[dict[str, object]] = []
    ratings: list[object] = []
    dropped: list[Dropped] = []
    for part in context.files.list_partition_numbers("prompts"):
        made, rated, missed = build_judge_pairs(
            _read_judged_prompts(context, part),
            context.files.read_records(Battle, part),
            weights=weights,
            iteration=context.number,
            template=context.templates.judge,
            rubric=context.templates.rubric,
            elo_prior=recipe.elo_prior,
            min_readable_share=recipe.min_readable_share,
            max_chosen_judgment_chars=get_scheduled_value(
                recipe.max_chosen_judgment_chars, context.number
            ),
            max_judgments=recipe.max_judgments,
            seed=context.seed,
        )
        pairs += made
        ratings += rated
        dropped += missed
    if recipe.max_pair_share is not None:
        pairs, over = cap_judge_pairs(
            pairs,
            actor_pairs=context.files.read("actor_pairs").num_rows,
            max_share=recipe.max_pair_share,
            seed=context.seed,
        )
        dropped += over
    tables = {
        ("ratings", 0): build_table("ratings", ratings),
        ("judge_pairs", 0): build_table("judge_pairs", pairs),
        ("dropped", get_own_part("dropped", "pair_judge")): build_table("dropped", dropped),
    }
    return StageOutput(tables, _count_pairs(len(pairs), dropped))


def _compute_position_weights(files: IterationFiles) -> PositionWeights:
    """Compute the position weights from all battles."""
    counted: Counter[str | None] = Counter()
    for part in files.list_partition_numbers("battles"):
        verdicts = files.read("battles", part, columns=["verdict"])["verdict"]
        for entry in pc.value_counts(verdicts).to_pylist():
            counted[entry["values"]] += entry["counts"]
    return compute_weights_from_counts(
        wins_first=counted["A"],
        wins_second=counted["B"],
        ties=counted["tie"],
        unparsed=counted[None],
    )


def run_train(
    context: IterationContext,
    shard: int,  # noqa: ARG001
    resources: StageResources,
    *,
    make_scorer: Callable[[IterationContext, StageResources], "CheckpointScorer | None"],
) -> StageOutput:
    """Train M_t by DPO on the scheduled pairs; start and reference are M_{t-1}.

    An audit can withhold a kind of pairs, or add human pairs (`training.dataset`).

    Args:
        make_scorer: creates the function that scores checkpoint candidates, if the recipe selects
            the checkpoint by tasks.

    Raises:
        NoPairsError: no pair of any scheduled kind is left.
    """
    rows = load_training_rows(context)
    if not rows:
        raise NoPairsError(_explain_no_pairs(context))
    with pause_garbage_collection():
        from meta_reward_core.training.dpo import train_dpo  # import TRL only for training

    resources.release_engine()
    made = context.files.checkpoint
    with explain_full_disk(resources.scratch), made.open_for_writing(resources.scratch) as folder:
        outcome = train_dpo(
            rows,
            start=context.model.folder,
            settings=context.recipe.training,
            checkpoint=folder,
            scratch=resources.scratch / "training",
            seed=_derive_stage_seed(context, "train") % 2**31,
            threads=context.recipe.engine.threads,
            on_log=resources.on_log,
            chat_date=context.chat_date,
            run_name=f"{context.recipe.name}-{context.seed}-iteration-{context.number}",
            score_checkpoint=make_scorer(context, resources),
        )
        sha256 = hash_model_folder(folder)
    tables = {
        ("training_log", 0): build_table("training_log", _iter_log_rows(outcome.log)),
        ("refused", 0): build_table(
            "refused",
            (
                {"prompt_id": prompt_id, "kind": kind, "reason": reason}
                for prompt_id, kind, reason in outcome.refused
            ),
        ),
    }
    counts = {
        "rows": len(rows),
        "trained": outcome.rows_trained,
        "refused": len(outcome.refused),
        "kept_step": outcome.kept_step,
        "drawn_tokens": outcome.tokens.sampled,
        "not_canonical": outcome.tokens.not_canonical,
        "rewritten_by_template": outcome.tokens.rewritten,
        **rows.counts,
    }
    return StageOutput(tables, counts, checkpoint=sha256)


def _explain_no_pairs(context: IterationContext) -> str:
    reasons = (
        context.files.read("dropped").group_by(["kind", "reason"]).aggregate([([], "count_all")])
    )
    lines = [
        f"  {row['kind']}: {row['count_all']} prompts, {row['reason']}"
        for row in sorted(reasons.to_pylist(), key=lambda row: -row["count_all"])
    ]
    lines += [
        f"  {row['kind']}: all withheld, {row['reason']}"
        for row in context.files.read("withheld").to_pylist()
    ]
    return "\n".join(
        [
            f"iteration {context.number} gave no preference pair; "
            f"M{context.number} was not trained:",
            *lines,
        ]
    )


def _read_judged_prompts(context: IterationContext, part: int) -> JudgedPrompts:
    return JudgedPrompts.from_records(
        _to_prompts(context.files.read("prompts", part)),
        _read_responses(context, part),
        select_answers(context.files.read_records(Judgment, part), context.recipe.judge.reasoning),
        context.files.read_records(ResponseScore, part),
    )


def _read_responses(context: IterationContext, part: int) -> list[Response]:
    """Return the responses with the text that counts under the recipe's reasoning policy."""
    return select_answers(
        context.files.read_records(Response, part), context.recipe.actor.reasoning
    )


def _to_prompts(table: pa.Table) -> list[Prompt]:
    return to_records(table, Prompt)


def _derive_stage_seed(context: IterationContext, step: str, shard: int = 0) -> int:
    return derive_seed(context.seed, "iteration", context.number, step, shard)


def _count_pairs(pairs: int, dropped: Iterable[Dropped]) -> Counts:
    reasons: Counts = {}
    for drop in dropped:
        reasons[f"dropped_{drop.reason}"] = reasons.get(f"dropped_{drop.reason}", 0) + 1
    return {"pairs": pairs, "dropped": sum(reasons.values()), **dict(sorted(reasons.items()))}


def _iter_log_rows(log: Iterable[dict[str, float]]) -> Iterator[dict[str, object]]:
    """Return one row per metric, because a trainer's metrics differ between steps."""
    for entry in log:
        for metric, value in entry.items():
            if metric not in ("step", "epoch"):
                yield {
                    "step": int(entry["step"]),
                    "epoch": entry["epoch"],
                    "metric": metric,
                    "value": value,
                }
