"""A recipe's limits against the prompts of each role and the rows of training, in tokens.

The arithmetic is that of `RoleLengths`: a prompt of p tokens shows at most i tokens of generated
text and gets a completion of at most c tokens.
"""

import pytest

from meta_reward_core.experiment import load_templates
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.planning.model_check.rows import (
    RoleLengths,
    check_prompts,
    check_rows,
    check_training_rows,
    measure_roles,
    select_prompts,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.tasks.registry import get_task_templates
from tests.core.tiny_model import make_tokenizer


def actor(*prompts: int, most_new: int = 50) -> RoleLengths:
    return RoleLengths("actor", prompts, 0, most_new, is_local=True, trains=True)


def judge(*prompts: int, most_inserted: int = 50, is_local: bool = True) -> RoleLengths:
    return RoleLengths("judge", prompts, most_inserted, 30, is_local=is_local, trains=True)


@pytest.mark.parametrize(
    ("role", "limit", "level", "message"),
    [
        (actor(40, 50), None, Level.GREEN, "up to 50 tokens"),
        (actor(40, 50), 100, Level.GREEN, "up to 50 tokens and a completion of 50"),
        (actor(40, 51), 100, Level.AMBER, "refuse 1 of 2 (50%) prompts of the actor"),
        (actor(51, 60), 100, Level.RED, "refuse all 2 prompts of the actor"),
        (judge(20), 100, Level.GREEN, "up to 70 tokens and a completion of 30"),
        (judge(21), 100, Level.AMBER, "101 tokens with the completion, but the model accepts 100"),
        (judge(71), 100, Level.RED, "refuse the only prompt of the judge"),
        (judge(71, is_local=False), 100, Level.GREEN, "up to 71 tokens"),
    ],
)
def test_prompts_that_leave_no_room_for_a_completion_are_counted(
    role: RoleLengths, limit: int | None, level: Level, message: str
) -> None:
    (found,) = check_prompts(role, limit)
    assert found.level is level
    assert message in found.message
    assert bool(found.remedy) == (level is not Level.GREEN)


@pytest.mark.parametrize(
    ("role", "max_length", "level", "message"),
    [
        (actor(40, 49), 100, Level.GREEN, "up to 99 of training.max_length (100) tokens"),
        (
            actor(40, 50),
            100,
            Level.AMBER,
            "training refuses the rows of 1 of 2 (50%) prompts if",
        ),
        (actor(50, 50), 50, Level.RED, "training refuses the rows of all 2 prompts"),
        (actor(*[10] * 8, 50), 50, Level.RED, "the rows of 1 of 9 (11%) prompts"),
        (actor(*[10] * 9, 50), 50, Level.AMBER, "of all 10 prompts"),
        (judge(20), 101, Level.GREEN, "up to 100 of"),
        (judge(20), 100, Level.AMBER, "texts of the greatest length: up to 100 tokens"),
    ],
)
def test_rows_that_training_would_refuse_are_counted(
    role: RoleLengths, max_length: int, level: Level, message: str
) -> None:
    (found,) = check_training_rows(role, max_length=max_length, max_refused_share=0.1, limit=None)
    assert found.level is level
    assert message in found.message
    assert found.remedy.startswith("set training.max_length to") == (level is not Level.GREEN)


def test_no_row_is_longer_than_what_an_engine_takes() -> None:
    role = actor(60, most_new=100)
    (found,) = check_training_rows(role, max_length=130, max_refused_share=0.1, limit=128)
    assert (found.level, found.message[:9]) == (Level.GREEN, "up to 128")


def test_a_role_that_is_not_trained_has_no_rows() -> None:
    role = RoleLengths("meta_judge", [10], 80, 30, is_local=True, trains=False)
    assert check_training_rows(role, max_length=20, max_refused_share=0.1, limit=None) == []


def check(recipe_name: str, *changes: str, prompts: tuple[str, ...] = ("one two",)) -> list[Check]:
    recipe = load_recipe(recipe_name, changes=changes)
    return check_rows(
        recipe,
        load_templates(recipe, get_task_templates(recipe.task)),
        make_tokenizer(),
        prompts,
        limit=8192,
    )


def test_the_papers_recipe_refuses_every_cut_off_response_and_says_so() -> None:
    """actor.max_new_tokens and training.max_length are 2,048 both."""
    found = {one.name: one for one in check("paper-llama3-8b")}
    assert found["rows.actor"].level is Level.AMBER
    assert "refuses the rows of the only prompt if" in found["rows.actor"].message
    assert "training.max_length is 2,048" in found["rows.actor"].message
    # 2 prompt words in <user> ... <eos> <assistant>: 5 tokens, and 2,048 of the response.
    assert found["rows.actor"].remedy.startswith("set training.max_length to 2,054")
    larger = {one.name: one for one in check("paper-llama3-8b", "training.max_length=8192")}
    assert larger["rows.actor"].level is Level.GREEN


def test_prompts_longer_than_a_row_stop_an_experiment() -> None:
    found = {one.name: one for one in check("miniature", prompts=("one " * 600,))}
    assert found["rows.actor"].level is Level.RED
    assert "longer than training.max_length (512 tokens)" in found["rows.actor"].message


def test_roles_are_those_of_the_recipe() -> None:
    def names(*changes: str) -> list[str]:
        recipe = load_recipe("miniature", changes=changes)
        roles = measure_roles(
            recipe,
            load_templates(recipe, get_task_templates(recipe.task)),
            make_tokenizer(),
            [],
        )
        return [role.role for role in roles]

    assert names() == ["actor", "judge", "meta_judge"]
    assert names("train_on=[[actor]]") == ["actor", "judge"]


def test_prompts_are_taken_evenly_from_a_large_pool() -> None:
    pool = [str(number) for number in range(10)]
    assert select_prompts(pool, count=4) == ["0", "2", "5", "7"]
    assert select_prompts(pool, count=20) == pool
