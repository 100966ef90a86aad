r"""The paper's algorithm on one page: the ordered stages of one iteration.

    prompts -> responses -> judgments, scores -> actor pairs
                              \-> battles -> ratings -> judge pairs
    actor pairs + judge pairs -> M_t -> evaluation

Every way to run an iteration (the command line, the in-process command, workers) drives this
declaration; none of them knows an order of its own. A shard is a pure function of its inputs, the
seed, and what its stage needs of recipe and model (`dataflow`), so whoever runs it gets the same
bytes.

Source: Wu et al. 2024, section 2 and algorithm 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from meta_reward_core import stages
from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.evaluation.circuit_breaker import check_shard, require_stage_healthy
from meta_reward_core.planning.model_check.gate import require_model_checked, require_savable
from meta_reward_core.recipes import dataflow
from meta_reward_core.recipes.dataflow import Resource, StageSpec
from meta_reward_core.storage.shards import ShardManifest, StageOutput, compute_shard_key
from meta_reward_core.tasks.evaluate_stage import run_evaluate

__all__ = ["STAGES", "Resource", "Stage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(StageSpec):
    """One step of the paper, split into shards; `StageSpec` says what it reads and writes.

    Attributes:
        run: makes the tables of one shard.
        hash_earlier: hashes what the step reads of other iterations; None where that is nothing.
    """

    run: Callable[[IterationContext, int, StageResources], StageOutput]
    hash_earlier: Callable[[IterationContext], str | None]

    @classmethod
    def from_spec(
        cls,
        spec: StageSpec,
        run: Callable[[IterationContext, int, StageResources], StageOutput],
        *,
        hash_earlier: Callable[[IterationContext], str | None] = lambda _: None,
    ) -> "Stage":
        """Give a declared stage its functions."""
        declared: dict[str, Any] = {one.name: getattr(spec, one.name) for one in fields(spec)}
        return cls(**declared, run=run, hash_earlier=hash_earlier)

    def is_scheduled_in(self, context: IterationContext) -> bool:
        """Say whether this iteration has the stage at all."""
        return self.is_scheduled(context.recipe, context.number)

    def plan_shards(self, context: IterationContext) -> int:
        """Say into how many shards the step falls, once the steps before it are finished."""
        return len(context.files.list_partition_numbers("prompts")) if self.part_by_part else 1

    def compute_key(self, context: IterationContext, shard: int) -> str:
        """Hash everything that the shard is made from."""
        return self._compute_key(context, shard, context.get_model_hash(self))

    def _compute_key(self, context: IterationContext, shard: int, model: str | None) -> str:
        return compute_shard_key(
            stage=self.name,
            shard=shard,
            settings=context.select_values(self),
            seed=context.seed,
            iteration=context.number,
            model=model,
            inputs=self._hash_inputs(context, shard, self.reads),
            earlier=self.hash_earlier(context),
        )

    def can_accept(self, context: IterationContext, manifest: ShardManifest) -> bool:
        """Say whether a manifest was made from what the shard is made from now."""
        return any(manifest.key == key for key in self._iter_keys(context, manifest.shard))

    def _iter_keys(self, context: IterationContext, shard: int) -> Iterator[str]:
        """Yield the keys that say the same, the one that is written today first."""
        yield self.compute_key(context, shard)
        for model in context.list_earlier_model_hashes(self):
            yield self._compute_key(context, shard, model)
        if context.can_have_earlier_keys(self):
            yield self._compute_earlier_key(context, shard)

    def _compute_earlier_key(self, context: IterationContext, shard: int) -> str:
        """The key as versions before keys by need computed it: of the whole recipe and model."""
        began = context.began
        return compute_shard_key(
            stage=self.name,
            shard=shard,
            recipe=began.recipe_sha256,
            templates=began.templates.sha256,
            seed=context.seed,
            iteration=context.number,
            model=None if self.resource == "cpu" else context.model.sha256,
            inputs=self._hash_inputs(context, shard, self.earlier_reads or self.reads),
            earlier=stages.hash_earlier_inputs(context) if not self.reads else None,
        )

    def _hash_inputs(self, context: IterationContext, shard: int, tables: tuple[str, ...]) -> str:
        return context.files.hash_inputs(tables, shard if self.part_by_part else None)

    def find_finished_shard(self, context: IterationContext, shard: int) -> ShardManifest | None:
        """Return the shard's manifest if it is done, undamaged and still made from these inputs."""
        manifest = context.files.find_manifest(self.name, shard)
        if manifest is None or not self.can_accept(context, manifest):
            return None
        return context.files.find_finished(self.name, shard, manifest.key)

    def _is_made(self, context: IterationContext, shard: int) -> bool:
        """Whether a shard is finished and still made from these inputs, its bytes unread."""
        manifest = context.files.find_manifest(self.name, shard)
        return manifest is not None and self.can_accept(context, manifest)

    def require_healthy(self, context: IterationContext) -> None:
        """Keep shards from beginning after a finished one has shown a fault.

        Raises:
            NeedsAttentionError: one has, and nobody has accepted it.
        """
        require_stage_healthy(context, self.name)

    def run_shard(
        self, context: IterationContext, shard: int, resources: StageResources
    ) -> ShardManifest:
        """Make the shard anew and publish it, whatever an earlier attempt has left.

        A shard that shows a fault is published like any other; `require_healthy` then raises.

        Raises:
            NeedsAttentionError: the step draws or trains, and the model cannot be used.
        """
        if self.resource != "cpu":
            require_model_checked(context)
        if self.resource == "trainer":
            require_savable(context)
        key = self.compute_key(context, shard)
        context.files.discard(self.name, shard, self.list_outputs(shard))
        work = self.run(context, shard, resources)
        check_shard(
            context,
            self,
            shard,
            work,
            key=key,
            is_finished=lambda other: self._is_made(context, other),
        )
        return context.files.publish(
            self.name, shard, key=key, work=work, packages=resources.list_packages()
        )


STAGES: tuple[Stage, ...] = (
    Stage.from_spec(dataflow.SAMPLE, stages.run_sample, hash_earlier=stages.hash_earlier_inputs),
    Stage.from_spec(dataflow.GENERATE, stages.run_generate),
    Stage.from_spec(dataflow.JUDGE, stages.run_judge),
    Stage.from_spec(dataflow.PAIR_ACTOR, stages.run_pair_actor),
    Stage.from_spec(dataflow.META_JUDGE, stages.run_meta_judge),
    Stage.from_spec(dataflow.PAIR_JUDGE, stages.run_pair_judge),
    Stage.from_spec(dataflow.TRAIN, stages.run_train, hash_earlier=stages.hash_earlier_judgments),
    Stage.from_spec(dataflow.EVALUATE, run_evaluate),
)
