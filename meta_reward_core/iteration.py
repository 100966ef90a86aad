r"""The paper's algorithm on one page: the ordered stages of one iteration.

    prompts -> responses -> judgments, scores -> actor pairs
                              \-> battles -> ratings -> judge pairs
    actor pairs + judge pairs -> M_t -> evaluation

Every way to run an iteration (the command line, the in-process command, workers) drives this
declaration; none of them knows an order of its own. A shard is a pure function of the recipe,
the model, its inputs and the seed, so whoever runs it gets the same bytes.

Source: Wu et al. 2024, section 2 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from meta_reward_core import evaluate_stage, stages
from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.storage.layout import CHECKPOINT, get_partition_path, get_table_path
from meta_reward_core.storage.schemas import (
    get_own_part,
    is_shared_table,
    list_written_tables,
)
from meta_reward_core.storage.shards import ShardManifest, StageOutput, compute_shard_key
from meta_reward_core.training.dataset import AUDIT_TABLES

Resource = Literal["cpu", "engine", "trainer"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the paper, split into shards.

    Attributes:
        reads: tables of this iteration that the step reads.
        writes: tables that it makes, and `CHECKPOINT` if it makes a model.
        part_by_part: shard k reads only part k of its tables; otherwise one shard reads all.
        resource: what a shard needs: nothing, a model that generates, or a training.
        run: makes the tables of one shard.
        scheduled: whether this iteration has the step at all.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    part_by_part: bool
    resource: Resource
    run: Callable[[IterationContext, int, StageResources], StageOutput]
    scheduled: Callable[[IterationContext], bool] = lambda context: True  # noqa: ARG005

    def __post_init__(self) -> None:
        """See that readers of a table will look for it in this stage's manifests."""
        tables = {name for name in self.writes if name != CHECKPOINT}
        if tables != set(list_written_tables(self.name)):
            raise ValueError(
                f"stage {self.name!r} writes {sorted(tables)}, but storage.schemas.WRITERS says "
                f"{sorted(list_written_tables(self.name))}: change both"
            )

    def list_outputs(self, shard: int) -> list[str]:
        """Name all that a shard may write but its manifest, relative to the iteration's folder.

        Parts of tables; a whole table or checkpoint where the only shard of the stage makes it.
        """
        return [self._get_output(name, shard) for name in self.writes]

    def _get_output(self, name: str, shard: int) -> str:
        if name == CHECKPOINT:
            return CHECKPOINT
        if self.part_by_part:
            return get_partition_path(name, shard)
        if is_shared_table(name):
            return get_partition_path(name, get_own_part(name, self.name))
        return get_table_path(name)

    def plan_shards(self, context: IterationContext) -> int:
        """Say into how many shards the step falls, once the steps before it are finished."""
        return len(context.files.list_partition_numbers("prompts")) if self.part_by_part else 1

    def key(self, context: IterationContext, shard: int) -> str:
        """Hash everything that the shard is made from."""
        part = shard if self.part_by_part else None
        return compute_shard_key(
            stage=self.name,
            shard=shard,
            recipe=context.recipe_sha256,
            templates=context.templates.sha256,
            seed=context.seed,
            iteration=context.number,
            model=None if self.resource == "cpu" else context.model.sha256,
            inputs=context.files.hash_inputs(self.reads, part),
            earlier=stages.hash_earlier_inputs(context) if not self.reads else None,
        )

    def find_finished_shard(self, context: IterationContext, shard: int) -> ShardManifest | None:
        """Return the shard's manifest if it is done, undamaged and still made from these inputs."""
        return context.files.finished(self.name, shard, self.key(context, shard))

    def run_shard(
        self, context: IterationContext, shard: int, tools: StageResources
    ) -> ShardManifest:
        """Make the shard anew and publish it, whatever an earlier attempt has left."""
        key = self.key(context, shard)
        context.files.discard(self.name, shard, self.list_outputs(shard))
        work = self.run(context, shard, tools)
        return context.files.publish(
            self.name, shard, key=key, work=work, packages=tools.packages()
        )


def _has_judge_pairs(context: IterationContext) -> bool:
    return context.recipe.trains_on("judge", context.number)


def _has_actor_pairs(context: IterationContext) -> bool:
    return context.recipe.trains_on("actor", context.number)


STAGES: tuple[Stage, ...] = (
    Stage(
        "sample",
        "Draw this iteration's instructions",
        reads=(),
        writes=("prompts",),
        part_by_part=False,
        resource="cpu",
        run=stages.run_sample,
    ),
    Stage(
        "generate",
        "The actor answers each instruction K times",
        reads=("prompts",),
        writes=("responses",),
        part_by_part=True,
        resource="engine",
        run=stages.run_generate,
    ),
    Stage(
        "judge",
        "The judge scores each response N times",
        reads=("prompts", "responses"),
        writes=("judgments", "scores"),
        part_by_part=True,
        resource="engine",
        run=stages.run_judge,
    ),
    Stage(
        "pair_actor",
        "Best against worst response, length-controlled",
        reads=("prompts", "responses", "scores"),
        writes=("actor_pairs", "dropped"),
        part_by_part=False,
        resource="cpu",
        run=stages.run_pair_actor,
        scheduled=_has_actor_pairs,
    ),
    Stage(
        "meta_judge",
        "The meta-judge compares judgments, in both orders",
        reads=("prompts", "responses", "judgments", "scores"),
        writes=("battles",),
        part_by_part=True,
        resource="engine",
        run=stages.run_meta_judge,
        scheduled=_has_judge_pairs,
    ),
    Stage(
        "pair_judge",
        "Elo, then best against worst judgment",
        reads=("prompts", "responses", "judgments", "scores", "battles", "actor_pairs"),
        writes=("ratings", "judge_pairs", "dropped"),
        part_by_part=False,
        resource="cpu",
        run=stages.run_pair_judge,
        scheduled=_has_judge_pairs,
    ),
    Stage(
        "train",
        "DPO, from and against the model before",
        reads=("actor_pairs", "judge_pairs", *AUDIT_TABLES),
        writes=("training_log", "refused", CHECKPOINT),
        part_by_part=False,
        resource="trainer",
        run=stages.run_train,
    ),
    Stage(
        "evaluate",
        "Measure what came of it",
        reads=("scores", "judgments", "battles", "actor_pairs", "judge_pairs", "training_log"),
        writes=("evaluation", "task_scorecards", "task_items"),
        part_by_part=False,
        resource="engine",
        run=evaluate_stage.run_evaluate,
    ),
)
