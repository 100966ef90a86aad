"""What keeps a finished shard: its inputs, and what its stage needs of recipe and model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import ArtifactError, ModelFolderError
from meta_reward_core.experiment import Experiment, create_experiment, open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.models.fingerprint import ModelFiles, is_document, read_end_ids
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import SettingsChange, write_settings_change
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.core.scripted_world import RECIPE, prompt_file, run_whole
from tests.upgrades.make_fixture import ROOT

FIXTURE = Path(__file__).parents[1] / "upgrades" / "3600774" / "files.tar.gz"


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [2], "temperature": 0.6}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("about")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def experiment(tmp_path: Path, model: Path) -> Experiment:
    return create_experiment(
        ArtifactStore(str(tmp_path / "artifacts")),
        "scripted",
        recipe=Recipe.model_validate(RECIPE),
        seed=1,
        seed_model=ModelRef.from_folder("M0", model),
        prompts=prompt_file(60),
    )


def reopen(experiment: Experiment) -> Experiment:
    found = open_experiment(experiment.store, experiment.name)
    assert found is not None
    return found


def list_finished_stages(experiment: Experiment, number: int = 1) -> list[str]:
    context = experiment.build_context(number)
    return [
        stage.name
        for stage in STAGES
        if all(
            stage.find_finished_shard(context, shard) is not None
            for shard in range(stage.plan_shards(context))
        )
    ]


EVERY = [stage.name for stage in STAGES]


@pytest.fixture
def earlier(tmp_path: Path) -> Experiment:
    """An experiment of an earlier version, with one finished iteration."""
    shutil.unpack_archive(FIXTURE, tmp_path)
    path = tmp_path / "artifacts" / "kept" / "experiment.json"
    path.write_text(path.read_text().replace(ROOT, str(tmp_path)))
    found = open_experiment(ArtifactStore(str(tmp_path / "artifacts")), "kept")
    assert found is not None
    return found


def change(experiment: Experiment, **after: object) -> Experiment:
    named = {key.replace("__", "."): value for key, value in after.items()}
    number = len(experiment.settings.changes) + 1
    write_settings_change(experiment.paths, SettingsChange(number, 1, dict.fromkeys(named), named))
    return reopen(experiment)


def test_manifests_of_an_earlier_version_stay_valid_under_their_own_keys(
    earlier: Experiment,
) -> None:
    assert list_finished_stages(earlier) == EVERY
    context = earlier.build_context(1)
    for stage in STAGES:
        manifest = context.files.find_manifest(stage.name)
        assert manifest is not None
        assert manifest.key != stage.compute_key(context, 0), "it was written under another rule"


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("training__max_length", 1024, [*EVERY[:-2], "evaluate"]),
        ("judge__max_new_tokens", 7, ["sample", "generate", "meta_judge", "pair_judge"]),
        ("pairing__max_chosen_chars", 1, ["sample", "generate", "judge", "meta_judge"]),
        ("actor__temperature", 0.1, ["sample"]),
        ("name", "another", EVERY),
    ],
)
def test_a_manifest_of_an_earlier_version_is_kept_by_need(
    earlier: Experiment, field: str, value: object, kept: list[str]
) -> None:
    """The recipe's hash, which is in those keys, has changed in each case."""
    found = list_finished_stages(change(earlier, **{field: value}))
    assert set(kept) <= set(found)
    assert field == "name" or found != EVERY


def test_a_model_file_that_an_earlier_version_hashed_may_not_change(
    earlier: Experiment,
) -> None:
    (Path(earlier.seed_folder) / "README.md").write_text("new")
    with pytest.raises(ArtifactError, match="since the experiment was created"):
        reopen(earlier)


def test_a_mended_readme_leaves_everything_finished(
    experiment: Experiment, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_whole(experiment, 1, monkeypatch)
    (model / "README.md").write_text("about it")
    (model / "LICENSE").write_text("as is")
    assert list_finished_stages(reopen(experiment)) == EVERY


def test_a_mended_generation_config_leaves_what_was_drawn(
    experiment: Experiment, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was mended before M1 was made: the training is still to come, and takes the new file."""
    context = run_whole(experiment, 1, monkeypatch)
    context.files.discard("train", 0, ["checkpoint"])
    before = experiment.build_context(1)
    (model / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true}')
    after = reopen(experiment).build_context(1)
    same = [
        stage.name
        for stage in STAGES
        if stage.compute_key(before, 0) == stage.compute_key(after, 0)
    ]
    assert same == [name for name in EVERY if name != "train"]


def test_a_generation_config_that_is_mended_later_leaves_the_model_that_was_made(
    experiment: Experiment, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1 holds the file that it was made with, so a second mend and a third leave it, too."""
    (model / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true}')
    mended = reopen(experiment)
    context = run_whole(mended, 1, monkeypatch)
    folder = context.files.checkpoint.fetch_folder("")
    shutil.copyfile(model / "generation_config.json", folder / "generation_config.json")
    train = next(stage for stage in STAGES if stage.name == "train")
    manifest = context.files.find_manifest("train")
    assert manifest is not None
    (model / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert train.can_accept(reopen(experiment).build_context(1), manifest)
    (folder / "generation_config.json").write_text("{}")
    assert not train.can_accept(reopen(experiment).build_context(1), manifest)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "other"),
        ("config.json", '{"eos_token_id": 3}'),
        ("tokenizer.json", '{"a": 1}'),
        ("chat_template.jinja", "{{ other }}"),
        ("generation_config.json", '{"eos_token_id": [2, 7]}'),
        ("added_by_somebody.json", "{}"),
    ],
)
def test_a_file_that_drawing_depends_on_may_not_change(
    experiment: Experiment, model: Path, file: str, content: str
) -> None:
    (model / file).write_text(content)
    with pytest.raises(ArtifactError, match="since the experiment was created") as refused:
        reopen(experiment)
    assert f"({file})" in str(refused.value)


def test_the_files_hash_is_the_folders_hash(model: Path) -> None:
    files = ModelFiles.read(model)
    assert files.sha256 == hash_model_folder(model)
    assert len({files.sha256, files.drawing, files.training}) == 3


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": [7, 2]}, (2, 7)),
        ({"eos_token_id": 2}, {}, None),
        ({"eos_token_id": 2}, None, (2,)),
        ({"text_config": {"eos_token_id": [5]}}, None, (5,)),
        ({}, None, None),
    ],
)
def test_end_ids_are_read_where_engines_read_them(
    tmp_path: Path, config: object, generation: object, ids: tuple[int, ...] | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert read_end_ids(tmp_path) == ids


def test_end_ids_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ModelFolderError, match="eos_token_id"):
        read_end_ids(tmp_path)


@pytest.mark.parametrize(
    ("name", "is_for_people"),
    [
        ("README.md", True),
        ("LICENSE", True),
        ("license.txt", True),
        ("images/arch.png", True),
        ("vocab.txt", False),
        ("merges.txt", False),
        ("generation_config.json", False),
        ("adapter/adapter_model.safetensors", False),
        ("unknown.bin2", False),
    ],
)
def test_only_what_is_known_to_be_for_people_does_not_count(
    name: str, *, is_for_people: bool
) -> None:
    assert is_document(name) is is_for_people


def drop_templates(experiment: Experiment) -> Experiment:
    templates = replace(experiment.templates, rubric="words that somebody else wrote")
    return replace(experiment, templates=templates)


def test_other_words_are_no_reason_to_accept_an_earlier_key(earlier: Experiment) -> None:
    other: Callable[[Experiment], Experiment] = drop_templates
    context = replace(
        other(earlier).build_context(1), began=replace(earlier.build_context(1).began)
    )
    found = {
        stage.name
        for stage in STAGES
        if (manifest := context.files.find_manifest(stage.name))
        and stage.can_accept(context, manifest)
    }
    assert "generate" in found
    assert "judge" not in found
