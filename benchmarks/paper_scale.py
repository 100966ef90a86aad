"""Write an experiment of the paper's size to load-test pages: no model, no generation.

    python benchmarks/paper_scale.py --prompts 5000 --name paper-scale
    python benchmarks/paper_scale.py --prompts 50 --name paper-scale-100th

Everything except texts and scores is created by the project's own stages: pairs, ratings and drops
follow its rules, and its code writes the files, with manifests. Texts have realistic lengths and
depend on the seed; the same arguments give the same bytes. Database rows are written too (run
`manage.py migrate` first). The iteration ends before training.
"""

import argparse
import os
import random
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

import django

from meta_reward_core.context import ModelRef, StageResources
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.engines.base import Engine, pack_token_ids
from meta_reward_core.experiment import Experiment, create_experiment, load_templates
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.method.judge_pairs import JudgedPrompts, plan_battles
from meta_reward_core.method.pairing import score_responses
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.schema import EngineRecipe, Recipe
from meta_reward_core.recipes.settings_history import SettingsHistory
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.records import Battle, Judgment, Prompt, Response, Verdict
from meta_reward_core.storage.schemas import build_table, to_records
from meta_reward_core.storage.shards import StageOutput

WORDS = """
    the a of to and in is that it for as with on be by this are from or an at which but not have
    answer question because example first second model river history number light energy people
    system water music country language method result value simple careful reason therefore would
    could should between during without against through another important different possible
""".split()  # noqa: SIM905 a list of words reads best as a text
UNREADABLE = 0.03
CUT_OFF = 0.02


@dataclass(frozen=True)
class World:
    """Inputs to write a shard in a separate process."""

    root: str
    name: str
    seed: int
    prompts: int

    def open(self) -> Experiment:
        recipe = Recipe.model_validate(
            {
                "name": "paper-scale",
                "sample": {"prompts": self.prompts},
                "pairing": {"rho": 0.32, "max_chosen_chars": 2500},
                "meta_judge": {"max_chosen_judgment_chars": 1100},
            }
        )
        store = ArtifactStore(self.root)
        model = ModelRef("M0", Path(self.root), "0" * 64)
        if ExperimentFiles(store, self.name).exists():
            return _reopened(self, recipe, model, store)
        return create_experiment(
            store,
            self.name,
            recipe=recipe,
            seed=self.seed,
            seed_model=model,
            prompts=prompt_file(self.prompts, self.seed),
        )


def _reopened(world: World, recipe: Recipe, model: ModelRef, store: ArtifactStore) -> Experiment:
    return Experiment(
        name=world.name,
        uuid=uuid4(),
        recipe=recipe,
        recipe_sha256=recipe.sha256,
        settings=SettingsHistory(world.name, canonicalize_recipe(recipe)),
        templates=load_templates(recipe),
        seed=world.seed,
        seed_model=model,
        seed_folder=world.root,
        store=store,
    )


def prompt_file(count: int, seed: int) -> PromptFile:
    rng = random.Random(seed)
    texts = [f"Task {number}: {text(rng, 40, 500)}?" for number in range(count)]
    return PromptFile(
        prompts=[Prompt(compute_prompt_id(one), one) for one in texts], duplicates=0, rejected=[]
    )


@cache
def phrases() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(8, 16))) for _ in range(4000)]


def text(rng: random.Random, minimum: int, maximum: int) -> str:
    """Generate a sequence of phrases: varied, but compressible."""
    wanted = rng.randint(minimum, maximum)
    made: list[str] = []
    while sum(map(len, made)) + len(made) < wanted:
        made.append(rng.choice(phrases()))
    return ". ".join(made)[:wanted]


def some_token_ids(rng: random.Random, count: int) -> "array[int]":
    """Generate random ids, which compress worse than those of a text."""
    return pack_token_ids(array("H", rng.randbytes(2 * count)))


def write_shard(world: World, stage: str, shard: int) -> None:
    experiment = world.open()
    context = experiment.build_context(1)
    declared = next(one for one in STAGES if one.name == stage)
    if declared.find_finished_shard(context, shard) is not None:
        return
    rng = random.Random(f"{world.seed}/{stage}/{shard}")
    work = _WORK[stage](experiment, shard, rng)
    key = declared.compute_key(context, shard)
    context.files.publish(stage, shard, key=key, work=work, packages=StageResources.list_packages())


def _responses(experiment: Experiment, shard: int, rng: random.Random) -> StageOutput:
    recipe, files = experiment.recipe, experiment.get_files(1)
    rows = [
        Response(
            prompt_id=prompt_id,
            response_id=f"{prompt_id[:24]}.r{sample}",
            sample=sample,
            text=text(rng, 200, 3000),
            tokens=(tokens := rng.randint(50, 700)),
            finish_reason="length" if rng.random() < CUT_OFF else "stop",
            token_ids=some_token_ids(rng, tokens),
        )
        for prompt_id in files.read("prompts", shard)["prompt_id"].to_pylist()
        for sample in range(recipe.actor.samples)
    ]
    return StageOutput(
        {("responses", shard): build_table("responses", rows)}, {"responses": len(rows)}
    )


def _judgments(experiment: Experiment, shard: int, rng: random.Random) -> StageOutput:
    files = experiment.get_files(1)
    responses = files.read_records(Response, shard)
    rows = [
        judgment
        for response in responses
        for judgment in _judgments_of(response, experiment.recipe.judge.samples, rng)
    ]
    scores = score_responses(responses, rows)
    return StageOutput(
        {
            ("judgments", shard): build_table("judgments", rows),
            ("scores", shard): build_table("scores", scores),
        },
        {"judgments": len(rows)},
    )


def _judgments_of(response: Response, samples: int, rng: random.Random) -> Iterator[Judgment]:
    taste = rng.choice([1, 2, 3, 3, 4, 4])
    for sample in range(samples):
        score = min(5, max(0, taste + rng.choice([-1, 0, 0, 0, 1])))
        unreadable = rng.random() < UNREADABLE
        body = text(rng, 300, 1400)
        yield Judgment(
            prompt_id=response.prompt_id,
            response_id=response.response_id,
            judgment_id=f"{response.response_id}.j{sample}",
            sample=sample,
            text=body if unreadable else f"{body}\nScore: {score}",
            score=None if unreadable else float(score),
            unscored_reason="no_score_line" if unreadable else None,
            tokens=len(body) // 4,
            finish_reason="stop",
            readout="free",
            token_ids=some_token_ids(rng, len(body) // 4),
        )


def _battles(experiment: Experiment, shard: int, rng: random.Random) -> StageOutput:
    context, recipe = experiment.build_context(1), experiment.recipe.meta_judge
    files = context.files
    judged = JudgedPrompts.from_records(
        to_records(files.read("prompts", shard), Prompt),
        files.read_records(Response, shard),
        files.read_records(Judgment, shard),
        score_responses(
            files.read_records(Response, shard),
            files.read_records(Judgment, shard),
        ),
    )
    planned = plan_battles(
        judged,
        seed=experiment.seed,
        max_judgments=recipe.max_judgments,
        max_score_gap=recipe.max_score_gap,
    )
    rows = [_battle(one.first, one.second, rng) for one in planned]
    verdicts = [row.verdict for row in rows]
    counts = {
        "battles": len(rows),
        "won_by_first": verdicts.count("A"),
        "won_by_second": verdicts.count("B"),
        "ties": verdicts.count("tie"),
        "unparsed": verdicts.count(None),
    }
    return StageOutput({("battles", shard): build_table("battles", rows)}, counts)


def _battle(first: Judgment, second: Judgment, rng: random.Random) -> Battle:
    better = (first.score or 0) - (second.score or 0) + rng.gauss(0.3, 1.0)
    unreadable = rng.random() < UNREADABLE
    verdict: Verdict | None = None if unreadable else ("A" if better > 0 else "B")
    body = text(rng, 150, 700)
    return Battle(
        prompt_id=first.prompt_id,
        response_id=first.response_id,
        first_judgment_id=first.judgment_id,
        second_judgment_id=second.judgment_id,
        text=body if unreadable else f"{body}\nWinner: Judgement {verdict}",
        verdict=verdict,
        unparsed_reason="no_verdict_line" if unreadable else None,
        tokens=len(body) // 4,
        finish_reason="stop",
        readout="free",
    )


_WORK = {"generate": _responses, "judge": _judgments, "meta_judge": _battles}


def write(world: World, processes: int) -> Experiment:
    """Write one stage after another, the parts of a stage in parallel."""
    experiment = world.open()
    with ProcessPoolExecutor(processes) as pool:
        for stage in STAGES[: [stage.name for stage in STAGES].index("train")]:
            began = time.perf_counter()
            _write_stage(world, stage, pool)
            print(f"{stage.name:12} {time.perf_counter() - began:7.1f} s", flush=True)
    return experiment


def _write_stage(world: World, stage: Stage, pool: ProcessPoolExecutor) -> None:
    context = world.open().build_context(1)
    shards = range(stage.plan_shards(context))
    if stage.name in _WORK:
        list(pool.map(write_shard, *zip(*((world, stage.name, n) for n in shards), strict=True)))
        return
    resources = StageResources(load_engine=_no_engine, scratch=Path(world.root))
    for shard in shards:
        if stage.find_finished_shard(context, shard) is None:
            stage.run_shard(context, shard, resources)


def _no_engine(model: ModelRef, recipe: EngineRecipe) -> Engine:  # noqa: ARG001
    raise AssertionError("no stage before training needs an engine here")


def write_rows(experiment: Experiment, root: str) -> None:
    from webapp.experiments.models import Experiment as Row
    from webapp.experiments.models import Iteration

    row, _ = Row.objects.get_or_create(
        name=experiment.name,
        defaults={
            "recipe": canonicalize_recipe(experiment.recipe),
            "recipe_sha256": experiment.recipe.sha256,
            "seed": experiment.seed,
            "base_model_folder": root,
            "base_model_sha256": experiment.seed_model.sha256,
            "artifact_root": root,
        },
    )
    Iteration.objects.get_or_create(experiment=row, number=1, defaults={"model_in": "0" * 64})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--name", default="paper-scale")
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    from django.conf import settings

    root = str(settings.META_REWARD_ARTIFACT_ROOT)
    world = World(root, options.name, options.seed, options.prompts)
    experiment = write(world, options.processes)
    write_rows(experiment, root)
    files = experiment.get_files(1)
    for table in ("prompts", "responses", "judgments", "battles", "actor_pairs", "judge_pairs"):
        parts = files.list_partitions(table)
        rows, size = sum(part.rows for part in parts), sum(part.bytes for part in parts)
        print(f"{table:12} {rows:9,} rows {size / 2**20:9.1f} MiB")


if __name__ == "__main__":
    main()
