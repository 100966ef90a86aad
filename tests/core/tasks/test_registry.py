"""How tasks are found, and what is said of one that does not fit."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_reward_core.errors import TaskError
from meta_reward_core.planning.base_model import find_base_model
from meta_reward_core.planning.experiment_request import compute_task_pool_size
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks import registry
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.outside_task import write_outside_task


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("outside_"):
            del sys.modules[name]


def test_a_task_of_another_package_is_listed_and_found(packages: Path) -> None:
    assert "spelling" not in registry.list_task_names()
    write_outside_task(packages / "one")
    sys.path.insert(0, str(packages / "one"))
    assert registry.list_task_names()[-1] == "spelling"
    task = registry.get_task("spelling")
    assert (task.title, task.version) == ("the spelling task", 3)
    assert task in registry.list_experiment_tasks()


BROKEN = {
    "raises at import": ("1 / 0", "cannot be imported from outside_odd:TASK (ZeroDivisionError"),
    "has no such attribute": ("OTHER = 1", "cannot be imported"),
    "is something else": ("TASK = 7", "is a int that lacks attributes"),
    "has another name": (
        "from meta_reward_core.tasks.protocol import TaskDefinition\n"
        "TASK = TaskDefinition(name='even', title='x')",
        "a task named 'even'",
    ),
    "takes a template's name": (
        "from meta_reward_core.tasks.protocol import TaskDefinition\n"
        "TASK = TaskDefinition(name='odd', title='x', templates={'judge': 'x'})",
        "has a template 'judge'",
    ),
    "has a template without a role": (
        "from meta_reward_core.tasks.protocol import TaskDefinition\n"
        "TASK = TaskDefinition(name='odd', title='x', templates={'odd': 'x'})",
        "has a template 'odd'",
    ),
}


@pytest.mark.parametrize("module, words", BROKEN.values(), ids=BROKEN)
def test_a_package_that_does_not_fit_is_named_and_hides_no_other_task(
    packages: Path, module: str, words: str
) -> None:
    write_outside_task(packages / "one", module, name="odd")
    sys.path.insert(0, str(packages / "one"))
    with pytest.raises(TaskError, match="outside-odd") as caught:
        registry.get_task("odd")
    assert words in str(caught.value)
    assert "toy" in [task.name for task in registry.list_experiment_tasks()]


def test_two_packages_with_the_same_task_are_both_named(packages: Path) -> None:
    for name in ("one", "two"):
        write_outside_task(packages / name, name="odd")
        metadata = packages / name / "outside_odd-1.0.dist-info"
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: pack-{name}\nVersion: 1\n"
        )
        (metadata / "entry_points.txt").write_text(f"[meta_reward.tasks]\nodd = pack_{name}:TASK\n")
        metadata.rename(packages / name / f"pack_{name}-1.dist-info")
        sys.path.insert(0, str(packages / name))
    with pytest.raises(TaskError, match=r"declared by pack-(one and pack-two|two and pack-one)"):
        registry.get_task("odd")


def test_a_task_of_this_package_cannot_be_replaced(packages: Path) -> None:
    write_outside_task(packages / "one", name="toy")
    sys.path.insert(0, str(packages / "one"))
    with pytest.raises(TaskError, match="meta-reward and outside-toy"):
        registry.get_task("toy")


def test_a_recipe_whose_task_is_not_installed_is_refused_with_what_to_do() -> None:
    recipe = Recipe(name="x", task="nowhere")
    with pytest.raises(TaskError, match="task 'nowhere' not found: install the package"):
        compute_task_pool_size(recipe)


def test_a_pool_too_small_for_the_iterations_is_refused() -> None:
    recipe = load_recipe("miniature", changes=["sample.prompts=6000", "iterations=4"])
    with pytest.raises(Exception, match="needs 24,000 prompts"):
        compute_task_pool_size(recipe)


def test_the_toy_tasks_default_model_is_the_shipped_one(tmp_path: Path) -> None:
    roots = StorageRoots("unused", tmp_path / "models", tmp_path / "scratch")
    found = find_base_model(load_recipe("miniature"), roots)
    assert found is not None
    assert found.folder == get_shipped_seed_model()


def test_asking_the_toy_task_for_prompts_and_model_imports_no_model_library() -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from meta_reward_core.tasks.registry import get_task\n"
        "task = get_task('toy')\n"
        "task.prompts.sample(3), task.base_model.find(None, Path('/nowhere'))\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'vllm') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_responses_are_graded_where_the_recipe_measures_a_ground_truth() -> None:
    grader = registry.find_response_grader(load_recipe("smoke"))
    assert grader is not None
    prompt = "Translate to french : two black dogs eat bread"
    assert grader.grade_response(prompt, "deux noirs chats mangent pain") == 4
    without = load_recipe("smoke", changes=["evaluation.ground_truth=false"])
    assert registry.find_response_grader(without) is None
    assert registry.find_response_grader(load_recipe("paper-llama3-8b")) is None
    absent = Recipe.model_validate({"name": "x", "task": "not-installed"})
    assert registry.find_response_grader(absent) is None
