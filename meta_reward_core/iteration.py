r"""The paper's algorithm on one page: the ordered stages of one iteration.

    prompts -> responses -> judgments, scores -> actor pairs
                              \-> battles -> ratings -> judge pairs
    actor pairs + judge pairs -> M_t -> evaluation

Every way to run an iteration (the command line, the in-process command, workers) uses this
declaration; none of them defines its own order. A shard is a pure function of its inputs, the
seed, and the parts of recipe and model that its stage needs (`dataflow`), so every process that
runs it gets the same bytes.

Source: Wu et al. 2024, section 2 and algorithm 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from meta_reward_core import stages
from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.evaluation.circuit_breaker import check_shard, require_stage_healthy
from meta_reward_core.planning.model_check.gate import require_model_checked, require_savable
from meta_reward_core.recipes import dataflow
from meta_reward_core.recipes.dataflow import Resource, StageSpec
from meta_reward_core.storage.shards import ShardManifest, StageOutput, compute_shard_key
from meta_reward_core.tasks.evaluate_stage import run_evaluate
from meta_reward_core.tasks.select_checkpoint import make_checkpoint_scorer

__all__ = ["STAGES", "Resource", "Stage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(StageSpec):
    """One step of the paper, split into shards; `StageSpec` defines its inputs and outputs.

    Attributes:
        run: computes the tables of one shard.
        hash_earlier: hashes the stage's inputs from other iterations; returns None if it has none.
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
        """Add the functions to a declared stage."""
        declared: dict[str, Any] = {one.name: getattr(spec, one.name) for one in fields(spec)}
        return cls(**declared, run=run, hash_earlier=hash_earlier)

    def is_scheduled_in(self, context: IterationContext) -> bool:
        """Return whether this iteration includes the stage."""
        return self.is_scheduled(context.recipe, context.number)

    def plan_shards(self, context: IterationContext) -> int:
        """Return the stage's number of shards, once the stages before it are finished."""
        return len(context.files.list_partition_numbers("prompts")) if self.by_shard else 1

    def compute_key(self, context: IterationContext, shard: int) -> str:
        """Hash all inputs of the shard."""
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
        """Return whether a manifest was made from the shard's current inputs."""
        return any(manifest.key == key for key in self._iter_keys(context, manifest.shard))

    def _iter_keys(self, context: IterationContext, shard: int) -> Iterator[str]:
        """Yield all equivalent keys, starting with the key of the current version."""
        yield self.compute_key(context, shard)
        for model in context.list_earlier_model_hashes(self):
            yield self._compute_key(context, shard, model)
        if context.can_have_earlier_keys(self):
            yield self._compute_earlier_key(context, shard)

    def _compute_earlier_key(self, context: IterationContext, shard: int) -> str:
        """Compute the key as earlier versions did, from the whole recipe and model."""
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
        return context.files.hash_inputs(tables, shard if self.by_shard else None)

    def find_finished_shard(self, context: IterationContext, shard: int) -> ShardManifest | None:
        """Return the shard's manifest if it is finished, undamaged and up to date."""
        manifest = context.files.find_manifest(self.name, shard)
        if manifest is None or not self.can_accept(context, manifest):
            return None
        return context.files.find_finished(self.name, shard, manifest.key)

    def _is_made(self, context: IterationContext, shard: int) -> bool:
        """Return whether a shard is finished and up to date, without reading it."""
        manifest = context.files.find_manifest(self.name, shard)
        return manifest is not None and self.can_accept(context, manifest)

    def _is_made_by_now(self, context: IterationContext, shard: int) -> bool:
        """Return `_is_made`, read from the store regardless of cached manifests."""
        manifest = context.files.read_new_manifest(self.name, shard)
        return manifest is not None and self.can_accept(context, manifest)

    def require_healthy(self, context: IterationContext) -> None:
        """Prevent shards from starting after a finished shard has shown a fault.

        Raises:
            NeedsAttentionError: a shard shows a fault that no user has accepted.
        """
        require_stage_healthy(context, self.name)

    def run_shard(
        self, context: IterationContext, shard: int, resources: StageResources
    ) -> ShardManifest:
        """Run the shard and publish it, regardless of files left by an earlier attempt.

        A shard that shows a fault is published like any other; `require_healthy` then raises.

        Raises:
            NeedsAttentionError: the stage generates or trains, and the model cannot be used.
        """
        if self.resource != "cpu":
            require_model_checked(context)
        if self.resource == "trainer":
            require_savable(context)
        key = self.compute_key(context, shard)
        context.files.discard(self.name, shard, self.list_outputs(shard))
        work = self.run(context, shard, resources)
        is_measured = check_shard(
            context,
            self,
            shard,
            work,
            key=key,
            is_finished=lambda other: self._is_made(context, other),
        )
        manifest = context.files.publish(
            self.name, shard, key=key, work=work, packages=resources.list_packages()
        )
        if not is_measured:  # now with the shards that other workers have published
            check_shard(
                context,
                self,
                shard,
                work,
                key=key,
                is_finished=lambda other: self._is_made_by_now(context, other),
            )
        return manifest


STAGES: tuple[Stage, ...] = (
    Stage.from_spec(dataflow.SAMPLE, stages.run_sample, hash_earlier=stages.hash_earlier_inputs),
    Stage.from_spec(dataflow.GENERATE, stages.run_generate),
    Stage.from_spec(dataflow.JUDGE, stages.run_judge),
    Stage.from_spec(dataflow.PAIR_ACTOR, stages.run_pair_actor),
    Stage.from_spec(dataflow.META_JUDGE, stages.run_meta_judge),
    Stage.from_spec(dataflow.PAIR_JUDGE, stages.run_pair_judge),
    Stage.from_spec(
        dataflow.TRAIN,
        partial(stages.run_train, make_scorer=make_checkpoint_scorer),
        hash_earlier=stages.hash_earlier_judgments,
    ),
    Stage.from_spec(dataflow.EVALUATE, run_evaluate),
)
