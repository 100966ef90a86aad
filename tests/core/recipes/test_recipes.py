"""Recipes: what is shipped is valid, what is wrong is said in one line each."""

from pathlib import Path

import pytest

from meta_reward_core.errors import RecipeError
from meta_reward_core.experiment import load_templates
from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from meta_reward_core.recipes.schema import Recipe, get_scheduled_value


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", list_shipped_recipes())
def test_every_shipped_recipe_is_valid_and_carries_its_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_the_papers_values_are_the_defaults() -> None:
    recipe = Recipe(name="paper")
    assert (recipe.sample.prompts, recipe.actor.samples, recipe.judge.samples) == (5000, 7, 11)
    assert (recipe.actor.temperature, recipe.actor.top_p) == (0.8, 0.95)
    assert [get_scheduled_value(recipe.pairing.rho, t) for t in (1, 2, 3, 4)] == [
        0,
        0.32,
        0.32,
        0.40,
    ]
    assert [recipe.trains_on("judge", t) for t in (1, 2, 3, 4)] == [True, True, False, False]
    assert all(recipe.trains_on("actor", t) for t in (1, 2, 3, 4))
    assert (recipe.training.learning_rate, recipe.training.beta) == (5e-6, 0.1)
    assert (recipe.training.batch_size, recipe.training.epochs) == (32, 10)


PAPERS = ("paper-llama3-8b", "paper-llama3-8b-neutral", "self-rewarding-llama3-8b")


@pytest.mark.parametrize("name", PAPERS)
def test_the_paper_recipes_choose_a_checkpoint_on_held_out_pairs(name: str) -> None:
    training = load_recipe(name).training
    assert (training.checkpoint_selection, training.validation_share) == (
        "highest_validation_accuracy",
        0.05,
    )


def test_the_neutral_recipe_is_the_papers_with_other_prompts() -> None:
    paper, neutral = (load_recipe(name).model_dump(mode="json") for name in PAPERS[:2])
    paper["judge"]["rubric"] = "neutral_rubric"
    paper["meta_judge"]["template"] = "neutral_meta_judge"
    named = {"name": neutral["name"], "description": neutral["description"]}
    assert paper | named == neutral
    assert (
        load_templates(load_recipe(PAPERS[1])).sha256
        != load_templates(load_recipe(PAPERS[0])).sha256
    )


def test_a_schedule_goes_on_with_its_last_value() -> None:
    assert [get_scheduled_value([1, 2], t) for t in (1, 2, 3)] == [1, 2, 2]
    assert get_scheduled_value(7, 5) == 7
    assert get_scheduled_value([2500, None], 4) is None


def test_a_recipe_extends_a_shipped_one_section_by_section(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", "extends: paper-llama3-8b\nname: mine\nactor: {samples: 3}\n")
    recipe = load_recipe(path)
    assert recipe.actor.samples == 3
    assert recipe.actor.max_new_tokens == load_recipe("paper-llama3-8b").actor.max_new_tokens


def test_a_recipe_extends_a_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "base", "name: base\nactor: {samples: 9}\n")
    path = write(tmp_path, "child", "extends: base.yaml\nname: child\n")
    assert load_recipe(path).actor.samples == 9


def test_words_lie_beside_the_recipe_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "kind.txt").write_text("Be kind.")
    words = "judge: {rubric: kind.txt, template: judge}\nmeta_judge: {template: elsewhere.txt}\n"
    base = write(tmp_path, "base", f"name: base\n{words}")
    child = tmp_path / "below"
    child.mkdir()
    for path in (base, write(child, "child", "extends: ../base.yaml\nname: child\n")):
        recipe = load_recipe(path)
        assert recipe.judge.rubric == str(tmp_path / "kind.txt")
        assert recipe.judge.template == "judge"
        assert recipe.meta_judge.template == "elsewhere.txt"


def test_changes_lie_on_top_and_are_yaml() -> None:
    recipe = load_recipe(
        "paper-llama3-8b", changes=["actor.samples=3", "pairing.rho=[0, 0.5]", "model=a/b"]
    )
    assert (recipe.actor.samples, recipe.pairing.rho, recipe.model) == (3, [0, 0.5], "a/b")


WRONG = {
    "an unknown key": ("name: x\nactor: {sample: 3}\n", "actor.sample: unknown key"),
    "an unknown section": ("name: x\nacter: {}\n", "acter: unknown key"),
    "an impossible value": ("name: x\nactor: {temperature: -1}\n", "actor.temperature"),
    "rho above one": ("name: x\npairing: {rho: [0, 1.5]}\n", "pairing.rho"),
    "an empty schedule": ("name: x\ntrain_on: []\n", "train_on"),
    "an unknown kind of pair": ("name: x\ntrain_on: [[critic]]\n", "train_on"),
    "a name that is a path": ("name: ../x\n", "name"),
    "no name": ("actor: {samples: 3}\n", "name"),
    "more valid judgments than judgments": (
        "name: x\njudge: {samples: 3, min_valid_judgments: 4}\n",
        "min_valid_judgments is 4",
    ),
    "a task that is no name": ("name: x\ntask: My task\n", "task"),
    "a key twice": ("name: x\nname: y\n", "has the key 'name' twice"),
    "no mapping": ("- 1\n", "must consist of `key: value` lines"),
    "broken YAML": ("name: [\n", "not readable YAML"),
    "a Python object": ("name: !!python/object/apply:os.system [ls]\n", "uses a YAML tag"),
}


@pytest.mark.parametrize("text, message", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_recipe_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, "wrong", text))
    assert message in str(error.value)


def test_a_circle_of_extends_is_refused_and_shown(tmp_path: Path) -> None:
    write(tmp_path, "a", "extends: b.yaml\nname: a\n")
    path = write(tmp_path, "b", "extends: a.yaml\nname: b\n")
    with pytest.raises(RecipeError, match=r"cycle: .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_recipe(path)


def test_an_unknown_recipe_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match="paper-llama3-8b"):
        load_recipe("paper-llama4")


@pytest.mark.parametrize("change", ["actor.samples", "=3", "actor.samples=[", "name.x=1"])
def test_a_change_that_cannot_be_read_is_refused(change: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe("paper-llama3-8b", changes=[change])


def test_the_hash_of_a_recipe_depends_on_every_value() -> None:
    one = Recipe(name="x")
    assert one.sha256 == Recipe(name="x").sha256
    assert one.sha256 != load_recipe("paper-llama3-8b").sha256
    assert one.sha256 != Recipe.model_validate({"name": "x", "actor": {"samples": 8}}).sha256
