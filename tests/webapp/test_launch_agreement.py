"""The command line, the API and the form: one request for one wish, and the same errors."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from meta_reward_core.cli.options import add_run_options, build_request
from meta_reward_core.errors import InputError
from meta_reward_core.planning.experiment_setup import check_can_create
from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.recipes.changed_values import RecipeValuesError
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.webapp.experiment_form_fixtures import NEW, storage_roots
from webapp.experiment_form.launch_request import read_payload
from webapp.experiment_form.recipe_fields import (
    RecipeField,
    get_recipe_fields,
    write_change,
    write_value,
)
from webapp.experiments.models import Job

__all__ = ["storage_roots"]

pytestmark = pytest.mark.django_db

PROMPTS = "".join(json.dumps({"prompt": f"question {number}?"}) + "\n" for number in range(90))


@dataclass(frozen=True)
class Wish:
    recipe: str
    values: Mapping[str, Any]
    seed: int = 7
    iterations: int = 1
    model: str | None = None
    has_prompts: bool = False


@dataclass(frozen=True)
class Answer:
    """A request's bytes, or every error as a line."""

    document: bytes = b""
    errors: frozenset[str] = frozenset()


def describe(errors: Mapping[str, str], problems: Any = ()) -> Answer:
    return Answer(
        errors=frozenset([*(f"{key}: {text}" for key, text in errors.items()), *problems])
    )


def ask_command_line(wish: Wish, folder: Path) -> Answer:
    words = ["--experiment", "mine", "--recipe", wish.recipe, "--seed", str(wish.seed),
             "--iterations", str(wish.iterations)]  # fmt: skip
    for key, value in wish.values.items():
        words += ["--set", write_change(key, value)]
    if wish.model is not None:
        words += ["--model", wish.model]
    if wish.has_prompts:
        file = folder / "mine.jsonl"
        file.write_text(PROMPTS.rstrip("\n"))
        words += ["--prompts", str(file)]
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    options = vars(parser.parse_args(words))
    store = ArtifactStore(str(folder / "artifacts"))
    try:
        found = check_can_create(
            build_request(options), store, engine_here=False, iterations=options["iterations"]
        )
    except RecipeValuesError as error:
        return describe(error.errors, error.problems)
    except InputError as error:
        return Answer(errors=frozenset([str(error)]))
    return Answer(found.launch.to_json())


def ask_api(client: Client, wish: Wish) -> Answer:
    body: dict[str, Any] = {
        "name": "mine", "recipe": wish.recipe, "values": wish.values, "seed": wish.seed,
        "until": wish.iterations,
    }  # fmt: skip
    if wish.model is not None:
        body["model"] = {"source": "hub", "name": wish.model}
    if wish.has_prompts:
        body["prompts"] = [json.loads(line)["prompt"] for line in PROMPTS.splitlines()]
    answer = client.post("/api/v1/experiments", json.dumps(body), content_type="application/json")
    if answer.status_code == 202:
        return Answer(take_request().to_json())
    assert answer.status_code == 422, answer.content
    return Answer(errors=frozenset(answer.json()["detail"].split("\n")))


def ask_form(client: Client, wish: Wish) -> Answer:
    fields: dict[str, Any] = {
        "base_recipe": wish.recipe, "name": "mine", "until": str(wish.iterations),
        "seed": str(wish.seed), "model_from": "recipe", "prompts_from": "world",
        "action": "launch", **write_fields(wish.values),
    }  # fmt: skip
    if wish.model is not None:
        fields |= {"model_from": "hub", "model_hub": wish.model}
    if wish.has_prompts:
        file = SimpleUploadedFile("mine.jsonl", PROMPTS.encode().rstrip(b"\n"))
        fields |= {"prompts_from": "file", "prompts_file": file}
    answer: Any = client.post(NEW, fields)
    if answer.status_code == 302:
        return Answer(take_request().to_json())
    sheet = answer.context["state"]
    names = {"prompts_from": "prompts"}
    errors = {
        names.get(key, key.removeprefix("recipe.")): text for key, text in sheet.errors.items()
    }
    return describe(errors, sheet.problems)


def write_fields(values: Mapping[str, Any]) -> dict[str, str]:
    """What a person types for values; the adapters have a field each."""
    fields = {
        f"recipe.{key}": write_value(value)
        for key, value in values.items()
        if key != "training.lora"
    }
    if "training.lora" in values:
        adapters = values["training.lora"]
        fields["recipe.training.lora"] = "no" if adapters is None else "yes"
        for name, value in (adapters or {}).items():
            fields[f"recipe.training.lora.{name}"] = write_value(value)
    return fields


def take_request() -> LaunchRequest:
    job = Job.objects.get()
    found = read_payload(job.payload)
    Job.objects.all().delete()
    return found


def ask_all(client: Client, wish: Wish, folder: Path) -> tuple[Answer, Answer, Answer]:
    return ask_command_line(wish, folder), ask_api(client, wish), ask_form(client, wish)


@pytest.mark.parametrize(
    "wish",
    [
        Wish("smoke", {}),
        Wish("smoke", {"actor.samples": 5, "pairing.rho": [0.3], "audit.required": True}),
        Wish("smoke", {"pairing.rho": [0.1, 0.2], "training.lora": {"r": 4}}, seed=0),
        Wish("miniature", {"actor.system_prompt": "Be brief:\n- yes", "judge.endpoint": None}),
        Wish("smoke", {"sample.prompts": 8}, iterations=2, model="org/name@v1"),
        Wish("paper-llama3-8b", {"sample.prompts": 40}, model="org/name", has_prompts=True),
        Wish("smoke", {"actor.samples": 1, "judge.samples": "many", "engine.kind": "odd"}),
        Wish("smoke", {"sample.prompts": 50_000}),
        Wish("smoke", {"probe.max_same_score_share": -0.0, "pairing.rho": [-0.0, 0.5]}),
        Wish("smoke", {"sample.prompts": 80}, iterations=2, has_prompts=True),
    ],
)
def test_one_wish_gives_one_document_whichever_way_it_comes(
    client: Client, tmp_path: Path, wish: Wish
) -> None:
    command, api, form = ask_all(client, wish, tmp_path)
    assert command == api == form
    assert bool(command.document) != bool(command.errors)


def test_all_errors_come_at_once(client: Client, tmp_path: Path) -> None:
    values = {"actor.samples": 1, "judge.samples": "many", "engine.kind": "odd"}
    for answer in ask_all(client, Wish("smoke", values), tmp_path):
        assert {line.partition(":")[0] for line in answer.errors} == set(values)


@pytest.mark.parametrize("key", ["evaluation.tasks", "development.tasks"])
def test_benchmarks_are_named_by_form_and_api(
    client: Client, tmp_path: Path, settings: Settings, key: str
) -> None:
    """The command names the file by its path, the others by its name in the folder for it."""
    root = tmp_path / "evaluation"
    root.mkdir()
    (root / "pairs.jsonl").write_text("")
    settings.META_REWARD_EVALUATION_ROOT = str(root)
    task = {"name": "ifeval", "data": str(root / "pairs.jsonl"), "prompts": None}
    by_name = Wish("smoke", {key: [{"name": "ifeval", "data": "pairs.jsonl"}]})
    for answer in (ask_api(client, by_name), ask_form(client, by_name)):
        assert answer.errors == frozenset()
        assert json.loads(answer.document)["values"] == {key: [task]}
    (root / "outside").symlink_to("/etc/hostname")
    for data in ("absent.jsonl", "../models", "/etc/hostname", "outside", ""):
        wish = Wish("smoke", {key: [{"name": "ifeval", "data": data}]})
        for answer in (ask_api(client, wish), ask_form(client, wish)):
            (line,) = answer.errors
            assert "is not a file in META_REWARD_EVALUATION_ROOT" in line
    nonsense = Wish("smoke", {key: "nonsense"})
    assert ask_api(client, nonsense) == ask_form(client, nonsense)
    assert ask_api(client, nonsense).errors == ask_command_line(nonsense, tmp_path).errors


def draw_value(field: RecipeField) -> st.SearchStrategy[Any]:
    """Values of a field: good ones, and some that are wrong."""
    if field.key in {"judge.template", "judge.rubric", "meta_judge.template"}:
        return st.sampled_from(field.choices)
    none = [st.none()] if field.is_optional else []
    if field.kind == "choice":
        known = [{"yes": True, "no": False}.get(one, one) for one in field.choices if one != "none"]
        return st.one_of(*none, st.sampled_from([*known, "odd"]))
    numbers = st.integers(-3, 5_000) | st.floats(-2, 9, width=16) | st.just("many")
    if field.kind == "integer":
        return st.one_of(*none, numbers)
    if field.kind == "number":
        return st.one_of(*none, numbers, st.just("inf"))
    if field.kind == "schedule" and field.depth == 1:
        return st.one_of(numbers, st.lists(st.floats(0, 1, width=16), min_size=1, max_size=3))
    if field.kind in {"text", "long_text"} and field.key != "name":
        words = st.text(alphabet="abc {}:#'\"-é漢", min_size=1, max_size=9)
        return words.map(lambda text: f"x{text}x")
    return st.nothing()


DRAWN = {
    key: draw_value(field)
    for key, field in get_recipe_fields().items()
    if not key.startswith("training.lora") and not draw_value(field).is_empty
}
WISHES = st.builds(
    Wish,
    recipe=st.sampled_from(["smoke", "miniature"]),
    values=st.lists(st.sampled_from(sorted(DRAWN)), max_size=4, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: DRAWN[key] for key in keys})
    ),
    seed=st.integers(0, 2**53),
    iterations=st.integers(1, 5),
)


def check_agreement(client: Client, wish: Wish, folder: Path) -> bool:
    command, api, form = ask_all(client, wish, folder)
    assert command == api == form, wish
    return bool(command.document)


QUIETLY: Any = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],  # to shrink takes minutes; the message names the wish
}


@settings(max_examples=8, **QUIETLY)
@given(wish=WISHES)
def test_random_recipes_agree(client: Client, tmp_path: Path, wish: Wish) -> None:
    check_agreement(client, wish, tmp_path)


@pytest.mark.slow
def test_two_hundred_random_recipes_agree(client: Client, tmp_path: Path) -> None:
    seen: list[bool] = []

    @settings(max_examples=200, **QUIETLY)
    @given(wish=WISHES)
    def check(wish: Wish) -> None:
        seen.append(check_agreement(client, wish, tmp_path))

    check()
    assert len(seen) >= 200
    assert 20 <= sum(seen) <= len(seen) - 20, "too few are accepted, or too few refused"


def test_the_prompts_of_a_document_are_named_by_their_content(
    client: Client, tmp_path: Path
) -> None:
    wish = Wish("paper-llama3-8b", {"sample.prompts": 40}, model="org/name", has_prompts=True)
    answer = ask_form(client, wish)
    found = json.loads(answer.document)["prompts"]
    sent = PROMPTS.encode().rstrip(b"\n")
    assert found == {"sha256": hashlib.sha256(sent).hexdigest(), "format": "jsonl"}
