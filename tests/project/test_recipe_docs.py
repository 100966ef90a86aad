"""docs/recipes.md is what the code says."""

from pathlib import Path

from meta_reward_core.recipes.reference import write_reference

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_the_reference_of_recipes_is_up_to_date() -> None:
    command = "python -m meta_reward_core.recipes.reference > docs/recipes.md"
    assert PAGE.read_text(encoding="utf-8") == write_reference(), f"run: {command}"


def test_every_value_is_explained() -> None:
    rows = [line.split(" | ") for line in write_reference().splitlines() if line.startswith("| `")]
    rows = [row for row in rows if len(row) > 2]
    assert len(rows) > 50
    assert all(row[4].strip() for row in rows)
