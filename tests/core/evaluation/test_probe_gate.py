"""An iteration begins only after its judge has been tried, or somebody has accepted the risk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, ScriptedEngine, make_fake_reply
from meta_reward_core.errors import NeedsAttentionError
from meta_reward_core.evaluation.probe_gate import accept_probe, read_probe, require_judge_probed
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.recipes.schema import ProbeRecipe
from meta_reward_core.storage.artifact_store import hash_bytes
from tests.core.scripted_world import begin, make_scripted_resources, run_before_training


def unreadable_judge(conversation: Conversation, sample: int, seed: int) -> Reply:
    text = make_fake_reply(conversation, sample, seed)
    return "It is a nice answer." if "Score:" in text else text


def start(root: Path, **changes: Any) -> Experiment:
    """An experiment whose prompts are drawn."""
    experiment = begin(root, **changes)
    STAGES[0].run_shard(experiment.build_context(1), 0, make_scripted_resources(root))
    return experiment


def test_a_judge_that_cannot_judge_stops_the_first_stage(tmp_path: Path) -> None:
    experiment = start(tmp_path)
    with pytest.raises(NeedsAttentionError) as stopped:
        run_before_training(
            experiment.build_context(1), make_scripted_resources(tmp_path, unreadable_judge)
        )
    assert "the model does not know the reply format" in str(stopped.value)
    assert "continue unchanged with --accept-probe" in str(stopped.value)
    files = experiment.get_files(1)
    assert [made.stage for made in files.list_manifests()] == ["sample"]
    found = read_probe(files)
    assert found is not None
    assert [one["cause"] for one in found.findings] == ["wrong_format"]


def test_a_report_is_read_again_instead_of_made_again(tmp_path: Path) -> None:
    experiment = start(tmp_path)
    for script in (unreadable_judge, make_fake_reply):
        with pytest.raises(NeedsAttentionError):
            require_judge_probed(
                experiment.build_context(1), make_scripted_resources(tmp_path, script)
            )


def test_an_accepted_probe_lets_the_run_go_on(tmp_path: Path) -> None:
    experiment = start(tmp_path)
    resources = make_scripted_resources(tmp_path, unreadable_judge)
    with pytest.raises(NeedsAttentionError):
        require_judge_probed(experiment.build_context(1), resources)
    assert accept_probe(experiment.get_files(1), by="alice")
    require_judge_probed(experiment.build_context(1), resources)
    assert not accept_probe(experiment.get_files(1), by="alice"), "there is nothing left to accept"
    found = read_probe(experiment.get_files(1))
    assert found is not None
    assert found.accepted == {"key": found.key, "by": "alice"}


def test_a_probe_can_be_accepted_in_advance(tmp_path: Path) -> None:
    experiment = start(tmp_path)
    assert accept_probe(experiment.get_files(1), by="the command line")
    require_judge_probed(
        experiment.build_context(1), make_scripted_resources(tmp_path, unreadable_judge)
    )


def test_another_setting_asks_for_another_probe(tmp_path: Path) -> None:
    experiment = start(tmp_path)
    with pytest.raises(NeedsAttentionError):
        require_judge_probed(
            experiment.build_context(1), make_scripted_resources(tmp_path, unreadable_judge)
        )
    other = start(tmp_path / "other", judge={"samples": 6, "max_new_tokens": 99})
    first = read_probe(experiment.get_files(1))
    require_judge_probed(other.build_context(1), make_scripted_resources(tmp_path))
    second = read_probe(other.get_files(1))
    assert first is not None
    assert second is not None
    assert first.key != second.key


def test_the_probe_changes_no_table(tmp_path: Path) -> None:
    """With and without it, the same bytes; its own rows are elsewhere."""
    hashes = []
    for name, prompts in (("with", 8), ("without", 0)):
        root = tmp_path / name
        experiment = start(root, probe={"prompts": prompts})
        run_before_training(experiment.build_context(1), make_scripted_resources(root))
        parts = [part for made in experiment.get_files(1).list_manifests() for part in made.parts]
        hashes.append({part.path: part.sha256 for part in parts})
        assert (read_probe(experiment.get_files(1)) is not None) == bool(prompts)
        assert all(hash_bytes((root / "scripted/iteration-1" / path).read_bytes()) == sha256
                   for path, sha256 in hashes[-1].items())  # fmt: skip
    assert hashes[0] == hashes[1]


def test_an_iteration_that_is_under_way_is_not_probed(tmp_path: Path) -> None:
    """As one that an earlier version began."""
    experiment = start(tmp_path)
    context = experiment.build_context(1)
    without = replace(context, recipe=context.recipe.model_copy(
        update={"probe": ProbeRecipe(prompts=0)}))  # fmt: skip
    STAGES[1].run_shard(without, 0, make_scripted_resources(tmp_path))
    require_judge_probed(context, make_scripted_resources(tmp_path, unreadable_judge))
    assert read_probe(experiment.get_files(1)) is None


def test_another_setting_of_the_judge_asks_for_another_probe_in_an_experiment_that_has_begun(
    tmp_path: Path,
) -> None:
    experiment = start(tmp_path)
    resources = make_scripted_resources(tmp_path)
    STAGES[1].run_shard(experiment.build_context(1), 0, resources)
    for name, values in (("judge", {"max_new_tokens": 99}), ("meta_judge", {"top_p": 0.5})):
        context = experiment.build_context(1)
        section = getattr(context.recipe, name).model_copy(update=values)
        changed = replace(context, recipe=context.recipe.model_copy(update={name: section}))
        bad = make_scripted_resources(tmp_path, unreadable_judge)
        with pytest.raises(NeedsAttentionError, match="judge probe stopped"):
            STAGES[2].run_shard(changed, 0, bad)
        assert accept_probe(experiment.get_files(1), by="alice")
        require_judge_probed(changed, bad)


def test_no_probe_draws_from_a_model_when_it_is_switched_off(tmp_path: Path) -> None:
    experiment = start(tmp_path, probe={"prompts": 0})
    resources = make_scripted_resources(tmp_path, unreadable_judge)
    require_judge_probed(experiment.build_context(1), resources)
    engine = resources.get_engine(experiment.build_context(1).model, experiment.recipe.engine)
    assert isinstance(engine, ScriptedEngine)
    assert engine.calls == 0
