"""Recipes name endpoints; what the names mean, and where keys are, is said by the environment."""

import json
from pathlib import Path

import pytest

from meta_reward_core.engines.endpoints import find_endpoint, read_endpoints
from meta_reward_core.engines.openai import load_endpoint_engine
from meta_reward_core.errors import EndpointError, RecipeError
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.system.settings import ENDPOINTS_VARIABLE
from tests.core.tiny_model import make_model_folder

LOCAL = {"base_url": "http://localhost:8000/v1", "model": "policy-{weights}"}
OUTSIDE = {"base_url": "https://judge.example/v1", "model": "judge-1"}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINTS_VARIABLE, json.dumps({"local": LOCAL, "outside": OUTSIDE}))


def test_a_file_of_yaml_names_endpoints(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text("local:\n  base_url: http://localhost:8000/v1\n  model: m\n  concurrency: 8\n")
    read = read_endpoints(str(file))
    assert [(name, found.model, found.concurrency) for name, found in read.items()] == [
        ("local", "m", 8)
    ]


def test_the_variable_may_hold_them_itself() -> None:
    read = read_endpoints(json.dumps({"local": LOCAL}))
    assert read["local"].base_url == "http://localhost:8000/v1"


def test_without_the_variable_there_are_none() -> None:
    assert read_endpoints("") == {}


@pytest.mark.usefixtures("known")
def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(EndpointError, match=r"unknown endpoint 'there'.*local, outside"):
        find_endpoint("there")


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "ftp://localhost/v1"},
        {"base_url": "http://"},
        {"base_url": "http://alice:sesame@localhost/v1"},
        {"base_url": "http://localhost/v1?token=sesame"},
        {"key": "sesame"},
        {"key_env": "A", "key_file": "/b"},
        {"concurrency": 0},
        {"model": ""},
    ],
)
def test_a_wrong_entry_is_refused_without_repeating_it(changes: dict[str, object]) -> None:
    with pytest.raises(EndpointError, match="'local' is not valid") as failed:
        read_endpoints(json.dumps({"local": LOCAL | changes}))
    assert "sesame" not in str(failed.value)


@pytest.mark.parametrize("setting", ["{", "{a: b", '["a"]\n', "/no/such/file", '{"a": 1}'])
def test_settings_that_cannot_be_read_are_refused(setting: str) -> None:
    with pytest.raises(EndpointError):
        read_endpoints(setting)


def test_a_key_is_found_in_a_variable_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", " sesame ")
    file = tmp_path / "key"
    file.write_text("sesame\n")
    entries = {"a": OUTSIDE | {"key_env": "SOME_KEY"}, "b": OUTSIDE | {"key_file": str(file)}}
    for found in read_endpoints(json.dumps(entries)).values():
        key = found.read_key()
        assert key is not None
        assert key.get_secret_value() == "sesame"
        assert "sesame" not in f"{found!r} {key!r} {found.model_dump_json()}"


@pytest.mark.parametrize(
    "place", [{"key_env": "NO_SUCH_KEY"}, {"key_file": "/no/such/file"}, {"key_env": "ODD_KEY"}]
)
def test_a_missing_or_odd_key_is_an_error(
    place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_KEY", "sésame")
    found = read_endpoints(json.dumps({"a": OUTSIDE | place}))["a"]
    with pytest.raises(EndpointError, match="key"):
        found.read_key()


@pytest.mark.usefixtures("known")
def test_the_model_in_training_is_only_answered_for_by_its_own_weights(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    assert load_endpoint_engine("local", folder)
    with pytest.raises(EndpointError, match="not the trained model"):
        load_endpoint_engine("outside", folder)


@pytest.mark.usefixtures("known")
def test_an_outside_judge_has_a_model_of_its_own() -> None:
    assert load_endpoint_engine("outside", None)
    with pytest.raises(EndpointError, match="cannot be an external judge"):
        load_endpoint_engine("local", None)


def test_other_weights_have_another_name() -> None:
    found = read_endpoints(json.dumps({"local": LOCAL}))["local"]
    assert found.resolve_model_name("0123456789abcdef" * 4) == "policy-0123456789ab"


def test_a_recipe_names_an_endpoint_for_this_kind_alone() -> None:
    changes = ["engine.kind=openai", "engine.endpoint=local"]
    assert load_recipe("smoke", changes=changes).engine.endpoint == "local"
    with pytest.raises(RecipeError, match=r"needs a server: set engine\.endpoint"):
        load_recipe("smoke", changes=changes[:1])
    with pytest.raises(RecipeError, match=r"engine\.endpoint is for engine\.kind: openai only"):
        load_recipe("smoke", changes=changes[1:])


def test_a_recipe_without_an_outside_judge_judges_by_itself() -> None:
    assert Recipe(name="any").judge.endpoint is None
