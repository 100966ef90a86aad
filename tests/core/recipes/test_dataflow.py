"""A stage's key holds the values that the stage depends on: all of them, and no others."""

import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meta_reward_core.context import IterationContext
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.recipes import dataflow
from meta_reward_core.recipes.dataflow import NOT_IN_RESULTS, STAGE_SPECS, list_affected_stages
from meta_reward_core.recipes.schema import Recipe
from tests.core.scripted_world import RECIPE, begin, make_scripted_resources, train_on_nothing

HOW_TO_DECLARE = (
    "is neither declared by a stage nor listed as changing no result. If tables or checkpoints "
    "depend on it, add it to `needs` of each such stage in meta_reward_core/recipes/dataflow.py; "
    "if it changes none of them, add it to NOT_IN_RESULTS there, with the reason."
)
UNDER: dict[str, dict[str, object]] = {
    "scripted": {},
    "embedded": {"engine": {"kind": "transformers"}},
    "vllm": {"engine": {"kind": "vllm"}},
    "server": {"engine": {"kind": "openai", "endpoint": "here"}},
    "outside judge": {
        "engine": {"kind": "transformers"},
        "judge": {"samples": 6, "endpoint": "there"},
    },
    "early stop": {"engine": {"kind": "vllm"}, "judge": {"samples": 6, "early_stop_z": 2.0}},
    "ground truth": {
        "engine": {"kind": "transformers"},
        "task": "toy",
    },
    "adapters": {"training": {"lora": {}}},
}
"""Recipes under which other values matter."""


def iter_fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every value of a recipe; a section that may be absent is a value and has values."""
    for name, field in section.model_fields.items():
        inner = [one for one in list_types(field.annotation) if is_section(one)]
        if not inner or type(None) in list_types(field.annotation):
            yield prefix + name, field
        for one in inner:
            yield from iter_fields(one, f"{prefix}{name}.")


def list_types(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


FIELDS = dict(iter_fields(Recipe))
ANYTIME = Recipe.model_validate(RECIPE)


def find_undeclared(fields: typing.Iterable[str]) -> list[str]:
    declared = [need for spec in STAGE_SPECS for need in spec.needs if not need.is_borrowed]
    return [
        field
        for field in fields
        if field not in NOT_IN_RESULTS and not any(need.covers(field) for need in declared)
    ]


def test_every_value_of_a_recipe_is_declared_by_a_stage_or_changes_no_result() -> None:
    missing = find_undeclared(FIELDS)
    assert not missing, f"{', '.join(missing)}: {HOW_TO_DECLARE}"


def test_a_value_that_is_added_to_a_recipe_is_missed() -> None:
    added = ["meta_judge.strength", "engine.rope_scaling", "audit.color", "novelty"]
    assert find_undeclared([*FIELDS, *added]) == added


def test_no_declaration_names_a_value_that_a_recipe_does_not_have() -> None:
    known = {*FIELDS, *(field.rpartition(".")[0] for field in FIELDS)}
    named = {need.field for spec in STAGE_SPECS for need in spec.needs}
    assert named <= known
    assert set(NOT_IN_RESULTS) <= set(FIELDS)
    assert set(dataflow.SCHEDULED_FIELDS) <= set(FIELDS)
    both = [field for field in NOT_IN_RESULTS if not find_undeclared([f"{field}.x"])]
    assert both == [], "declared, and listed as changing no result"


def set_nested(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    section, _, rest = key.partition(".")
    if not rest:
        return values | {section: value}
    return values | {section: set_nested(values.get(section) or {}, rest, value)}


def get_nested(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = None if values is None else values[part]
    return values


def propose_others(key: str, field: FieldInfo, now: Any) -> Iterator[Any]:
    """Values of a field other than the one it has, likely ones first."""
    if typing.get_origin(field.annotation) is Literal:
        yield from (one for one in typing.get_args(field.annotation) if one != now)
    if isinstance(now, bool):
        yield not now
    elif isinstance(now, int | float):
        yield from (now * 2, now + 1, now / 2, now - 1)
    elif isinstance(now, list):
        yield from ([["actor"]], [0.11], [77], 0.2, 500)
    yield from (3, 0.5, 2.5, True, {"r": 3}, {}, "else", "miniature", "actor_pairs", ["q_proj"])
    yield from (one for one in ("bfloat16", "linear", "fsdp", "tokens", "lowest_validation_loss"))
    yield None


def change_field(recipe: Recipe, key: str) -> Recipe | None:
    """The recipe with another value of a field; None if no other is possible beside the rest."""
    values = recipe.model_dump(mode="json")
    try:
        now = get_nested(values, key)
    except KeyError:
        return None
    if "." in key and get_nested(values, key.rpartition(".")[0]) is None:
        return None
    for other in propose_others(key, FIELDS[key], now):
        try:
            changed = Recipe.model_validate(set_nested(values, key, other))
        except ValueError:
            continue
        if get_nested(changed.model_dump(mode="json"), key) != now:
            return changed
    return None


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return begin(tmp_path_factory.mktemp("keys"))


def compute_keys(experiment: Experiment, recipe: Recipe, number: int) -> dict[str, str]:
    context = replace(
        experiment.build_context(1),
        number=number,
        recipe=recipe,
        files=experiment.get_files(number),
        earlier=(),
    )
    return {stage.name: stage.compute_key(context, 0) for stage in STAGES}


@pytest.mark.parametrize("under", UNDER)
def test_a_value_changes_the_keys_of_the_stages_that_depend_on_it_and_of_no_other(
    experiment: Experiment, under: str
) -> None:
    recipe = Recipe.model_validate(RECIPE | UNDER[under])
    number = 1
    before = compute_keys(experiment, recipe, number)
    tried = 0
    for key in FIELDS:
        changed = change_field(recipe, key)
        if changed is None:
            continue
        tried += 1
        after = compute_keys(experiment, changed, number)
        moved = {name for name in before if before[name] != after[name]}
        allowed = {
            spec.name
            for spec in STAGE_SPECS
            if spec.depends_on(key, recipe) or spec.depends_on(key, changed)
        }
        assert moved <= allowed, key
        must = {
            spec.name
            for spec in STAGE_SPECS
            if spec.depends_on(key, recipe) and spec.depends_on(key, changed)
        }
        is_by_name = key.endswith((".template", ".rubric"))  # their words count, not their names
        assert is_by_name or must <= moved, key
    assert tried > 70


def test_of_a_schedule_only_the_iterations_own_value_counts(experiment: Experiment) -> None:
    one = Recipe.model_validate(RECIPE | {"pairing": {"rho": [0.1, 0.2]}})
    two = Recipe.model_validate(RECIPE | {"pairing": {"rho": [0.1, 0.3]}})
    assert compute_keys(experiment, one, 1) == compute_keys(experiment, two, 1)
    in_second = compute_keys(experiment, one, 2), compute_keys(experiment, two, 2)
    assert in_second[0]["pair_actor"] != in_second[1]["pair_actor"]


def test_words_of_a_template_count_and_its_name_does_not(experiment: Experiment) -> None:
    context = experiment.build_context(1)
    renamed = replace(context, recipe=change_of(context, "judge.template", "words/of/mine"))
    assert [stage.compute_key(renamed, 0) for stage in STAGES] == [
        stage.compute_key(context, 0) for stage in STAGES
    ]
    rubric = replace(context, templates=replace(context.templates, rubric="other words"))
    moved = {
        stage.name
        for stage in STAGES
        if stage.compute_key(context, 0) != stage.compute_key(rubric, 0)
    }
    assert moved == {"judge", "meta_judge", "pair_judge"}


def change_of(context: IterationContext, key: str, value: Any) -> Recipe:
    return Recipe.model_validate(set_nested(context.recipe.model_dump(mode="json"), key, value))


class Recorder:
    """A recipe that remembers which of its values were read."""

    def __init__(self, section: BaseModel, prefix: str, read: set[str]) -> None:
        self._section, self._prefix, self._read = section, prefix, read

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        if name in type(self._section).model_fields:
            if isinstance(value, BaseModel):
                return Recorder(value, f"{self._prefix}{name}.", self._read)
            self._read.add(self._prefix + name)
            return value
        if isinstance(getattr(type(self._section), name, None), property):
            return getattr(type(self._section), name).fget(self)
        if name == "trains_on":
            self._read.add("train_on")
        return value


@pytest.mark.parametrize(
    "changes", [{}, {"judge": {"samples": 6, "early_stop_z": 2.0}}], ids=["usual", "early stop"]
)
def test_a_stage_reads_no_value_that_it_does_not_declare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Run with a recipe that notes what is read of it."""
    fake = SimpleNamespace(train_dpo=train_on_nothing)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)
    context = begin(tmp_path / "a", **changes, probe={"prompts": 0}).build_context(1)
    resources = make_scripted_resources(tmp_path / "scratch")
    for stage in STAGES:
        read: set[str] = set()
        watched: Any = Recorder(context.recipe, "", read)
        for shard in range(stage.plan_shards(context)):
            stage.run_shard(context, shard, resources)
            manifest = context.files.find_manifest(stage.name, shard)
            context.files.discard(stage.name, shard, stage.list_outputs(shard))
            work = stage.run(replace(context, recipe=watched), shard, resources)
            assert manifest is not None
            again = context.files.publish(
                stage.name, shard, key=manifest.key, work=work, packages=resources.list_packages()
            )
            assert again == manifest
        undeclared = find_undeclared_reads(stage, read, context.recipe)
        assert undeclared <= _read_without_effect(stage), stage.name
        if stage.name != "train":  # it hands its whole section to the trainer
            assert find_undeclared_reads(replace(stage, needs=()), read, context.recipe) == read


def find_undeclared_reads(stage: Stage, read: set[str], recipe: Recipe) -> set[str]:
    return {field for field in read if not stage.depends_on(field, recipe)}


def _read_without_effect(stage: Stage) -> set[str]:
    """Values that are read where they change nothing, each for a reason."""
    # The evaluation asks whether an adapter was kept: it loads a model only with a ground truth.
    # Stages that draw ask whether there is a probe before them, whose rows never train.
    # The training names its run by the recipe, for trackers.
    # The first stage checks the model unless a script answers: a check refuses, and makes no row.
    return {
        "sample": {"engine.kind"},
        **{name: {"probe.prompts"} for name in ("generate", "judge", "meta_judge")},
        "train": {"name"},
        "evaluate": {"training.lora"},
    }.get(stage.name, set())


def affected(*fields: str, number: int = 1, **changes: object) -> list[str]:
    recipe = Recipe.model_validate(RECIPE | changes)
    return [spec.name for spec in list_affected_stages(fields, recipe, number)]


def test_what_a_change_makes_again_follows_the_tables() -> None:
    assert affected("training.max_length") == ["train", "evaluate"]
    assert affected("pairing.max_chosen_chars") == ["pair_actor", "pair_judge", "train", "evaluate"]
    assert affected("meta_judge.elo_prior") == ["pair_judge", "train", "evaluate"]
    assert affected("judge.max_new_tokens") == [
        "judge", "pair_actor", "meta_judge", "pair_judge", "train", "evaluate",
    ]  # fmt: skip
    assert affected("actor.temperature")[0] == "generate"
    assert affected("evaluation.prompts") == []
    assert affected("name", "iterations") == []
    assert affected("engine.gpu_memory_utilization") == []


def test_a_stage_that_an_iteration_does_not_have_is_not_made_again() -> None:
    kinds = {"train_on": [["actor", "judge"], ["actor"]]}
    assert affected("meta_judge.temperature", number=2, **kinds) == []


def test_stages_follow_each_other_part_by_part_where_they_read_part_by_part() -> None:
    streamed = {name: inputs for name, inputs in dataflow.STREAMED_INPUTS.items() if inputs}
    assert streamed == {"judge": ("generate",), "meta_judge": ("generate", "judge")}
    assert dataflow.WHOLE_INPUTS["judge"] == ("sample",)
    assert dataflow.WHOLE_INPUTS["pair_judge"] == (
        *("sample", "generate", "judge", "pair_actor", "meta_judge"),
    )
    order = [spec.name for spec in STAGE_SPECS]
    for name in order:
        earlier = order[: order.index(name)]
        assert {*dataflow.STREAMED_INPUTS[name], *dataflow.WHOLE_INPUTS[name]} <= set(earlier)
