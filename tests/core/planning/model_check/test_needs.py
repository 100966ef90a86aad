"""What a recipe needs of its model follows from where completions come from."""

from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.planning.model_check.needs import derive_needs
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.system.settings import ENDPOINTS_VARIABLE

SERVER = "{base_url: 'http://localhost:8000/v1', model: 'policy-{weights}'"


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({}, True),
        ({"engine": {"kind": "vllm"}}, True),
        ({"engine": {"kind": "openai", "endpoint": "lists"}}, True),
        ({"engine": {"kind": "openai", "endpoint": "silent"}}, False),
        ({"engine": {"kind": "openai", "endpoint": "unknown_here"}}, False),
        ({"judge": {"endpoint": "silent"}}, False),
        ({"judge": {"endpoint": "silent"}, "train_on": [["actor"]]}, True),
    ],
)
def test_token_ids_are_stored_where_engines_return_them(
    changes: dict[str, Any], stored: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(f"lists: {SERVER}, extra: {{return_token_ids: true}}}}\nsilent: {SERVER}}}\n")
    monkeypatch.setenv(ENDPOINTS_VARIABLE, str(file))
    needs = derive_needs(Recipe.model_validate({"name": "r"} | changes))
    assert needs.stores_tokens is stored
    assert needs.renders_prompts is (changes.get("engine", {}).get("kind") != "openai")
    assert needs.judges is ("judge" not in changes)
