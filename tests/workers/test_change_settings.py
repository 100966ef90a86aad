"""Settings of an experiment are changed by a command, on a page and through the API: one rule."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client
from django.urls import reverse

from meta_reward_core.errors import ExperimentBusyError, TrainingError
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.settings_change import SettingsRequest
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.run_loader import read_run
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation, UseScript
from webapp.dashboard.activity_log import LogFilter, iter_entries
from webapp.experiment_form.change_settings import plan_change
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import (
    Attempt,
    Experiment,
    Iteration,
    Job,
    JobStatus,
    RunStatus,
    Shard,
    ShardStatus,
    Stage,
    StageStatus,
)
from workers.jobs.runner import QUICK_HANDLERS, SLOW_HANDLERS, run_waiting_jobs
from workers.pipeline.change_settings import change_settings
from workers.pipeline.control import request_cancel
from workers.pipeline.open_experiment import open_row
from workers.pipeline.read_experiment import read_recipe

WORKED = ("sample", "generate", "judge", "pair_actor", "meta_judge", "pair_judge")


@pytest.fixture
def stopped(
    installation: Installation, use_script: UseScript, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """Everything was drawn, and the training failed because its limit was too small."""
    trained = sys.modules["meta_reward_core.training.dpo"].train_dpo

    def train_dpo(rows: object, *, settings: object, **more: object) -> SimpleNamespace:
        if settings.max_length < 64:  # type: ignore[attr-defined]
            raise TrainingError("every row is longer than max_length")
        return trained(rows, settings=settings, **more)  # type: ignore[no-any-return]

    fake = SimpleNamespace(train_dpo=train_dpo)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.dpo", fake)
    with pytest.raises(CommandError, match="longer than max_length"):
        installation.run_iteration("--set", "training.max_length=16")
    return installation


@pytest.fixture
def alice(stopped: Installation) -> User:
    alice = make_person("alice", "operator")
    Experiment.objects.update(owner=alice)
    return alice


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def recipe() -> Recipe:
    return parse_stored_recipe(Experiment.objects.get().recipe, origin="mine")


def count_attempts() -> dict[str, int]:
    """How often shards of each stage were tried."""
    names = Attempt.objects.values_list("shard__stage__name", flat=True)
    return {name: list(names).count(name) for name in names}


def test_a_command_changes_what_nothing_depends_on_and_draws_nothing_again(
    stopped: Installation,
) -> None:
    before = count_attempts()
    said = stopped.run("run_iteration", "--experiment", "mine", "--set", "training.max_length=4096")
    assert "training.max_length: 16 -> 4096" in said
    assert Iteration.objects.get().status == RunStatus.FINISHED
    assert recipe().training.max_length == 4096
    after = count_attempts()
    assert {name: after[name] for name in WORKED} == {name: before[name] for name in WORKED}
    assert after["train"] == before["train"] + 1


def test_a_change_by_a_command_is_in_the_activity_log(stopped: Installation) -> None:
    stopped.run("run_iteration", "--experiment", "mine", "--set", "training.max_length=4096")
    job = Job.objects.get(kind="settings")
    assert (job.status, job.outcome["from_iteration"]) == (JobStatus.DONE, 1)
    admin = make_person("root", "admin")
    (entry,) = (one for one in iter_entries(admin, LogFilter()) if one.what == "change settings")
    assert entry.who.startswith("a command of ")
    assert "training.max_length: 16 → 4096; from iteration 1" in entry.details


def test_a_decision_is_asked_for_before_anything_is_made_again(stopped: Installation) -> None:
    with pytest.raises(CommandError, match="--apply-changes now"):
        stopped.run("run_iteration", "--experiment", "mine", "--set", "judge.samples=3")
    assert recipe().judge.samples == 5
    assert not Job.objects.filter(kind="settings").exists()


def test_what_is_made_again_waits_in_the_rows(stopped: Installation) -> None:
    row = Experiment.objects.get()
    plan = plan_change(row, SettingsRequest(values={"judge.samples": 3}, apply="now"))
    assert plan is not None
    change_settings(row, open_experiment_files(row), plan)
    status = dict(Stage.objects.values_list("name", "status"))
    kept = [name for name in WORKED if status[name] == StageStatus.FINISHED]
    assert kept == ["sample", "generate"]
    assert Shard.objects.filter(stage__name="judge", status=ShardStatus.WAITING).count() == 2
    before = count_attempts()
    stopped.run("run_iteration", "--experiment", "mine", "--set", "training.max_length=4096")
    assert Iteration.objects.get().status == RunStatus.FINISHED
    after = count_attempts()
    assert after["generate"] == before["generate"]
    assert after["judge"] == before["judge"] + 2


def test_nothing_changes_under_a_worker_that_makes_it(stopped: Installation) -> None:
    row = Experiment.objects.get()
    Iteration.objects.update(status=RunStatus.RUNNING, driver="workers")
    plan = plan_change(row, SettingsRequest(values={"training.max_length": 4096}))
    assert plan is not None
    token = "00000000-0000-0000-0000-000000000001"
    Shard.objects.filter(stage__name="train").update(status=ShardStatus.RUNNING, token=token)
    with pytest.raises(ExperimentBusyError, match="pause the iteration first"):
        change_settings(row, open_experiment_files(row), plan)
    Shard.objects.filter(stage__name="train").update(status=ShardStatus.WAITING, token=None)
    change_settings(row, open_experiment_files(row), plan)
    assert recipe().training.max_length == 4096


def fill(page: str, **changed: str) -> dict[str, str]:
    """What a browser sends of the page's form, with some fields changed."""
    fields = dict(re.findall(r'<input id="[^"]*" name="(recipe\.[^"]*)" value="([^"]*)"', page))
    fields |= {f"recipe.{key.replace('__', '.')}": value for key, value in changed.items()}
    return fields


def test_the_page_shows_what_a_change_does_before_it_is_requested(
    browser: Client, stopped: Installation
) -> None:
    address = reverse("settings", args=["mine"])
    page = browser.get(address).content.decode()
    assert 'name="recipe.training.max_length" value="16"' in page
    assert 'name="recipe.judge.template"' not in page, "it cannot change"
    checked = browser.post(address, fill(page, judge__samples="3") | {"action": "check"})
    text = checked.content.decode()
    assert "Results of iteration 1 depend on this" in text
    assert "judge (2 shards)" in text
    assert "Keep them and use the new values from iteration 2" in text
    assert not Job.objects.filter(kind="settings").exists()
    wrong = browser.post(address, fill(page, judge__samples="many") | {"action": "apply"})
    assert "judge.samples" in wrong.content.decode()
    assert not Job.objects.filter(kind="settings").exists()


def test_a_change_on_the_page_is_a_job_that_draws_nothing_again(
    browser: Client, alice: User, stopped: Installation
) -> None:
    address = reverse("settings", args=["mine"])
    form = fill(browser.get(address).content.decode(), training__max_length="4096")
    answer = browser.post(address, form | {"action": "apply"})
    assert answer.headers["Location"] == reverse("experiment", args=["mine"])
    again = browser.post(address, form | {"action": "apply"}, follow=True)
    assert "already pending" in again.content.decode()
    assert run_waiting_jobs(QUICK_HANDLERS) == 1
    job = Job.objects.get(kind="settings")
    assert (job.status, job.created_by) == (JobStatus.DONE, alice)
    assert recipe().training.max_length == 4096
    before = count_attempts()
    stopped.run("run_iteration", "--experiment", "mine")
    assert count_attempts() == before | {"train": before["train"] + 1, "evaluate": 1}
    for address in (reverse("activity"), reverse("experiment", args=["mine"])):
        assert "training.max_length: 16 → 4096" in browser.get(address).content.decode()


def test_an_address_fills_in_a_value_and_changes_nothing(
    browser: Client, stopped: Installation
) -> None:
    page = browser.get(reverse("settings", args=["mine"]) + "?recipe.training.max_length=4096")
    html = page.content.decode()
    assert '<th scope="row">training.max_length</th><td>16</td><td>4096</td>' in html
    assert 'value="retry">Apply and retry</button>' in html
    assert not Job.objects.filter(kind="settings").exists()


def test_a_change_that_is_refused_by_now_says_why(browser: Client, stopped: Installation) -> None:
    """Somebody has changed the same setting between the page and the job."""
    address = reverse("settings", args=["mine"])
    form = fill(browser.get(address).content.decode(), judge__samples="3")
    browser.post(address, form | {"action": "apply", "apply": "now"})
    stopped.artifacts.rename(stopped.root / "elsewhere")
    run_waiting_jobs(QUICK_HANDLERS)
    job = Job.objects.get(kind="settings")
    assert job.status == JobStatus.REFUSED
    assert "are missing" in job.message


def ask(client: Client, body: object) -> tuple[int, object]:
    answer = client.patch(
        "/api/v1/experiments/mine/settings",
        data=json.dumps(body),
        content_type="application/json",
    )
    return answer.status_code, answer.json()


def test_the_api_says_what_a_change_does_and_requests_it(
    browser: Client, stopped: Installation
) -> None:
    status, plan = ask(browser, {"values": {"judge.samples": 3}, "dry_run": True})
    assert status == 200
    assert plan == {
        "from_iteration": 1,
        "values": [{"key": "judge.samples", "before": 5, "after": 3}],
        "made_again": [
            {"stage": "judge", "shards": 2},
            {"stage": "pair_actor", "shards": 1},
            {"stage": "meta_judge", "shards": 2},
            {"stage": "pair_judge", "shards": 1},
        ],
        "why_later": "",
    }
    status, problem = ask(browser, {"values": {"judge.samples": 3}})
    assert status == 422
    assert "judge (2 shards)" in str(problem)
    status, _ = ask(browser, {"values": {"judge.samples": 3}, "apply": "next"})
    assert status == 202
    assert run_waiting_jobs(QUICK_HANDLERS) == 1
    listed = browser.get("/api/v1/experiments/mine/settings").json()
    assert listed == [
        {
            "number": 1,
            "from_iteration": 2,
            "values": [{"key": "judge.samples", "before": 5, "after": 3}],
        }
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"values": {"judge.sample": 3}}, "judge.sample"),
        ({"values": {"judge.samples": 0}}, "judge.samples"),
        ({"values": {"model": "other"}}, "M0 is the base model"),
        ({"values": {}}, "values"),
        ({"values": {"judge.samples": 3}, "apply": "later"}, "apply"),
        ({"values": {"judge.samples=3\nmodel": 3}}, "judge.samples=3"),
    ],
)
def test_the_api_refuses_what_cannot_change(
    browser: Client, body: dict[str, object], said: str
) -> None:
    status, problem = ask(browser, body)
    assert status == 422
    assert said in str(problem)
    assert not Job.objects.filter(kind="settings").exists()


def test_only_who_may_control_an_experiment_changes_its_settings(stopped: Installation) -> None:
    Experiment.objects.update(owner=make_person("alice", "operator"))
    other = Client()
    other.force_login(make_person("bob", "operator"))
    assert other.get(reverse("settings", args=["mine"])).status_code in {403, 404}
    assert ask(other, {"values": {"training.epochs": 3}})[0] in {403, 404}


def test_a_report_reads_each_iteration_under_its_own_settings(stopped: Installation) -> None:
    change = ("--set", "training.max_length=4096", "--set", "training.sft_weight=0.5")
    stopped.run("run_iteration", "--experiment", "mine", *change)
    stopped.run("run_iteration", "--experiment", "mine", "--set", "training.epochs=3")
    store = ArtifactStore(str(stopped.artifacts))
    epochs = [read_recipe(store, "mine", number).training.epochs for number in (1, 2)]
    assert epochs == [10, 3]
    run = read_run(ExperimentFiles(store, "mine"))
    assert run.recipe == recipe() == read_recipe(store, "mine")
    assert run.recipe_sha256 == recipe().sha256 != Experiment.objects.get().recipe_sha256
    assert "training" in stopped.run("show_iteration", "--experiment", "mine", "--iteration", 1)


def list_finished(name: str) -> set[str]:
    """Stages of the first iteration whose first shard counts, from files alone."""
    context = open_row(Experiment.objects.get(name=name)).build_context(1)
    return {stage.name for stage in STAGES if stage.find_finished_shard(context, 0)}


def test_a_fork_keeps_pairs_and_trains_with_other_values(
    browser: Client, alice: User, stopped: Installation
) -> None:
    address = reverse("fork", args=["mine"])
    points = browser.get(address).content.decode()
    assert re.findall(r"\?from=([^\"]+)", points)[0] == "1%3Apair_judge"
    page = browser.get(f"{address}?from=1:pair_judge").content.decode()
    assert 'name="recipe.training.max_length" value="16"' in page
    assert 'name="recipe.judge.samples"' not in page, "kept judgments depend on it"
    form = {"from": "1:pair_judge", "name": "trained", "until": "1", "action": "fork"}
    wrong = browser.post(address, form | {"recipe.judge.samples": "2", "name": "mine"})
    text = wrong.content.decode()
    assert "depends on judge.samples and must be kept" in text
    assert "An experiment with this name exists" in text
    answer = browser.post(address, form | {"recipe.training.max_length": "4096"})
    job = Job.objects.get(kind="fork")
    assert answer.headers["Location"] == reverse("job", args=[job.pk])
    assert "training.max_length=4096" in browser.get(answer.headers["Location"]).content.decode()
    before = count_attempts()
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    job.refresh_from_db()
    assert (job.status, job.message) == ("done", "")
    assert browser.get(answer.headers["Location"]).headers["Location"] == reverse(
        "experiment", args=["trained"]
    )
    fork = Experiment.objects.get(name="trained")
    assert (fork.owner, fork.seed) == (alice, Experiment.objects.get(name="mine").seed)
    assert list_finished("trained") == set(WORKED)
    origin = stopped.artifacts / "mine" / "iteration-1" / "judgments" / "part-00000.parquet"
    kept = stopped.artifacts / "trained" / "iteration-1" / "judgments" / "part-00000.parquet"
    assert kept.read_bytes() == origin.read_bytes()
    request_cancel(fork)
    stopped.run("run_iteration", "--experiment", "trained")
    assert count_attempts() == before | {"train": before["train"] + 1, "evaluate": 1}
    assert fork.iterations.get().status == RunStatus.FINISHED
    assert recipe_of("mine").training.max_length == 16
    page = browser.get(reverse("fork", args=["trained"])).content.decode()
    assert '?from=2%3A">M1</a>' in page, "the next iteration begins with M1"


def recipe_of(name: str) -> Recipe:
    return parse_stored_recipe(Experiment.objects.get(name=name).recipe, origin=name)


def test_a_fork_keeps_judgments_and_pairs_them_anew(browser: Client, stopped: Installation) -> None:
    address = reverse("fork", args=["mine"])
    form = {"from": "1:judge", "name": "paired", "until": "1", "action": "fork"}
    browser.post(address, form | {"recipe.pairing.rho": "0.9"})
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    assert Job.objects.get(kind="fork").status == "done", Job.objects.get(kind="fork").message
    finished = list_finished("paired")
    assert {"sample", "generate", "judge"} <= finished
    assert "train" not in finished
    files = stopped.artifacts / "paired" / "iteration-1"
    assert not (files / "actor_pairs").exists() or "pair_actor" in finished
    assert Job.objects.filter(kind="fork", experiment__name="paired").exists()


def test_a_failed_iteration_is_retried_with_changes(browser: Client, stopped: Installation) -> None:
    address = reverse("settings", args=["mine"])
    form = fill(browser.get(address).content.decode(), training__max_length="4096")
    assert "Apply and retry" in browser.post(address, form | {"action": "check"}).content.decode()
    browser.post(address, form | {"action": "retry"})
    assert run_waiting_jobs(QUICK_HANDLERS) == 2
    assert {job.status for job in Job.objects.all()} == {"done"}
    iteration = Iteration.objects.get()
    assert (iteration.status, iteration.driver) == (RunStatus.RUNNING, "workers")
    assert recipe().training.max_length == 4096


def ask_for_fork(client: Client, **body: object) -> tuple[int, object]:
    answer = client.post(
        "/api/v1/experiments/mine/fork", data=json.dumps(body), content_type="application/json"
    )
    return answer.status_code, answer.json()


def test_the_api_forks_an_experiment(browser: Client, alice: User, stopped: Installation) -> None:
    point = {"iteration": 1, "keep": "pair_judge"}
    changed = {"values": {"training.max_length": 4096}}
    status, job = ask_for_fork(browser, name="trained", **point, **changed)
    assert status == 202, job
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    fork = Experiment.objects.get(name="trained")
    assert (fork.owner, fork.target_iteration) == (alice, 1)
    assert list_finished("trained") == set(WORKED)
    assert recipe_of("trained").training.max_length == 4096
    assert recipe_of("mine").training.max_length == 16
    files = (stopped.artifacts / name / "iteration-1" for name in ("mine", "trained"))
    first, second = (one / "judgments" / "part-00000.parquet" for one in files)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "mine"}, "An experiment with this name exists"),
        ({"keep": "train"}, "not an iteration and stage to fork from"),
        ({"iteration": 3}, "has not completed the stages"),
        ({"values": {"judge.samples": 2}}, "depends on judge.samples and must be kept"),
        ({"values": {"judge.sample": 2}}, "judge.sample"),
        ({"name": "new experiment"}, "name"),
    ],
)
def test_the_api_refuses_a_fork_that_cannot_be_made(
    browser: Client, body: dict[str, object], said: str
) -> None:
    given = {"name": "trained", "iteration": 1, "keep": "pair_judge"} | body
    status, problem = ask_for_fork(browser, **given)
    assert status == 422
    assert said in str(problem)
    assert not Job.objects.filter(kind="fork").exists()


def test_a_command_forks_an_experiment(stopped: Installation) -> None:
    fork = ("--experiment", "trained", "--fork-of", "mine", "--fork-at", "1:pair_judge")
    changed = ("--set", "training.max_length=4096")
    before = count_attempts()
    plan = stopped.run("run_iteration", *fork, *changed, "--dry-run")
    assert "train" in plan
    assert "generate" not in plan, "kept stages cost nothing"
    assert not (stopped.artifacts / "trained").exists()
    stopped.run("run_iteration", *fork, *changed)
    row = Experiment.objects.get(name="trained")
    assert row.iterations.get().status == RunStatus.FINISHED
    assert count_attempts() == before | {"train": before["train"] + 1, "evaluate": 1}
    assert recipe_of("mine").training.max_length == 16
    stopped.run("run_iteration", *fork, "--iterations", "1")
    with pytest.raises(CommandError, match="is not a fork of 'trained'"):
        stopped.run("run_iteration", "--experiment", "mine", "--fork-of", "trained")
    with pytest.raises(CommandError, match="remove --recipe"):
        stopped.run("run_iteration", *fork[2:], "--experiment", "more", "--recipe", "smoke")
    with pytest.raises(CommandError, match="no experiment 'gone' to fork"):
        stopped.run("run_iteration", "--experiment", "more", "--fork-of", "gone")
