"""Between files and method: each function reads a shard's tables, takes one step, makes tables."""

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.actor_pairs import pair_responses
from meta_reward_core.artifacts import digest_of, explain_full_disk
from meta_reward_core.battles import PositionWeights, weights_from_counts
from meta_reward_core.config import SamplingRecipe, at_iteration
from meta_reward_core.context import IterationContext, Model, Tools
from meta_reward_core.engines.base import Sampling
from meta_reward_core.errors import NoPairsError
from meta_reward_core.evaluation.own_data import as_measurements, measure_iteration
from meta_reward_core.evaluation.records import Measurement
from meta_reward_core.generation import generate_responses
from meta_reward_core.judge_pairs import JudgedPrompts, cap_pairs, pair_judgments, plan_battles
from meta_reward_core.judging import judge_responses
from meta_reward_core.meta_judging import fight_battles
from meta_reward_core.miniature.evaluation import measure_model
from meta_reward_core.model_folder import hash_model_folder
from meta_reward_core.pairing import score_responses
from meta_reward_core.records import (
    Battle,
    Dropped,
    Judgment,
    Prompt,
    Response,
    ResponseScore,
)
from meta_reward_core.sampling import sample_prompts
from meta_reward_core.seeds import derive_seed
from meta_reward_core.shards import Counts, IterationFiles, Work, part_path
from meta_reward_core.tables import records_of, table_of
from meta_reward_core.training_data import PAIR_KINDS, training_rows

# `dropped` has two writers; each has a part of its own.
_ACTOR_PART, _JUDGE_PART = 0, 1


def sample(context: IterationContext, shard: int, tools: Tools) -> Work:  # noqa: ARG001
    """Draw instructions and cut them into the parts that every later step works on."""
    pool = context.pool.read("prompts")
    used = {
        prompt_id
        for files in context.earlier
        for prompt_id in files.read("prompts")["prompt_id"].to_pylist()
    }
    drawn = sample_prompts(
        _prompts(pool),
        used=used,
        count=context.recipe.sample.prompts,
        allow_reuse=context.recipe.sample.allow_reuse,
        seed=_seed(context, "sample"),
    )
    rows = {row["prompt_id"]: row for row in pool.to_pylist()}
    size = context.recipe.shard_prompts
    tables = {
        ("prompts", start // size): table_of(
            "prompts", [rows[prompt.prompt_id] for prompt in drawn[start : start + size]]
        )
        for start in range(0, len(drawn), size)
    }
    return Work(tables, {"pool": pool.num_rows, "used_before": len(used), "prompts": len(drawn)})


def earlier_inputs(context: IterationContext) -> str:
    """Hash what `sample` reads: the pool, and the instructions of the iterations before."""
    read = [files.inputs_digest(["prompts"]) for files in (context.pool, *context.earlier)]
    return digest_of(read)


def generate(context: IterationContext, shard: int, tools: Tools) -> Work:
    """Let the actor answer one part of the instructions."""
    actor = context.recipe.actor
    responses, counts = generate_responses(
        _prompts(context.files.read("prompts", shard)),
        tools.engine(context.model, context.recipe.engine),
        samples=actor.samples,
        sampling=_sampling(actor),
        system_prompt=actor.system_prompt,
        seed=_seed(context, "generate", shard),
        progress=tools.progress,
    )
    return Work({("responses", shard): table_of("responses", responses)}, counts)


def judge(context: IterationContext, shard: int, tools: Tools) -> Work:
    """Let the judge score one part of the responses."""
    recipe = context.recipe.judge
    responses = context.files.read_records(Response, shard)
    judgments, counts = judge_responses(
        responses,
        tools.judge_engine(context.model, context.recipe),
        instructions={
            prompt.prompt_id: prompt.text
            for prompt in _prompts(context.files.read("prompts", shard))
        },
        template=context.templates.judge,
        rubric=context.templates.rubric,
        samples=recipe.samples,
        sampling=_sampling(recipe),
        seed=_seed(context, "judge", shard),
        top_points=recipe.top_points,
        hopeless_at=recipe.hopeless_at,
        rho=at_iteration(context.recipe.pairing.rho, context.number),
        min_valid_judgments=recipe.min_valid_judgments,
        progress=tools.progress,
    )
    scores = score_responses(responses, judgments, min_valid_judgments=recipe.min_valid_judgments)
    counts["unscored_responses"] = sum(score.mean is None for score in scores)
    tables = {
        ("judgments", shard): table_of("judgments", judgments),
        ("scores", shard): table_of("scores", scores),
    }
    return Work(tables, counts)


def pair_actor(context: IterationContext, shard: int, tools: Tools) -> Work:  # noqa: ARG001
    """Choose the best against the worst response of every instruction."""
    recipe = context.recipe.pairing
    pairs: list[dict[str, object]] = []
    dropped: list[Dropped] = []
    for part in context.files.part_numbers("prompts"):
        made, missed = pair_responses(
            _prompts(context.files.read("prompts", part)),
            context.files.read_records(Response, part),
            context.files.read_records(ResponseScore, part),
            iteration=context.number,
            rho=at_iteration(recipe.rho, context.number),
            max_chosen_chars=at_iteration(recipe.max_chosen_chars, context.number),
            length_unit=recipe.length_unit,
            system_prompt=context.recipe.actor.system_prompt,
        )
        pairs += made
        dropped += missed
    tables = {
        ("actor_pairs", 0): table_of("actor_pairs", pairs),
        ("dropped", _ACTOR_PART): table_of("dropped", dropped),
    }
    return Work(tables, _count_pairs(len(pairs), dropped))


def meta_judge(context: IterationContext, shard: int, tools: Tools) -> Work:
    """Let the meta-judge compare the judgments of one part."""
    recipe = context.recipe.meta_judge
    planned = plan_battles(
        _judged(context, shard),
        seed=context.seed,
        max_judgments=recipe.max_judgments,
        max_score_gap=recipe.max_score_gap,
    )
    battles, counts = fight_battles(
        planned,
        tools.engine(context.model, context.recipe.engine),
        template=context.templates.meta_judge,
        rubric=context.templates.rubric,
        hide_score_line=recipe.hide_score_line,
        sampling=_sampling(recipe),
        seed=_seed(context, "meta_judge", shard),
        decided_at=recipe.decided_at,
        progress=tools.progress,
    )
    return Work({("battles", shard): table_of("battles", battles)}, counts)


def pair_judge(context: IterationContext, shard: int, tools: Tools) -> Work:  # noqa: ARG001
    """Rate the judgments and choose the best against the worst one of every instruction."""
    recipe = context.recipe.meta_judge
    weights = _weights(context.files)
    pairs: list[dict[str, object]] = []
    ratings: list[object] = []
    dropped: list[Dropped] = []
    for part in context.files.part_numbers("prompts"):
        made, rated, missed = pair_judgments(
            _judged(context, part),
            context.files.read_records(Battle, part),
            weights=weights,
            iteration=context.number,
            template=context.templates.judge,
            rubric=context.templates.rubric,
            elo_prior=recipe.elo_prior,
            max_chosen_judgment_chars=at_iteration(
                recipe.max_chosen_judgment_chars, context.number
            ),
            max_judgments=recipe.max_judgments,
            seed=context.seed,
        )
        pairs += made
        ratings += rated
        dropped += missed
    if recipe.max_pair_share is not None:
        pairs, over = cap_pairs(
            pairs,
            actor_pairs=context.files.read("actor_pairs").num_rows,
            max_share=recipe.max_pair_share,
            seed=context.seed,
        )
        dropped += over
    tables = {
        ("ratings", 0): table_of("ratings", ratings),
        ("judge_pairs", 0): table_of("judge_pairs", pairs),
        ("dropped", _JUDGE_PART): table_of("dropped", dropped),
    }
    return Work(tables, _count_pairs(len(pairs), dropped))


def _weights(files: IterationFiles) -> PositionWeights:
    """Weigh the two positions by all battles."""
    counted: Counter[str | None] = Counter()
    for part in files.part_numbers("battles"):
        verdicts = files.read("battles", part, columns=["verdict"])["verdict"]
        for entry in pc.value_counts(verdicts).to_pylist():
            counted[entry["values"]] += entry["counts"]
    return weights_from_counts(
        wins_first=counted["A"],
        wins_second=counted["B"],
        ties=counted["tie"],
        unparsed=counted[None],
    )


def train(context: IterationContext, shard: int, tools: Tools) -> Work:  # noqa: ARG001
    """Train M_t by DPO on the scheduled pairs; start and reference are M_{t-1}.

    An audit may have withheld a kind of them, or added pairs of people's (`training_data`).

    Raises:
        NoPairsError: no pair of any scheduled kind survived.
    """
    rows = training_rows(context)
    if not rows:
        raise NoPairsError(_why_no_pairs(context))
    from meta_reward_core.training.dpo import train_dpo  # only a training pays for TRL's import

    tools.release_engine()
    made = context.files.checkpoint
    with explain_full_disk(tools.scratch), made.written(tools.scratch) as folder:
        outcome = train_dpo(
            rows,
            start=context.model.folder,
            settings=context.recipe.training,
            checkpoint=folder,
            scratch=tools.scratch / "training",
            seed=_seed(context, "train") % 2**31,
            threads=context.recipe.engine.threads,
            on_log=tools.on_log,
        )
        sha256 = hash_model_folder(folder)
    tables = {
        ("training_log", 0): table_of("training_log", _long(outcome.log)),
        ("refused", 0): table_of(
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
        **rows.counts,
    }
    return Work(tables, counts, checkpoint=sha256)


def evaluate(context: IterationContext, shard: int, tools: Tools) -> Work:  # noqa: ARG001
    """Measure the iteration's data and, where the truth is known, the model that came out."""
    kinds = [kind for kind in PAIR_KINDS if context.recipe.trains_on(kind, context.number)]
    measured = measure_iteration(context.files, kinds=kinds)
    rows = as_measurements(measured, model=context.model.name)
    rows += [row for model in _models_to_measure(context) for row in _truth(context, model, tools)]
    return Work({("evaluation", 0): table_of("evaluation", rows)}, {"measurements": len(rows)})


def _models_to_measure(context: IterationContext) -> Iterator[Model]:
    """Yield M_t; before the first iteration's M_1 also M_0, to compare with."""
    if context.number == 1:
        yield context.model
    base = context.model if context.recipe.training.keeps_adapter else None
    made = context.files
    sha256 = made.promised_checkpoint() or ""
    yield Model(f"M{context.number}", made.checkpoint, sha256, base)


def _truth(context: IterationContext, model: Model, tools: Tools) -> list[Measurement]:
    recipe = context.recipe
    if recipe.evaluation.oracle is None:
        return []
    return measure_model(
        tools.engine(model, recipe.engine),
        model.name,
        prompts=recipe.evaluation.prompts,
        judge_items=recipe.evaluation.judge_items,
        judgments=recipe.evaluation.judgments,
        comparisons=recipe.evaluation.comparisons,
        actor=_sampling(recipe.actor),
        judge=_sampling(recipe.judge),
        meta_judge=_sampling(recipe.meta_judge),
        judge_template=context.templates.judge,
        meta_judge_template=context.templates.meta_judge,
        seed=context.seed,
    )


def leftovers(stage: str, shard: int) -> list[str]:
    """Name what an attempt that was killed may have left of a shard, without a manifest."""
    tables: dict[str, list[tuple[str, int]]] = {
        "generate": [("responses", shard)],
        "judge": [("judgments", shard), ("scores", shard)],
        "pair_actor": [("actor_pairs", 0), ("dropped", _ACTOR_PART)],
        "meta_judge": [("battles", shard)],
        "pair_judge": [("ratings", 0), ("judge_pairs", 0), ("dropped", _JUDGE_PART)],
        "train": [("training_log", 0), ("refused", 0)],
        "evaluate": [("evaluation", 0)],
    }
    whole = {"sample": ["prompts"], "train": ["checkpoint"]}
    return [part_path(*part) for part in tables.get(stage, [])] + whole.get(stage, [])


def _why_no_pairs(context: IterationContext) -> str:
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
            f"iteration {context.number} gave no preference pair; M{context.number} is not made:",
            *lines,
        ]
    )


def _judged(context: IterationContext, part: int) -> JudgedPrompts:
    return JudgedPrompts.of(
        _prompts(context.files.read("prompts", part)),
        context.files.read_records(Response, part),
        context.files.read_records(Judgment, part),
        context.files.read_records(ResponseScore, part),
    )


def _prompts(table: pa.Table) -> list[Prompt]:
    return records_of(table, Prompt)


def _sampling(recipe: SamplingRecipe) -> Sampling:
    return Sampling(recipe.temperature, recipe.top_p, recipe.max_new_tokens)


def _seed(context: IterationContext, step: str, shard: int = 0) -> int:
    return derive_seed(context.seed, "iteration", context.number, step, shard)


def _count_pairs(pairs: int, dropped: Iterable[Dropped]) -> Counts:
    reasons: Counts = {}
    for drop in dropped:
        reasons[f"dropped_{drop.reason}"] = reasons.get(f"dropped_{drop.reason}", 0) + 1
    return {"pairs": pairs, "dropped": sum(reasons.values()), **dict(sorted(reasons.items()))}


def _long(log: Iterable[dict[str, float]]) -> Iterator[dict[str, object]]:
    """One row a figure: what a trainer reports differs between its steps."""
    for entry in log:
        for metric, figure in entry.items():
            if metric not in ("step", "epoch"):
                yield {
                    "step": int(entry["step"]),
                    "epoch": entry["epoch"],
                    "metric": metric,
                    "value": figure,
                }
