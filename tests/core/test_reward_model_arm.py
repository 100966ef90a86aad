"""An experiment whose responses are scored by a reward model: raw scores, actor pairs alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from meta_reward_core.context import ModelRef, StageResources
from meta_reward_core.engines.scripted import ScriptedEngine, make_fake_reply
from meta_reward_core.errors import ArtifactError, ModelFolderError
from meta_reward_core.evaluation.probe_gate import read_probe
from meta_reward_core.experiment import Experiment, create_experiment, open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.base_model import explain_absent_reward_model, resolve_reward_model
from meta_reward_core.planning.cost_estimate import plan_iteration
from meta_reward_core.planning.engine_loading import load_reward_model
from meta_reward_core.planning.gpu_estimate import DEVICES, plan_on_hardware
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.summary import summarize_iteration
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots
from tests.core.scripted_world import RECIPE, prompt_file, run_before_training
from tests.core.tiny_model import make_model_folder, make_reward_model_folder

JUDGE = {"samples": 1, "reward_model": "reward"}
ARM = {
    "judge": JUDGE,
    "train_on": [["actor"]],
    "pairing": {"rho": 0.0},
}


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model_folder(tmp_path_factory.mktemp("models") / "reward")


def begin(root: Path, reward_folder: Path) -> Experiment:
    return create_experiment(
        ArtifactStore(str(root)),
        "scored",
        recipe=Recipe.model_validate(RECIPE | ARM),
        seed=1,
        seed_model=ModelRef.from_folder("M0", make_model_folder(root.with_name("m0"))),
        prompts=prompt_file(60),
        reward_model=ModelRef.from_folder("reward model", reward_folder),
    )


def make_resources(scratch: Path) -> StageResources:
    return StageResources(
        load_engine=lambda model, recipe: ScriptedEngine(make_fake_reply),
        load_reward_model=load_reward_model,
        scratch=scratch,
    )


def test_each_response_has_one_raw_score_and_pairs_follow_it(
    tmp_path: Path, reward_folder: Path
) -> None:
    context = begin(tmp_path / "store", reward_folder).build_context(1)
    ran = run_before_training(context, make_resources(tmp_path))
    assert {stage for stage, _ in ran} == {"sample", "generate", "judge", "pair_actor"}
    files = context.files
    judgments = files.read("judgments").to_pylist()
    assert len(judgments) == files.read("responses").num_rows
    assert {row["readout"] for row in judgments} == {"reward_model"}
    assert not all(0 <= row["score"] <= 5 for row in judgments), "raw scores have no scale"
    scores = {row["response_id"]: row["mean"] for row in files.read("scores").to_pylist()}
    assert scores == {row["response_id"]: row["score"] for row in judgments}
    pairs = files.read("actor_pairs").to_pylist()
    assert pairs
    for pair in pairs:
        of_prompt = [row["score"] for row in judgments if row["prompt_id"] == pair["prompt_id"]]
        assert scores[pair["rejected_response_id"]] == min(of_prompt)
    assert read_probe(files) is None
    summary = summarize_iteration(
        files, number=1, recipe=context.recipe, stages=[stage.name for stage in STAGES]
    )
    assert summary["outside_judge"] == "reward"
    assert summary["judge"]["histogram"] == ()
    assert summary["judge"]["mean"] == pytest.approx(sum(scores.values()) / len(scores))


def test_scores_depend_on_the_reward_model_and_not_on_the_trained_one(
    tmp_path: Path, reward_folder: Path
) -> None:
    context = begin(tmp_path / "store", reward_folder).build_context(1)
    run_before_training(context, make_resources(tmp_path))
    judge = next(stage for stage in STAGES if stage.name == "judge")
    key = judge.compute_key(context, 0)
    trained = replace(context, model=replace(context.model, sha256="1" * 64))
    assert judge.compute_key(trained, 0) == key
    other = make_reward_model_folder(tmp_path / "other", seed=5)
    scored = replace(context, reward_model=ModelRef.from_folder("reward model", other))
    assert judge.compute_key(scored, 0) != key


def test_an_experiment_notices_another_reward_model(tmp_path: Path, reward_folder: Path) -> None:
    folder = make_reward_model_folder(tmp_path / "reward")
    begin(tmp_path / "store", folder)
    store = ArtifactStore(str(tmp_path / "store"))
    opened = open_experiment(store, "scored")
    assert opened is not None
    assert opened.reward_model is not None
    assert opened.reward_model.folder == folder
    make_reward_model_folder(folder, seed=7)
    with pytest.raises(ArtifactError, match="the reward model of experiment 'scored' has changed"):
        open_experiment(store, "scored")


def test_only_a_reward_model_below_the_models_root_is_used(
    tmp_path: Path, reward_folder: Path
) -> None:
    roots = StorageRoots(str(tmp_path), reward_folder.parent, tmp_path)
    recipe = Recipe.model_validate(RECIPE | ARM)
    found = resolve_reward_model(recipe, roots, say=print)
    assert found is not None
    assert found.folder == reward_folder
    assert explain_absent_reward_model(recipe, roots) is None
    make_model_folder(tmp_path / "language" / "reward")
    wrong = StorageRoots(str(tmp_path), tmp_path / "language", tmp_path)
    with pytest.raises(ModelFolderError, match="not a sequence classifier"):
        resolve_reward_model(recipe, wrong, say=print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": {"reward_model": "reward"}}, "set judge.samples to 1"),
        ({"train_on": [["actor", "judge"]]}, "set train_on to"),
        ({"judge": JUDGE | {"endpoint": "there"}}, "both replace the judge"),
        ({"judge": JUDGE | {"score_readout": "forced"}}, "writes none"),
    ],
)
def test_values_without_a_meaning_for_a_reward_model_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(RECIPE | ARM | changes)


def test_a_plan_has_one_call_for_each_response_and_no_generated_tokens() -> None:
    recipe = load_recipe("reward-model-llama3-8b")
    judge = next(plan for plan in plan_iteration(recipe, 1) if plan.stage == "judge")
    assert (judge.calls, judge.tokens, judge.seconds) == (5000 * 7, 0, None)
    own = plan_on_hardware(
        load_recipe("self-rewarding-llama3-8b"), 1, device=DEVICES["h100"], devices=8, workers=1
    )
    scored = plan_on_hardware(recipe, 1, device=DEVICES["h100"], devices=8, workers=1)
    hours = [
        next(stage.device_hours for stage in plan.stages if stage.stage == "judge")
        for plan in (own, scored)
    ]
    assert hours[0] > 10 * hours[1] > 0
