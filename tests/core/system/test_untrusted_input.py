"""The gate for bytes: what is refused, and that refusing costs little."""

import ast
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import meta_reward_core
from meta_reward_core.engines.endpoints import read_endpoints
from meta_reward_core.errors import ArtifactError, EndpointError, MalformedInputError, RecipeError
from meta_reward_core.experiment import open_experiment
from meta_reward_core.recipes.loader import load_recipe, read_recipe_text
from meta_reward_core.reporting.scorecard_store import list_scorecards
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.system.untrusted_input import (
    REQUEST_LIMITS,
    YAML_LIMITS,
    InputLimits,
    check_value,
    decode_text,
    parse_json,
    parse_yaml,
)

SECONDS: Final = 1.5
"""Of CPU time, for any input; each takes a few milliseconds. The old parsers took minutes."""

MANY: Final = 100_000

HOSTILE_YAML: Final = {
    "opening brackets": "[" * 20_000,
    "opening braces": "{" * MANY,
    "objects in objects": "{a: " * MANY,
    "lists in lists by lines": "- " * MANY,
    "deep indents": "\n".join(f"{' ' * level}a:" for level in range(600)),
    "question marks": "? " * MANY,
    "closed brackets": "[" * 20_000 + "]" * 20_000,
    "an alias bomb": "a0: &a0 [1, 1]\n"
    + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 21)),
    "an alias to itself": "a: &a [*a]",
    "many documents": "---\n" * MANY,
    "many keys": "\n".join(f"key{n}: 1" for n in range(60_000)),
    "many merge keys": "\n".join("? <<\n: {a: 1}" for _ in range(20_000)),
    "a list of merges": "<<: [{a: 1}, {b: 1}]",
    "many tag directives": "\n".join(f"%TAG !a{n}! b" for n in range(20_000)) + "\n--- a",
    "an explicit number": "!!int " + "9" * MANY,
    "a program": "!!python/object/apply:os.system [ls]",
    "binary": "a: !!binary aGk=",
    "a set": "a: !!set {b}",
    "a list as a key": "? [a]\n: b",
    "a huge integer": "a: " + "9" * 30,
    "an infinity": "a: -.inf",
    "not a number": "a: .nan",
    "NUL": "a: \0",
    "an escaped NUL": 'a: "\\0"',
    "half a surrogate pair": "a: \ud800",
    "an escaped half": 'a: "\\ud800"',
    "a key twice": "a: 1\na: 2",
    "a colon in a word": ": " * MANY,
}

HOSTILE_JSON: Final = {
    "opening brackets": "[" * 3000,
    "closed brackets": "[" * MANY + "]" * MANY,
    "objects in objects": '{"a":' * MANY,
    "a long integer": "9" * 10**6,
    "a long negative integer": "[-" + "9" * 10**6 + "]",
    "65 bits": "[9223372036854775808]",
    "a long fraction": "[" + "9" * 10**6 + ".5]",
    "an overflow": "[1e999]",
    "NaN": "[NaN]",
    "Infinity": "[-Infinity]",
    "too many values": "[" + "1," * 300_000 + "1]",
    "half a surrogate pair": '["\\ud800"]',
    "half in a key": '{"\\udfff": 1}',
    "a raw half": '["\ud800"]',
    "NUL": '["\\u0000"]',
    "NUL in a key": '{"a": [{"\\u0000": 1}]}',
    "an open text": '"' + "a" * 10**6,
    "backslashes": '"' + "\\" * 10**6,
}


def measure(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_little_time(text: str) -> None:
    def read() -> None:
        with pytest.raises(MalformedInputError):
            parse_yaml(text)

    assert measure(read) < SECONDS


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_refused_in_little_time(text: str) -> None:
    def read() -> None:
        with pytest.raises(MalformedInputError):
            parse_json(text, REQUEST_LIMITS)

    assert measure(read) < SECONDS


@pytest.mark.parametrize(
    "text",
    ["9" * 400_000, "1:" * 200_000 + "1", "1_" * 200_000, "#\n" * 200_000, "- 1\n" * 4_000],
    ids=lambda text: text[:4],
)
def test_long_harmless_yaml_is_read_in_little_time(text: str) -> None:
    assert measure(lambda: parse_yaml(text)) < SECONDS


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    for data in (b"\xff", "é".encode("latin-1"), b"\xed\xa0\x80"):
        with pytest.raises(MalformedInputError, match="is not UTF-8"):
            decode_text(data)
        with pytest.raises(MalformedInputError, match="is not UTF-8"):
            parse_json(data)
    assert decode_text("\ufeffé".encode()) == "é"


def test_a_whole_pair_and_escaped_backslashes_pass() -> None:
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]') == ["😀", "\\ud800"]


def test_dates_and_long_numbers_stay_texts_and_short_values_keep_their_types() -> None:
    text = f"a: 2024-13-99\nb: {'9' * 70}\nc: 0x1F\nd: 1.5\ne: yes\nf: null\ng: '1'"
    assert parse_yaml(text) == {
        "a": "2024-13-99",
        "b": "9" * 70,
        "c": 31,
        "d": 1.5,
        "e": True,
        "f": None,
        "g": "1",
    }


def test_aliases_count_for_what_they_stand_for_where_they_are_allowed() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a}", allow_aliases=True)["c"] == {"b": 1}
    for bomb in ("an alias bomb", "an alias to itself"):
        with pytest.raises(MalformedInputError, match=r"more than|deeper"):
            parse_yaml(HOSTILE_YAML[bomb], allow_aliases=True)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner
            )
        ),
        max_leaves=20,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_the_limits_allow_is_read_as_the_plain_parsers_read_it(value: Any) -> None:
    import json

    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value
    check_value(value, REQUEST_LIMITS)


@given(st.text(st.sampled_from("[]{},:-?&*!|>'\"%@ \n#a.<"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_as_plain_yaml_reads_it_or_refused(text: str) -> None:
    try:
        value = parse_yaml(text)
    except MalformedInputError:
        return
    assert value == yaml.load(text, Loader=yaml.CSafeLoader)


def test_depth_and_number_of_values_are_counted_from_one() -> None:
    limits = InputLimits(max_chars=100, max_depth=2, max_nodes=4)
    assert parse_json("[[1]]", limits) == [[1]]
    check_value([[1]], limits)
    for text in ("[[[1]]]", "[1,1,1,1,1]", " " * 101):
        with pytest.raises(MalformedInputError):
            parse_json(text, limits)
    with pytest.raises(MalformedInputError, match="deeper than 2"):
        check_value([[[1]]], limits)
    with pytest.raises(MalformedInputError, match="type bytes"):
        check_value([b""], limits)


# Who uses the gate.


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_recipes_and_settings_are_refused_by_name(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"^the recipe"):
        read_recipe_text(text)
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(str(file))
    with pytest.raises(RecipeError, match="--set judge"):
        load_recipe("smoke", changes=[f"judge={text}"])
    with pytest.raises(EndpointError):
        read_endpoints(f"{text}\n")


def test_a_recipe_with_many_unknown_keys_is_answered_in_a_few_lines() -> None:
    text = "\n".join(f"key{n}: {'x' * 100}" for n in range(2000))
    with pytest.raises(RecipeError) as caught:
        read_recipe_text(text)
    assert "and 1,9" in str(caught.value)
    assert len(str(caught.value)) < 10_000


DAMAGE: Final = {
    "deep": b"[" * 100_000,
    "a number": b"7",
    "a list": b"[]",
    "half": b'{"benchmark": "\\ud800", "figures": []}',
    "figures of texts": b'{"benchmark": "b", "figures": ["x"]}',
    "a figure without a count": b'{"benchmark": "b", "figures": [{"name": "n", "value": 1}]}',
    "a list as a value": b'{"benchmark": "", "figures": [{"name": "", "value": [], "count": 1}]}',
    "a finding of nothing": b'{"benchmark": "b", "figures": [], "findings": [{}]}',
    "an unknown reference": b'{"benchmark": "b", "figures": [], "reference": "dogs"}',
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_no_scorecard_is_named(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "first" / "evaluations" / "M1"
    folder.mkdir(parents=True)
    (folder / "bench.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bench\.json"):
        list_scorecards(ExperimentFiles(ArtifactStore(str(tmp_path)), "first"), 1)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"[]", b"{}", b'{"recipe": [], "templates": {}, "seed": 1, "seed_model": {}}'],
)
def test_a_file_that_describes_no_experiment_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "experiment.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"experiment\.json"):
        open_experiment(ArtifactStore(str(tmp_path)), "first")


ROOT: Final = Path(meta_reward_core.__file__).parent.parent
PARSERS: Final = {"loads", "load", "safe_load", "parse", "full_load", "load_all", "compose", "scan"}
OWN_PIPES: Final = {
    "meta_reward_core/system/untrusted_input.py": "the gate itself",
    "meta_reward_core/tasks/toy/base_model.py": "a record beside the shipped model",
    "meta_reward_core/tasks/toy/base_model_variants.py": "a record beside the shipped model",
    "meta_reward_core/planning/model_check/__main__.py": "a pipe to our own process",
    "meta_reward_core/planning/model_check/run.py": "a pipe to our own process",
    "meta_reward_core/training/launcher.py": "a private folder of the training process",
    "meta_reward_core/training/preprocessing.py": "a private folder of the training process",
    "meta_reward_core/training/process_main.py": "a private folder of the training process",
    "meta_reward_core/training/model_sharding.py": "a file of the package",
    "workers/engine/client.py": "a pipe to our own process",
    "workers/engine/process.py": "a pipe to our own process",
    "workers/jobs/create_experiment.py": "a column that prompt_files wrote",
}
"""The only modules that may call a parser of JSON or YAML themselves, and why."""


def test_nothing_else_parses_json_or_yaml() -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in ("meta_reward_core", "webapp", "workers")
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts and _calls_parser(path)
    }
    assert found == set(OWN_PIPES)


def _calls_parser(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in PARSERS
        and isinstance(node.value, ast.Name)
        and node.value.id in {"json", "yaml"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_the_limits_of_what_a_person_writes_are_smaller_than_those_of_a_file() -> None:
    assert YAML_LIMITS.max_nodes <= REQUEST_LIMITS.max_nodes
