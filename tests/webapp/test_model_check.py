"""The model check in the form and in the API: files at once, the rest by a job."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from meta_reward_core.models.check.result import Check, CheckReport, Level
from tests.model_files import edit_json
from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import (
    HTMX,
    NEW,
    filled,
    launch,
    make_model,
    storage_roots,
)
from tests.webapp.test_api import program_of
from webapp.experiments.models import Job, JobKind

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]

MINE = {"model_from": "folder", "model_folder": "mine"}


@pytest.fixture
def model(storage_roots: Path) -> Path:
    return make_model(storage_roots / "models" / "mine")


def text(answer: Any) -> str:
    return str(answer.content.decode())


def quantise(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq"})


def point_to_lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def finish(job: Job, *checks: Check) -> None:
    outcome = CheckReport("mine", checks).to_json()
    Job.objects.filter(pk=job.pk).update(status="done", outcome=outcome)


def test_what_files_tell_is_shown_while_the_form_is_filled_in(client: Client, model: Path) -> None:
    region = text(client.post(NEW, filled(**MINE), headers=HTMX))
    assert '<li class="level-green"><b>Weights files<' in region
    assert "Only the files have been checked" in region
    assert not Job.objects.exists()


def test_an_unusable_model_is_an_error_of_its_field(client: Client, model: Path) -> None:
    quantise(model)
    region = text(client.post(NEW, filled(**MINE), headers=HTMX))
    assert '<li class="level-red"><b>Weight format<' in region
    assert 'id="note-model_folder" hx-swap-oob="true"><strong class="wrong">config.json' in region
    launch(client, **MINE)
    assert not Job.objects.exists()


def test_a_folder_that_cannot_be_chosen_says_why(client: Client, model: Path) -> None:
    point_to_lfs(model)
    region = text(client.post(NEW, filled(**MINE), headers=HTMX))
    assert "mine/model.safetensors is a Git LFS pointer" in region
    assert "run `git lfs pull`" in region


def test_the_check_button_asks_for_the_whole_check_once(
    client: Client, model: Path, alice: User
) -> None:
    page = text(client.post(NEW, filled(action="check", **MINE)))
    job = Job.objects.get()
    assert (job.kind, job.created_by, job.experiment_name) == (JobKind.CHECK_MODEL, alice, "mine")
    assert f'hx-get="/experiments/new/checks/{job.pk}" hx-trigger="every 1s"' in page
    client.post(NEW, filled(action="check", **MINE))
    assert Job.objects.count() == 1
    edit_json(model / "config.json", note=1)
    client.post(NEW, filled(action="check", **MINE))
    assert Job.objects.count() == 2, "a changed folder is checked again"


def test_the_results_replace_what_files_tell(client: Client, model: Path) -> None:
    client.post(NEW, filled(action="check", **MINE))
    job = Job.objects.get()
    running = text(client.get(f"/experiments/new/checks/{job.pk}", headers=HTMX))
    assert "hx-get" in running
    note = Check("dtype", "Number format", Level.AMBER, "saved in float32")
    finish(job, Check("keys", "Parameters", Level.GREEN, "complete"), note)
    done = text(client.get(f"/experiments/new/checks/{job.pk}", headers=HTMX))
    assert "hx-get" not in done
    assert done.index("Number format") < done.index("Parameters"), "what needs attention first"
    region = text(client.post(NEW, filled(**MINE), headers=HTMX))
    assert '<li class="level-amber"><b>Number format<' in region
    other = text(client.post(NEW, filled(**MINE, **{"recipe.actor.samples": "3"}), headers=HTMX))
    assert "Number format<" in other
    assert "saved in float32" not in other, "of other values nothing is known yet"


def test_a_red_result_keeps_the_form_from_launching(client: Client, model: Path) -> None:
    client.post(NEW, filled(action="check", **MINE))
    finish(Job.objects.get(), Check("keys", "Parameters", Level.RED, "lacks", "get it", "a.bin"))
    launch(client, **MINE)
    assert not Job.objects.filter(kind=JobKind.LAUNCH).exists()
    assert "a.bin: lacks; get it." in text(client.post(NEW, filled(**MINE), headers=HTMX))


def test_a_check_that_failed_says_why_and_may_be_asked_for_again(
    client: Client, model: Path
) -> None:
    client.post(NEW, filled(action="check", **MINE))
    Job.objects.update(status="refused", message="no worker has the libraries")
    page = text(client.get(f"/experiments/new/checks/{Job.objects.get().pk}"))
    assert "The model could not be checked: no worker has the libraries" in page
    client.post(NEW, filled(action="check", **MINE))
    assert Job.objects.count() == 2


def test_the_check_of_somebody_else_is_not_there(client: Client, model: Path) -> None:
    client.post(NEW, filled(action="check", **MINE))
    Job.objects.update(created_by=make_person("bob", "operator"))
    assert client.get(f"/experiments/new/checks/{Job.objects.get().pk}").status_code == 404


def test_each_user_requests_a_check_that_they_can_follow(alice: User, model: Path) -> None:
    bob = make_person("bob", "operator")
    asked: dict[str, set[str]] = {}
    for user in (alice, bob, alice):
        program = program_of(user)
        answer = program.ask("POST", "/models/check", {"model": FOLDER})[1]
        assert answer["created_by"] == user.username
        assert program.ask("GET", f"/jobs/{answer['id']}")[0] == 200
        asked.setdefault(user.username, set()).add(answer["id"])
    assert [len(ids) for ids in asked.values()] == [1, 1]


def test_the_toys_own_model_needs_no_check(client: Client) -> None:
    page = text(client.post(NEW, filled(action="check")))
    assert "Model check" not in page
    assert not Job.objects.exists()


FOLDER = {"source": "folder", "name": "mine"}


def test_a_program_asks_for_a_check_and_reads_the_report(alice: User, model: Path) -> None:
    program = program_of(alice)
    status, answer = program.ask("POST", "/models/check", {"model": FOLDER})
    assert (status, answer["kind"], answer["status"]) == (202, "check_model", "waiting")
    finish(Job.objects.get(), Check("keys", "Parameters", Level.GREEN, "complete"))
    done = program.ask("GET", f"/jobs/{answer['id']}")[1]
    assert (done["status"], done["outcome"]["level"]) == ("done", "green")
    assert done["outcome"]["checks"][0]["title"] == "Parameters"


def test_a_program_names_recipe_values_and_prompts(alice: User, model: Path) -> None:
    payload = {"model": FOLDER, "recipe": "miniature", "values": {"training.max_length": 99},
            "prompts": ["one", "two"]}  # fmt: skip
    assert program_of(alice).ask("POST", "/models/check", payload)[0] == 202
    kept = Job.objects.get().payload
    assert (kept["recipe"]["name"], kept["recipe"]["training"]["max_length"]) == ("miniature", 99)
    assert kept["prompts"].endswith(".jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"source": "folder", "name": "../etc"}}, "folder '../etc' not found"),
        ({"model": {"source": "folder", "name": "/etc"}}, "folder '/etc' not found"),
        ({"model": {"source": "hub", "name": "no id"}}, "use an id such as org/name"),
        ({"recipe": "nothing"}, "'nothing' is not a built-in recipe"),
        ({"values": {"training.max_length": 1}}, "training.max_length: "),
        (
            {"values": {"training.longest": 1}},
            "training.longest: Unknown recipe value",
        ),
        ({"values": {"judge.template": "/etc/passwd"}}, "judge.template"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    alice: User, model: Path, change: dict[str, Any], words: str
) -> None:
    status, answer = program_of(alice).ask("POST", "/models/check", {"model": FOLDER} | change)
    assert status == 422
    assert words in str(answer["detail"])
    assert not Job.objects.exists()


def test_who_may_not_start_experiments_may_not_ask(model: Path) -> None:
    somebody = program_of(make_person("vera", "viewer"))
    assert somebody.ask("POST", "/models/check", {"model": FOLDER})[0] == 403


def test_a_launch_through_the_api_is_refused_by_one_sentence(alice: User, model: Path) -> None:
    payload = {"name": "first", "recipe": "smoke", "model": FOLDER}
    for damage, words in ((quantise, "the weights are quantised (GPTQ)"),
                          (point_to_lfs, "is a Git LFS pointer")):  # fmt: skip
        damage(model)
        status, answer = program_of(alice).ask("POST", "/experiments", payload)
        assert (status, words in answer["detail"]) == (422, True), answer
        assert "\n" not in answer["detail"]
    assert not Job.objects.exists()
