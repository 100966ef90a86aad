"""From an order to an experiment that the workers run; also when who opens it dies half-way."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django.fixtures import Settings

from meta_reward_core.experiment import open_experiment
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.hub_server import Hub
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation
from webapp.experiment_form.launch_request import dump_recipe, read_payload, write_payload
from webapp.experiment_form.uploads import store_prompts
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Iteration, Job, JobKind
from workers.jobs import create_experiment, runner

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice(db: None) -> User:
    return make_person("alice", "operator")


@pytest.fixture(autouse=True)
def _places(installation: Installation, settings: Settings) -> None:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")


def job_for(installation: Installation, person: User | None = None, **changes: Any) -> Job:
    lines = [f"question {number}?\n".encode() for number in range(20)]
    launch_request = {
        "name": "mine",
        "seed": 7,
        "until": 2,
        "recipe_text": dump_recipe(load_recipe(str(installation.recipe))),
        "prompts": store_prompts(lines, called="mine.txt").name,
        "prompts_called": "mine.txt",
        **changes,
    }
    written = write_payload(
        read_payload(launch_request), prompts_called=launch_request["prompts_called"]
    )
    return enqueue_job(
        JobKind.LAUNCH, by=person, experiment_name=launch_request["name"], payload=written
    )


def earlier_job_for(**changes: Any) -> Job:
    """A job as a version before the one request wrote it."""
    lines = [f"question {number}?\n".encode() for number in range(20)]
    stored = store_prompts(lines, called="mine.txt").name
    wish = {"name": "mine", "seed": 7, "until": 2, "recipe": "smoke", "prompts": stored, **changes}
    return enqueue_job(JobKind.LAUNCH, by=None, experiment_name="mine", payload=wish)


def carry_out(job: Job) -> Job:
    assert runner.run_job(job, runner.SLOW_HANDLERS)
    job.refresh_from_db()
    return job


def forget_that_it_was_carried_out(job: Job) -> None:
    """As if its keeper had died before it wrote the end: only what it noted before is left."""
    Job.objects.filter(pk=job.pk).update(
        status="waiting", token=None, finished=None, outcome={"opening": True}
    )
    job.refresh_from_db()


def test_an_order_becomes_an_experiment_that_workers_run(
    installation: Installation, alice: User
) -> None:
    job = job_for(installation, alice, is_private=True, changes=("actor.samples=3",))
    carry_out(job)
    assert (job.status, job.message) == ("done", "")
    row = Experiment.objects.get(name="mine")
    assert job.experiment == row
    assert (row.owner, row.is_private, row.seed, row.target_iteration) == (alice, True, 7, 2)
    assert row.recipe["actor"]["samples"] == 3
    iteration = row.iterations.get()
    assert (iteration.number, iteration.status, iteration.driver) == (1, "running", "workers")
    files = open_experiment(ArtifactStore(str(installation.artifacts)), "mine")
    assert files is not None
    assert files.get_files(0).read("prompts").num_rows == 20


def test_a_name_that_exists_is_refused(installation: Installation, alice: User) -> None:
    installation.run_iteration()
    job = carry_out(job_for(installation, alice))
    assert job.status == "refused"
    assert "already exists: choose another name" in job.message
    assert Experiment.objects.get().owner is None


def test_files_without_a_row_are_somebody_elses(installation: Installation, alice: User) -> None:
    installation.run_iteration()
    Experiment.objects.all().delete()
    job = carry_out(job_for(installation, alice))
    assert "already exists" in job.message
    assert not Experiment.objects.exists()


@pytest.mark.parametrize("step", ["_record_experiment", "submit_to_workers"])
def test_who_takes_it_up_again_goes_on_where_it_was_left(
    installation: Installation, alice: User, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    job = job_for(installation, alice)
    with monkeypatch.context() as patched:
        patched.setattr(create_experiment, step, die)
        with pytest.raises(KeyboardInterrupt):
            runner.run_job(job, runner.SLOW_HANDLERS)
    forget_that_it_was_carried_out(job)
    carry_out(job)
    assert (job.status, job.message) == ("done", "")
    row = Experiment.objects.get(name="mine")
    assert (row.owner, row.target_iteration, row.iterations.count()) == (alice, 2, 1)


def test_carried_out_twice_it_starts_nothing_again(installation: Installation, alice: User) -> None:
    job = carry_out(job_for(installation, alice))
    Iteration.objects.update(status="cancelled")
    Experiment.objects.update(target_iteration=0)
    forget_that_it_was_carried_out(job)
    carry_out(job)
    assert job.status == "done"
    assert Iteration.objects.get().status == "cancelled"
    assert Experiment.objects.get().target_iteration == 0


def test_the_second_of_two_orders_for_one_name_is_refused(
    installation: Installation, alice: User
) -> None:
    first, second = job_for(installation, alice), job_for(installation)
    carry_out(first)
    carry_out(second)
    assert (first.status, second.status) == ("done", "refused")
    assert Experiment.objects.get().owner == alice


def test_a_race_is_won_by_one_alone(installation: Installation, alice: User) -> None:
    """Both saw the name free before either began."""
    first, second = job_for(installation, alice), job_for(installation)
    Job.objects.update(outcome={"opening": True})
    carry_out(first)
    carry_out(second)
    assert second.status == "refused"
    assert Experiment.objects.get().owner == alice


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "../mine"}, "is not a valid experiment name"),
        ({"prompts": ""}, "has no task: provide your prompts"),
        ({"prompts": f"{'0' * 64}.txt"}, "no longer exists; upload it again"),
        ({"changes": ("sample.prompts=500",)}, "needs 500 prompts"),
        ({"changes": ('model="absent"',)}, "there is no model folder"),
        ({"changes": ('judge.template="/etc/passwd"',)}, "Choose one of: brief_judge, judge, "),
        (
            {"prompts": "", "same_prompts": True, "origin": "gone"},
            "was deleted or is no longer visible",
        ),
    ],
)
def test_what_cannot_be_begun_is_refused_and_leaves_nothing(
    installation: Installation, changes: dict[str, Any], reason: str
) -> None:
    job = carry_out(job_for(installation, **changes))
    assert job.status == "refused"
    assert reason in job.message
    assert not Experiment.objects.exists()
    assert not (installation.artifacts / "mine" / "experiment.json").exists()


def test_a_duplicate_begins_with_the_same_prompts(installation: Installation) -> None:
    lines = [b'{"prompt": "one", "topic": "x"}\n'] + [
        b'{"prompt": "p%d"}\n' % number for number in range(11)
    ]
    prompts = store_prompts(lines, called="p.jsonl").name
    carry_out(job_for(installation, name="first", prompts=prompts, until=1))
    same: dict[str, Any] = {"prompts": "", "origin": "first", "same_prompts": True}
    carry_out(job_for(installation, name="second", until=1, **same))
    store = ArtifactStore(str(installation.artifacts))
    pools = [open_experiment(store, name) for name in ("first", "second")]
    first, second = (pool.get_files(0).read("prompts") for pool in pools if pool is not None)
    assert first.num_rows == 12
    assert first.equals(second)


def test_what_was_left_out_of_the_prompts_is_said(installation: Installation) -> None:
    lines = [b'{"prompt": "one"}\n{"prompt": ""}\n{"prompt": "one"}\n'] + [
        b'{"prompt": "p%d"}\n' % number for number in range(9)
    ]
    prompts = store_prompts(lines, called="mine.jsonl").name
    given: dict[str, Any] = {"prompts": prompts, "prompts_called": "mine.jsonl"}
    assert "line 2: The prompt is empty." in carry_out(job_for(installation, None, **given)).message
    job = job_for(installation, None, name="other", **given, skip_bad_rows=True)
    assert carry_out(job).outcome["said"] == [
        "mine.jsonl: 1 duplicate(s) left out",
        "mine.jsonl: 1 row(s) skipped: line 2: The prompt is empty.",
    ]


def test_a_model_of_the_hub_is_fetched_while_the_order_says_how_far_it_is(
    installation: Installation, alice: User, hub: Hub
) -> None:
    commit = hub.add(
        "org/name", {file.name: file.read_bytes() for file in installation.model.iterdir()}
    )
    job = carry_out(job_for(installation, alice, changes=("model=org/name",)))
    assert (job.status, job.message) == ("done", "")
    assert f"fetching org/name@{commit}, 0 MB" in job.outcome["said"]
    row = Experiment.objects.get(name="mine")
    assert row.base_model_folder.endswith(f"/org/name@{commit}")


def test_what_the_hub_refuses_is_what_the_order_says(
    installation: Installation, alice: User, hub: Hub
) -> None:
    job = carry_out(job_for(installation, alice, changes=("model=org/none",)))
    assert job.status == "refused"
    assert f"{hub.address} has no model org/none" in job.message
    assert not Experiment.objects.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"prompts": "../recipe.yaml"}, "is not a stored prompt file"),
        ({"changes": ["actor.samples=1"]}, "greater than or equal to 2"),
        ({"changes": ["judge.top_points=9", "engine.kind=scripted"]}, ""),
    ],
)
def test_a_job_of_an_earlier_version_is_read(
    installation: Installation, changes: dict[str, Any], reason: str
) -> None:
    text = dump_recipe(load_recipe(str(installation.recipe)))
    job = carry_out(earlier_job_for(**({"recipe": "", "recipe_text": text} | changes)))
    assert (job.status, reason in job.message) == ("refused" if reason else "done", True)
