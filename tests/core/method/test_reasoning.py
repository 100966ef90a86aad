"""What counts of completions that hold reasoning, by the recipe's policy."""

from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, make_fake_reply
from meta_reward_core.errors import RecipeError
from meta_reward_core.models.reasoning import (
    REASONING_POLICIES,
    extract_open_block,
    find_marks,
    select_answer,
)
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.training.dataset import load_training_rows
from tests.core import scripted_world

STRIPPED = [
    ("plain", "plain"),
    ("  plain\n", "  plain\n"),
    ("<think>\nwhy\n</think>\n\nanswer\n", "answer\n"),
    ("why\n</think>\n\nanswer", "answer"),
    ("<think>a</think>b<think>c</think> d", "d"),
    ("<think>why</think>", ""),
    ("<think>never closed, Score: 5", None),
    ("done</think>x<think>again", None),
    ("[THINK]why[/THINK]answer", "answer"),
    ("<|channel>thought\nwhy<channel|>answer", "answer"),
    ("the `<think>` tag", "the `<think>` tag"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "answer"), STRIPPED)
def test_what_follows_the_last_closed_reasoning_is_the_answer(
    text: str, answer: str | None
) -> None:
    assert select_answer(text, "strip") == answer
    assert select_answer(text, "forbid") == answer
    assert select_answer(text, "keep") == text


def test_an_open_block_is_told_from_its_mark() -> None:
    assert extract_open_block("<|im_start|>assistant\n<think>\n") == "<think>\n"
    assert extract_open_block("<think>\n\n</think>\n\n") == ""
    assert extract_open_block("a <think> b <thinking> c") == "<think> b <thinking> c"


def test_marks_are_found_in_a_template() -> None:
    template = "{% if '</think>' in content %}{{ '<think>\\n' }}{{ '</think>' }}"
    assert find_marks("x" + template.replace("'", " ")) == ["</think>", "<think>"]


SEEN: list[str] = []


def reason(conversation: Conversation, sample: int, seed: int) -> Reply:
    """Every reply reasons first; the actor's last sample never gets to its answer."""
    asked = conversation[-1]["content"]
    SEEN.append(asked)
    is_actor = asked.startswith("question")
    if is_actor and sample == 4:
        return "<think>\nthoughts without an end. Score: 5", "length"
    return (
        f"<think>\nthoughts of {sample}\n</think>\n\n{make_fake_reply(conversation, sample, seed)}"
    )


def run(root: Path, policy: str) -> IterationContext:
    SEEN.clear()
    changes: dict[str, Any] = {
        "actor": {"samples": 5, "reasoning": policy},
        "judge": {"samples": 6, "reasoning": policy},
    }
    context = scripted_world.begin(root, **changes).build_context(1)
    scripted_world.run_before_training(
        context, scripted_world.make_scripted_resources(root, reason)
    )
    return context


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> tuple[IterationContext, list[str]]:
    context = run(tmp_path_factory.mktemp("stripped"), "strip")
    return context, list(SEEN)


def test_tables_hold_what_was_drawn(stripped: tuple[IterationContext, list[str]]) -> None:
    files = stripped[0].files
    for table in ("responses", "judgments"):
        texts = files.read(table)["text"].to_pylist()
        assert texts
        assert all(text.startswith("<think>\nthoughts") for text in texts)


def test_nobody_is_shown_reasoning_that_is_stripped(
    stripped: tuple[IterationContext, list[str]],
) -> None:
    shown = [text for text in stripped[1] if not text.startswith("question")]
    assert len(shown) > 100
    assert not [text for text in shown if "thoughts" in text]


def test_lengths_and_pairs_are_of_answers(stripped: tuple[IterationContext, list[str]]) -> None:
    files = stripped[0].files
    texts = {row["response_id"]: row["text"] for row in files.read("responses").to_pylist()}
    for row in files.read("scores").to_pylist():
        answer = select_answer(texts[row["response_id"]], "strip")
        assert row["length_chars"] == len(answer or "")
    for kind in ("actor", "judge"):
        pairs = files.read(f"{kind}_pairs").to_pylist()
        assert pairs
        said = [pair[side][0]["content"] for pair in pairs for side in ("chosen", "rejected")]
        assert not [text for text in said if "think" in text]


def test_a_response_that_ends_within_its_reasoning_is_not_judged_and_is_counted(
    stripped: tuple[IterationContext, list[str]],
) -> None:
    files = stripped[0].files
    unfinished = {
        row["response_id"]
        for row in files.read("responses").to_pylist()
        if row["finish_reason"] == "length"
    }
    assert len(unfinished) == 20, "one of each prompt"
    assert not unfinished & set(files.read("judgments")["response_id"].to_pylist())
    scores = {row["response_id"]: row for row in files.read("scores").to_pylist()}
    assert unfinished <= scores.keys()
    assert all(scores[name]["mean"] is None for name in unfinished)
    counted = [files.find_manifest("judge", shard) for shard in range(3)]
    assert sum(one.counts["unfinished_reasoning"] for one in counted if one) == 20


def test_rows_of_training_name_the_policy(stripped: tuple[IterationContext, list[str]]) -> None:
    rows = list(load_training_rows(stripped[0]))
    assert {row["reasoning"] for row in rows} == {"strip"}
    assert {row["kind"] for row in rows} == {"actor", "judge"}


def test_reasoning_is_shown_and_paired_where_it_is_kept(tmp_path: Path) -> None:
    files = run(tmp_path, "keep").files
    assert [text for text in SEEN if not text.startswith("question") and "thoughts" in text]
    pairs = files.read("actor_pairs").to_pylist()
    assert all("thoughts" in pair["chosen"][0]["content"] for pair in pairs)


def test_responses_with_the_same_answer_are_identical_where_reasoning_is_stripped(
    tmp_path: Path,
) -> None:
    def repeat(conversation: Conversation, sample: int, seed: int) -> Reply:
        if conversation[-1]["content"].startswith("question"):
            return f"<think>{sample}</think>answer {sample % 2}"
        return make_fake_reply(conversation, sample, seed)

    found = {}
    for policy in ("keep", "strip"):
        context = scripted_world.begin(
            tmp_path / policy, actor={"samples": 5, "reasoning": policy}
        ).build_context(1)
        resources = scripted_world.make_scripted_resources(tmp_path, repeat)
        for stage in scripted_world.stages_before_training()[:2]:
            for shard in range(stage.plan_shards(context)):
                stage.run_shard(context, shard, resources)
        found[policy] = context.files.read("responses").num_rows
    assert found == {"keep": 100, "strip": 40}


def test_a_default_policy_leaves_the_hash_of_a_recipe_as_it_was() -> None:
    recipe = Recipe(name="r")
    written = canonicalize_recipe(recipe)
    assert "reasoning" not in written["actor"]
    assert "reasoning" not in written["judge"]
    hashes = {
        change_recipe(recipe, {"actor.reasoning": policy}).sha256 for policy in REASONING_POLICIES
    }
    assert len(hashes) == 3
    assert recipe.sha256 in hashes


def test_lengths_in_tokens_need_the_reasoning() -> None:
    with pytest.raises(RecipeError, match=r"use pairing\.length_unit: characters"):
        change_recipe(
            Recipe(name="r"), {"actor.reasoning": "strip", "pairing.length_unit": "tokens"}
        )
