"""A name that is used again gives nobody what was made, published or requested under it before."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.evaluation.scorecard import Metric, Scorecard
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.reporting.scorecard_store import save_scorecard
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation, UseScript
from webapp.experiment_form.launch_request import dump_recipe, read_payload, write_payload
from webapp.experiment_form.uploads import store_prompts
from webapp.experiments.files import open_experiment_files
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Iteration, Job, JobKind
from workers.engine import process
from workers.jobs import create_experiment
from workers.jobs.runner import SLOW_HANDLERS, run_job, run_waiting_jobs
from workers.ops.prune import plan_experiment_deletion
from workers.pipeline.open_experiment import open_row
from workers.pipeline.sync_rows import record_experiment

pytestmark = pytest.mark.django_db

SECRET = "a question that only alice may read"


@pytest.fixture
def alice(db: None) -> User:
    return make_person("alice", "operator")


@pytest.fixture
def bob(db: None) -> User:
    return make_person("bob", "operator")


@pytest.fixture(autouse=True)
def _roots(installation: Installation, settings: Settings) -> None:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    settings.META_REWARD_PUBLISH_ROOT = str(installation.root / "published")


def request_launch(
    installation: Installation, person: User, name: str = "mine", **changes: Any
) -> Job:
    question = SECRET if person.username == "alice" else "a question of bob"
    lines = [f"{question} {number}\n".encode() for number in range(20)]
    given = {
        "name": name,
        "seed": 7,
        "until": 1,
        "recipe_text": dump_recipe(load_recipe(str(installation.recipe))),
        "prompts": store_prompts(lines, called="mine.txt").name,
        "prompts_called": "mine.txt",
        "is_private": True,
        **changes,
    }
    written = write_payload(
        read_payload(given), prompts_called="mine.txt", origin_uuid=given.get("origin_uuid", "")
    )
    return enqueue_job(JobKind.LAUNCH, by=person, experiment_name=name, payload=written)


def run(job: Job) -> Job:
    assert run_job(job, SLOW_HANDLERS)
    job.refresh_from_db()
    return job


def launch(
    installation: Installation, person: User, name: str = "mine", **changes: Any
) -> Experiment:
    job = run(request_launch(installation, person, name, **changes))
    assert (job.status, job.message) == ("done", "")
    Iteration.objects.filter(experiment__name=name).update(status="cancelled")
    return Experiment.objects.get(name=name)


def publish(row: Experiment, content: bytes, installation: Installation) -> None:
    """What a publication leaves: an archive in a folder of this experiment's, and its job."""
    folder = f"{row.name}-{row.uuid.hex}"
    home = installation.root / "published" / folder
    home.mkdir(parents=True)
    (home / "M1.tar").write_bytes(content)
    Job.objects.create(
        kind=JobKind.PUBLISH,
        experiment=row,
        experiment_uuid=row.uuid,
        experiment_name=row.name,
        status="done",
        payload={"number": 1},
        outcome={"folder": f"{folder}/M1", "archive": f"{folder}/M1.tar"},
    )


def sign_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def read_prompts(row: Experiment) -> str:
    return str(open_experiment_files(row).pool.read("prompts").to_pylist())


def replace_by(installation: Installation, person: User) -> Experiment:
    """Delete the experiment, and begin another one of its name."""
    plan_experiment_deletion("mine").carry_out()
    return launch(installation, person)


def test_an_archive_is_not_handed_to_the_next_experiment_of_the_name(
    installation: Installation, alice: User, bob: User
) -> None:
    page = "/experiments/mine/iterations/1/publish"
    first = launch(installation, alice)
    publish(first, b"weights of alice", installation)
    Iteration.objects.update(status="finished", model_out="c" * 64)
    assert sign_in(alice).get(f"{page}/archive").getvalue() == b"weights of alice"
    second = replace_by(installation, bob)
    assert second.uuid != first.uuid
    Iteration.objects.update(status="finished", model_out="c" * 64)
    client = sign_in(bob)
    assert client.get(f"{page}/archive").status_code == 404
    assert "M1.tar" not in client.get(page).content.decode()
    publish(second, b"weights of bob", installation)
    assert client.get(f"{page}/archive").getvalue() == b"weights of bob"


def test_an_archive_outside_the_root_of_publications_is_none(
    installation: Installation, alice: User
) -> None:
    row = launch(installation, alice)
    Iteration.objects.update(status="finished", model_out="c" * 64)
    (installation.root / "secret").write_bytes(b"secret")
    (installation.root / "published").mkdir()
    for path in ("../secret", str(installation.root / "secret"), "", "."):
        Job.objects.create(
            kind=JobKind.PUBLISH, experiment=row, experiment_name=row.name, status="done",
            payload={"number": 1}, outcome={"archive": path},
        )  # fmt: skip
    page = "/experiments/mine/iterations/1/publish/archive"
    assert sign_in(alice).get(page).status_code == 404


def test_a_duplicate_finds_its_origin_by_its_uuid(
    installation: Installation, alice: User, bob: User
) -> None:
    origin = launch(installation, bob)
    given = {"prompts": "", "same_prompts": True, "origin": "mine"}
    asked = [
        request_launch(installation, bob, name, origin_uuid=uuid, **given)
        for name, uuid in (("copy", str(origin.uuid)), ("older", ""))
    ]
    taken = replace_by(installation, alice)
    assert SECRET in read_prompts(taken)
    for job in map(run, asked):
        assert job.status == "refused"
        assert "was deleted or is no longer visible" in job.message
    assert not Experiment.objects.exclude(pk=taken.pk).exists()


def test_a_duplicate_follows_its_origin_to_another_name(
    installation: Installation, bob: User
) -> None:
    origin = launch(installation, bob)
    job = request_launch(
        installation, bob, "copy",
        prompts="", same_prompts=True, origin="earlier name", origin_uuid=str(origin.uuid),
    )  # fmt: skip
    assert (run(job).status, job.message) == ("done", "")
    assert read_prompts(Experiment.objects.get(name="copy")) == read_prompts(origin)


def test_the_form_records_which_experiment_is_duplicated(
    installation: Installation, alice: User, bob: User
) -> None:
    origin = launch(installation, bob, is_private=False)
    client = sign_in(bob)
    page = client.get("/experiments/mine/duplicate").content.decode()
    found = re.search(r'name="origin_uuid" value="([^"]*)"', page)
    assert found is not None
    assert found[1] == str(origin.uuid)
    given = {"origin": "mine", "origin_uuid": str(origin.uuid), "action": "begin"}
    assert client.post("/experiments/new", given).status_code == 200
    plan_experiment_deletion("mine").carry_out()
    launch(installation, alice, is_private=False)
    assert client.post("/experiments/new", given).status_code == 404


def request_deletion(client: Client, way: str, row: Experiment) -> None:
    match way:
        case "page":
            client.post(f"/experiments/{row.name}/delete", {"name": row.name})
        case "api":
            client.delete(f"/api/v1/experiments/{row.name}?confirm={row.name}")
        case "admin":
            client.post(f"/admin/experiments/experiment/{row.pk}/delete/", {"post": "yes"})
        case "list of the admin":
            chosen = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
            client.post("/admin/experiments/experiment/", chosen)


@pytest.mark.parametrize("way", ["page", "api", "admin", "list of the admin"])
def test_a_name_is_free_after_a_deletion(installation: Installation, bob: User, way: str) -> None:
    root = User.objects.create_superuser("root", password="x")
    first = launch(installation, root, is_private=False)
    client = sign_in(root)
    request_deletion(client, way, first)
    assert run_waiting_jobs(SLOW_HANDLERS) == 1
    assert not Experiment.objects.exists()
    assert launch(installation, bob).uuid != first.uuid


def test_a_deletion_that_was_requested_for_one_experiment_spares_the_next_of_its_name(
    installation: Installation, alice: User, bob: User
) -> None:
    first = launch(installation, alice)
    jobs = [enqueue_job(JobKind.DELETE, by=alice, experiment=first) for _ in range(2)]
    second = replace_by(installation, bob)
    for job in map(run, jobs):
        assert (job.status, "does not exist" in job.message) == ("refused", True)
    assert Experiment.objects.get() == second
    assert "bob" in read_prompts(second)


def test_a_deletion_that_was_stopped_is_finished_by_its_job(
    installation: Installation, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = launch(installation, alice)
    job = enqueue_job(JobKind.DELETE, by=alice, experiment=row)

    def die(files: ExperimentFiles) -> None:
        files.delete_leftovers()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ExperimentFiles, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            run_job(job, SLOW_HANDLERS)
    Job.objects.filter(pk=job.pk).update(status="waiting", token=None, lease_until=None)
    job = Job.objects.get(pk=job.pk)
    assert job.experiment is None
    assert run(job).status == "done"
    assert not (installation.artifacts / "mine").exists()


def test_what_an_experiment_left_is_not_part_of_the_next_of_its_name(
    installation: Installation, alice: User, bob: User
) -> None:
    launch(installation, alice)
    left = installation.artifacts / "mine" / "iteration-1" / "responses" / "part-00000.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(SECRET.encode())
    Experiment.objects.all().delete()
    (installation.artifacts / "mine" / "experiment.json").unlink()
    launch(installation, bob)
    kept = b"".join(
        path.read_bytes() for path in (installation.artifacts / "mine").rglob("*") if path.is_file()
    )
    assert SECRET.encode() not in kept


def put_files_of(installation: Installation, person: User) -> None:
    """Put files of another experiment where those of `mine` were, as a restore by hand may."""
    there = installation.artifacts / "mine"
    aside = installation.artifacts.parent / "aside"
    there.rename(aside)
    Experiment.objects.filter(name="mine").update(name="other")
    launch(installation, person)
    Experiment.objects.get(name="mine").delete()
    Experiment.objects.filter(name="other").update(name="mine")


def test_files_of_another_experiment_are_not_shown_as_those_of_the_row(
    installation: Installation, alice: User, bob: User
) -> None:
    row = launch(installation, bob, is_private=False)
    client = sign_in(bob)
    file = "/experiments/mine/files/experiment.json"
    assert b"a question of bob" not in client.get(file).getvalue()
    put_files_of(installation, alice)
    row.refresh_from_db()
    assert client.get(file).status_code == 404
    assert not open_experiment_files(row).exists()
    scored = Scorecard(SECRET, "m", None, "m", (Metric("win_rate", 31.25, 805),))
    save_scorecard(ArtifactStore(str(installation.artifacts)), "mine", 0, scored)
    for page in ("", "/files", "/iterations/1", "/evaluations"):
        answered = client.get(f"/experiments/mine{page}")
        assert answered.status_code == 200
        assert SECRET not in answered.content.decode()
    report = client.get("/reports", {"name": "mine"})
    assert report.status_code == 503
    assert SECRET not in report.content.decode()


def test_nothing_runs_on_the_files_of_another_experiment(
    installation: Installation, alice: User, bob: User
) -> None:
    row = launch(installation, bob)
    put_files_of(installation, alice)
    row.refresh_from_db()
    with pytest.raises(ArtifactError, match="another"):
        open_row(row)
    asked = {"artifact_root": str(installation.artifacts), "experiment": "mine"}
    assert process._open_experiment(asked | {"uuid": ""}).name == "mine"
    with pytest.raises(ArtifactError, match="another experiment with this name"):
        process._open_experiment(asked | {"uuid": str(row.uuid)})
    found = process._open_experiment(asked)
    with pytest.raises(InputError, match="another experiment with this name"):
        record_experiment(found, artifact_root=row.artifact_root)


def test_a_retried_launch_takes_no_files_that_it_did_not_write(
    installation: Installation, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = request_launch(installation, bob)

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(create_experiment, "open_or_create", die)
        with pytest.raises(KeyboardInterrupt):
            run_job(job, SLOW_HANDLERS)
    launch(installation, alice)
    Job.objects.filter(pk=job.pk).update(status="waiting", token=None, lease_until=None)
    job = Job.objects.get(pk=job.pk)
    assert run(job).status == "refused"
    assert "already exists" in job.message
    assert Experiment.objects.get().owner == alice


def test_scratch_of_a_deleted_experiment_is_not_that_of_the_next(
    installation: Installation, alice: User, bob: User
) -> None:
    root = Path("scratch")
    first = open_experiment_files(launch(installation, alice)).layout.get_scratch(root, 1)
    second = open_experiment_files(replace_by(installation, bob)).layout.get_scratch(root, 1)
    assert first != second
    assert first.parent != second.parent


def test_the_uuid_is_in_the_files_and_in_the_row_and_survives_a_command(
    installation: Installation, use_script: UseScript
) -> None:
    installation.run_iteration()
    row = Experiment.objects.get()
    files = ExperimentFiles(ArtifactStore(row.artifact_root), "mine")
    assert files.read_uuid() == row.uuid
    row.delete()
    installation.run_iteration()
    assert Experiment.objects.get().uuid == row.uuid
