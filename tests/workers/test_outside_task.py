"""A task of another package runs by every way of launching, without a change to the project."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.outside_task import RECIPE, write_outside_task
from tests.workers.installation import Installation, UseScript
from webapp.api.models import make_token
from webapp.experiment_form import recipe_fields
from webapp.experiments.models import Experiment, Iteration, Job
from workers.jobs import runner

pytestmark = pytest.mark.django_db


def forget_fields() -> None:
    """Choices are read once in a process."""
    for cached in (
        recipe_fields.get_field_sections,
        recipe_fields.get_recipe_fields,
        recipe_fields.list_installed_templates,
    ):
        cached.cache_clear()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = write_outside_task(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(folder))
    forget_fields()
    yield folder
    sys.modules.pop("outside_spelling", None)
    forget_fields()


@pytest.fixture
def recipe(installation: Installation, outside: Path, settings: Settings) -> Path:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    path = installation.root / "spell.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def operator(db: None) -> User:
    person = User.objects.create_user("olga")
    person.groups.set(Group.objects.filter(name="operator"))
    return person


def digests(installation: Installation, name: str) -> dict[str, str]:
    root = installation.artifacts / name
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def check_begun_with_own_parts(installation: Installation, outside: Path, name: str) -> None:
    begun = json.loads((installation.artifacts / name / "experiment.json").read_text())
    assert begun["seed_model"]["folder"] == str(outside / "outside_spelling" / "model")
    assert begun["templates"]["judge"].startswith("Judge how {response} answers")
    assert begun["templates"]["meta_judge"].startswith("Compare {judgment_a} and {judgment_b}")
    assert begun["templates"]["rubric"] == load_template("rubric").text
    pool = pq.read_table(installation.artifacts / name / "iteration-0/prompts/part-00000.parquet")
    texts = pool["text"].to_pylist()
    assert len(texts) == 64  # 8 prompts for each of 8 iterations; the task has 84
    assert all(text.startswith("Spell backwards: ") for text in texts)


def test_the_command_runs_it_and_its_ground_truth_measures_every_model(
    installation: Installation, outside: Path, recipe: Path
) -> None:
    installation.run("run_iteration", "--experiment", "cli", "--recipe", recipe)
    check_begun_with_own_parts(installation, outside, "cli")
    table = installation.artifacts / "cli/iteration-1/evaluation/part-00000.parquet"
    rows = [row for row in pq.read_table(table).to_pylist() if row["basis"] == "oracle"]
    assert [(row["model"], row["metric"], row["count"]) for row in rows] == [
        ("M0", "spelled_right", 12),
        ("M1", "spelled_right", 12),
    ]


REAL_ENGINE = (
    "--set", "engine.kind=transformers", "--set", "engine.dtype=float32",
    "--set", "training.dtype=float32", "--set", "actor.max_new_tokens=16",
    "--set", "judge.max_new_tokens=24", "--set", "meta_judge.max_new_tokens=24",
)  # fmt: skip


def test_its_own_model_passes_the_model_check_and_generates(
    installation: Installation, outside: Path, recipe: Path
) -> None:
    """It lies in the task's package, and cannot write judgments for the task's template."""
    own = outside / "outside_spelling/model"
    shutil.rmtree(own)
    shutil.copytree(get_shipped_seed_model(), own)
    words = ("--experiment", "real", "--recipe", recipe, *REAL_ENGINE)
    with pytest.raises(CommandError, match="of stage judge stopped the run"):
        installation.run("run_iteration", *words)
    check_begun_with_own_parts(installation, outside, "real")
    assert (installation.artifacts / "real/iteration-1/responses/part-00001.parquet").exists()


def test_a_lying_ground_truth_changes_nothing_but_the_evaluation(
    installation: Installation,
    recipe: Path,
    use_script: UseScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every word is answered backwards, so the truth says 1 and the lie says 0."""

    def spell(conversation: object, sample: int, seed: int) -> str:
        from meta_reward_core.engines.scripted import make_fake_reply

        asked = conversation[-1]["content"]  # type: ignore[index]
        plain = make_fake_reply(conversation, sample, seed)  # type: ignore[arg-type]
        return f"{asked.split()[-1][::-1]} {plain}" if asked.startswith("Spell") else plain

    use_script(spell)
    installation.run("run_iteration", "--experiment", "honest", "--recipe", recipe)
    monkeypatch.setenv("SPELLING_LIES", "1")
    installation.run("run_iteration", "--experiment", "lied", "--recipe", recipe)
    honest, lied = digests(installation, "honest"), digests(installation, "lied")
    names = {"experiment.json"}  # it holds the experiment's own name
    changed = {name for name in honest if honest[name] != lied[name]} - names
    assert changed == {
        "iteration-1/evaluation/part-00000.parquet",
        "iteration-1/manifests/evaluate-00000.json",
        "iteration-1/manifest.json",
    }


def launch_by_form(person: User) -> None:
    client = Client()
    client.force_login(person)
    shown = client.post("/experiments/new", {"base_text": RECIPE})
    page = shown.content.decode()
    assert "the prompts of " in page
    assert "the base model of " in page
    given = {
        "base_text": RECIPE,
        "name": "mine",
        "until": "1",
        "seed": "1",
        "model_from": "recipe",
        "prompts_from": "world",
        "action": "launch",
    }
    answer = client.post("/experiments/new", given)
    assert answer.status_code == 302, answer.content.decode()


def launch_by_api(person: User) -> None:
    token = make_token(person, name="test", expires=None)[1]
    answer = Client().post(
        "/api/v1/experiments",
        data=json.dumps({"name": "mine", "recipe_text": RECIPE, "until": 1}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 202, answer.content.decode()


@pytest.mark.parametrize("launch", [launch_by_form, launch_by_api])
def test_the_form_and_the_api_begin_it(
    installation: Installation, outside: Path, recipe: Path, operator: User, launch: object
) -> None:
    launch(operator)  # type: ignore[operator]
    job = Job.objects.get()
    assert runner.run_job(job, runner.SLOW_HANDLERS)
    job.refresh_from_db()
    assert (job.status, job.message) == ("done", "")
    assert Experiment.objects.get().recipe["world"] == "spelling"
    assert Iteration.objects.get().status == "running"
    check_begun_with_own_parts(installation, outside, "mine")


def test_the_form_offers_the_task_and_its_templates(outside: Path) -> None:
    fields = recipe_fields.get_recipe_fields()
    assert fields["task"].choices == ("none", "toy", "spelling")
    assert "spelling_judge" in fields["judge.template"].choices
    assert "spelling_judge" not in fields["meta_judge.template"].choices
    assert "spelling_meta_judge" in fields["meta_judge.template"].choices


def test_an_experiment_whose_task_was_uninstalled_is_shown_and_not_duplicated_blindly(
    installation: Installation, recipe: Path, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.run("run_iteration", "--experiment", "cli", "--recipe", recipe)
    monkeypatch.setattr(
        sys, "path", [one for one in sys.path if "site-packages" not in one or "python3" in one]
    )
    forget_fields()
    client = Client()
    client.force_login(operator)
    assert client.get("/experiments/cli").status_code == 200
    assert client.get("/experiments/cli/duplicate").status_code == 200
