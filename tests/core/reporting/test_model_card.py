"""The model card: what it says, and what of a machine it must not say."""

from typing import Any

import pytest
import yaml

from meta_reward_core.recipes.loader import parse_recipe
from meta_reward_core.reporting.model_card import (
    Lineage,
    get_public_model_name,
    remove_local_paths,
    write_model_card,
)

SUMMARY: dict[str, Any] = {
    "iteration": 1,
    "stages": [
        {"stage": "generate", "counts": {"completions": 35_000, "refused": 2}},
        {"stage": "evaluate", "counts": {"calls": 9}},
    ],
    "judge": {"parse_rate": 0.987, "mean": 3.25, "entropy_bits": None, "share_at_max": 0.5},
    "meta_judge": {
        "parse_rate": 1.0,
        "won_by_first": 0.53,
        "won_by_higher_score": None,
        "won_by_longer": None,
        "inconsistency": 0.25,
    },
    "pairs": [{"kind": "judge", "pairs": 9, "dropped": {"no_winner": 3, "too_long": 1}}],
    "training": {"rows": 9, "kept_step": 1200, "margin": {"first": 0.0, "last": 1.25}},
    "truth": [
        {"subject": "actor", "metric": "true_quality", "before": 0.4, "after": 0.5},
        {"subject": "judge", "metric": "accuracy", "before": None, "after": 0.75},
    ],
    "alarms": [],
}


def card(**recipe: Any) -> str:
    return write_model_card(
        experiment="mine",
        number=1,
        recipe=parse_recipe({"name": "mine"} | recipe, origin="a test"),
        seed=7,
        lineage=Lineage(get_public_model_name(recipe.get("model")), ["a" * 64, "b" * 64]),
        summaries=[SUMMARY],
    )


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = yaml.safe_load(card().split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert front["license"] == "other"
    assert "dpo" in front["tags"]


@pytest.mark.parametrize(
    "words",
    [
        "# mine M1",
        f"| M0 | seed model: the toy task's seed model | `{'a' * 64}` |",
        "| M1 | M0, trained on the pairs of iteration 1; M0 is the reference |",
        "35,000 answers drawn",
        "2 prompts refused by the engine",
        "9 pairs of kind judge; 4 prompts without one (no_winner 3, too_long 1)",
        "judgments with a readable score: 98.7%",
        "mean score: 3.25",
        "won by the judgment shown first: 53.0%",
        "margin: 0.000 at the first, 1.250 at the last step",
        "published weights: step 1,200",
        "actor, true_quality: M0 0.400, M1 0.500",
        "judge, accuracy: M1 0.750",
        "Alarms:\n\n- none",
        "Random seed: 7.",
        "grants no license",
    ],
)
def test_it_says_what_is_known(words: str) -> None:
    assert words in card()


def test_what_was_not_measured_is_not_mentioned() -> None:
    written = card()
    assert "entropy" not in written
    assert "won by the higher score" not in written
    assert "None" not in written.split("## Recipe")[0]


def test_the_recipe_in_it_is_the_recipe() -> None:
    """Whatever stands in a text of the recipe, the fence around it is longer."""
    description = "before\n```\n# not a heading\n````\nafter"
    written = card(description=description)
    block = written.split("`````yaml\n")[1].split("\n`````\n")[0]
    assert yaml.safe_load(block)["description"] == description


def test_of_a_place_only_the_last_name_is_said() -> None:
    written = card(
        model="/data/people/alice/models/llama",
        description="see ~/notes/run.txt and https://example.org/a/b",
        judge={"template": "/home/alice/judge.txt"},
    )
    for place in ("/data", "alice", "~/notes"):
        assert place not in written
    for kept in ("seed model: llama", "run.txt", "https://example.org/a/b", "judge.txt"):
        assert kept in written


@pytest.mark.parametrize(
    "given, kept",
    [
        ("org/name", "org/name"),
        ("and/or", "and/or"),
        ("/srv/models/a", "a"),
        (["/srv/x/y", {"deep": "/a/b/c"}], ["y", {"deep": "c"}]),
        (3, 3),
        (None, None),
    ],
)
def test_places_are_told_from_names(given: Any, kept: Any) -> None:
    assert remove_local_paths(given) == kept


@pytest.mark.parametrize(
    "name, said",
    [
        (None, "the toy task's seed model"),
        ("org/name", "org/name"),
        ("/srv/models/llama", "llama"),
        ("./models/llama", "llama"),
        ("llama", "llama"),
    ],
)
def test_what_a_seed_model_is_called(name: str | None, said: str) -> None:
    assert get_public_model_name(name) == said


def test_a_table_keeps_its_cells() -> None:
    written = write_model_card(
        experiment="mine",
        number=1,
        recipe=parse_recipe({"name": "mine"}, origin="a test"),
        seed=7,
        lineage=Lineage("a|b\nc", ["a" * 64, "b" * 64]),
        summaries=[],
    )
    assert "seed model: a\\|b c |" in written


def test_a_metric_without_a_value_is_left_out() -> None:
    """All rewards can be equal up to rounding."""
    training = {"margin": {"first": None, "last": None}, "loss": {"first": 0.7, "last": 0.5}}
    summary = SUMMARY | {"training": {"kept_step": 3, **training}}
    text = write_model_card(
        experiment="mine",
        number=1,
        recipe=parse_recipe({"name": "mine"}, origin="a test"),
        seed=7,
        lineage=Lineage("org/base", ["a" * 64, "b" * 64]),
        summaries=[summary],
    )
    assert "loss: 0.700 at the first, 0.500 at the last step" in text
    assert "margin" not in text
