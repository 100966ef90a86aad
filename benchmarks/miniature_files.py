"""Output of the toy base model in some stages of one iteration, for benchmarks."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.engine_loading import make_stage_resources
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.storage.shards import IterationFiles


@contextmanager
def miniature_files(
    prompts: int, *, stages: Collection[str], seed: int
) -> Iterator[IterationFiles]:
    """Run stages of the recipe `miniature` without a limit on battles."""
    changes = (f"sample.prompts={prompts}", "meta_judge.max_judgments=null")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        roots = StorageRoots(artifacts=str(root / "a"), models=root / "m", scratch=root / "s")
        request = ExperimentRequest("measured", recipe="miniature", changes=changes, seed=seed)
        experiment = open_or_create(request, roots, say=lambda _: None)
        context = experiment.build_context(1)
        resources = make_stage_resources(experiment, roots, number=1)
        for stage in STAGES:
            if stage.name in stages:
                for shard in range(stage.plan_shards(context)):
                    stage.run_shard(context, shard, resources)
        resources.release_engine()
        yield context.files
