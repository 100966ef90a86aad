"""Publishing: a clean folder, the same as an archive, and a hub on this machine."""

import json
import shutil
import struct
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django.fixtures import Settings

from meta_reward_core.experiment import open_experiment
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.storage.shards import StageOutput
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.hub_server import Asked, Hub, failing
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation
from webapp.activity.models import Action, Activity
from webapp.dashboard.lineage import read_lineage
from webapp.experiments.models import Experiment, Job, JobKind
from webapp.paths import get_storage_roots
from workers.jobs.runner import SLOW_HANDLERS, run_job
from workers.pipeline.sync_rows import record_experiment, record_iteration

# The client sends large files in a way that its own HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CHECKPOINT = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
METRICS: dict[str, Any] = {
    "iteration": 1,
    "stages": [{"stage": "judge", "counts": {"judgments": 1234, "unscored": 5}}],
    "judge": {"parse_rate": 0.99, "mean": 3.25, "entropy_bits": 2.0, "share_at_max": 0.1},
    "meta_judge": None,
    "pairs": [{"kind": "actor", "pairs": 7, "dropped": {"no_gap": 1}}],
    "training": {"kept_step": 12, "loss": {"first": 0.69, "last": 0.42}},
    "truth": [],
    "alarms": [{"name": "length_growth", "sentence": "Responses grew.", "advice": "Raise rho."}],
}


def safetensors(**metadata: str) -> bytes:
    """The smallest file of the format: a header's size, the header, no tensor."""
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.fixture
def row(installation: Installation, settings: Settings) -> Experiment:
    """An experiment whose first iteration is finished."""
    settings.META_REWARD_PUBLISH_ROOT = str(installation.root / "published")
    settings.META_REWARD_HF_TOKEN = ""
    root = installation.root
    roots = StorageRoots(str(installation.artifacts), root / "models", root / "scratch")
    model = str(root / "models" / "stub")
    request = ExperimentRequest(
        "mine", recipe=str(installation.recipe), prompts=installation.prompts, model=model
    )
    experiment = open_or_create(request, roots, say=lambda text: None)
    found = record_experiment(experiment, artifact_root=roots.artifacts)
    make_model(installation, CHECKPOINT | {"model.safetensors": safetensors(format="pt")})
    made = record_iteration(found, 1, model_in="b" * 64)
    type(made).objects.filter(pk=made.pk).update(status="finished", metrics=METRICS)
    return found


def make_model(installation: Installation, contents: dict[str, bytes]) -> Path:
    """Put M1 where a training would, with the manifest that promises it."""
    experiment = open_experiment(ArtifactStore(str(installation.artifacts)), "mine")
    assert experiment is not None
    files = experiment.get_files(1)
    folder = installation.artifacts / "mine" / "iteration-1" / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files.discard("train", 0)
    work = StageOutput({}, {}, checkpoint=files.checkpoint.compute_sha256())
    files.publish("train", 0, key="a key", work=work, packages={})
    return folder


def home(row: Experiment) -> str:
    """Folder of an experiment's publications: another one of its name has another."""
    return f"{row.name}-{row.uuid.hex}"


def published(row: Experiment, *, by: User | None = None, **payload: Any) -> Job:
    job = Job.objects.create(
        kind=JobKind.PUBLISH,
        experiment=row,
        experiment_name="mine",
        created_by=by,
        payload={"number": 1} | payload,
    )
    assert run_job(job, SLOW_HANDLERS)
    job.refresh_from_db()
    return job


def test_a_folder_and_an_archive_hold_the_model_and_its_card(
    row: Experiment, installation: Installation
) -> None:
    job = published(row)
    assert (job.status, job.message) == ("done", "")
    folder = installation.root / "published" / job.outcome["folder"]
    expected = sorted([*CHECKPOINT, "README.md", "model.safetensors"])
    assert sorted(file.name for file in folder.iterdir()) == expected == job.outcome["files"]
    archive = installation.root / "published" / job.outcome["archive"]
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == [f"mine-M1/{name}" for name in expected]
        assert {(one.uname, one.mtime, one.mode) for one in tar} == {("", 0, 0o644)}
    assert sorted(file.name for file in folder.parent.iterdir()) == ["M1", "M1.tar"]


def test_a_publication_is_noted(row: Experiment) -> None:
    alice = make_person("alice", "operator")
    published(row, by=alice)
    event = Activity.objects.get(action=Action.PUBLISHED)
    assert (event.object_name, event.details, event.actor) == (
        "mine M1",
        f"in {home(row)}/M1",
        alice,
    )


def test_the_card_says_what_it_is_and_what_is_known(
    row: Experiment, installation: Installation
) -> None:
    published(row)
    card = (installation.root / "published" / home(row) / "M1" / "README.md").read_text()
    for words in (
        "# mine M1",
        "seed model: stub",
        "1,234 judgments",
        "7 pairs of kind actor; 1 prompts without one (no_gap 1)",
        "length_growth: Responses grew.",
        "name: scripted",
        "grants no license",
    ):
        assert words in card


def test_no_place_of_this_machine_is_in_what_is_published(
    row: Experiment, installation: Installation
) -> None:
    """The recipe names the seed model by its whole path, which no file may repeat."""
    assert str(installation.root) in row.recipe["model"]
    published(row)
    everything = [f for f in (installation.root / "published").rglob("*") if f.is_file()]
    assert len(everything) == 8
    for file in everything:
        assert str(installation.root).encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_names_a_folder_of_this_machine_is_not_published(
    row: Experiment, installation: Installation, name: str
) -> None:
    place = str(installation.artifacts / "mine")
    content = {
        "config.json": json.dumps({"_name_or_path": place}).encode(),
        "model.safetensors": safetensors(made_by=place),
    }
    make_model(installation, {name: content[name]})
    job = published(row)
    assert job.status == "refused"
    assert f"{name} contains the path of a folder" in job.message
    assert not list((installation.root / "published").rglob("M1*"))


def test_a_model_whose_files_have_changed_is_not_published(
    row: Experiment, installation: Installation
) -> None:
    folder = installation.artifacts / "mine" / "iteration-1" / "checkpoint"
    (folder / "model.safetensors").write_bytes(safetensors(format="other"))
    job = published(row)
    assert job.status == "refused"
    assert "have changed" in job.message


def test_a_model_that_is_not_made_is_not_published(row: Experiment) -> None:
    assert "M2 of experiment 'mine' does not exist" in published(row, number=2).message
    assert "M0 of experiment 'mine' does not exist" in published(row, number=0).message


def test_what_is_published_again_takes_the_place_of_what_was(
    row: Experiment, installation: Installation
) -> None:
    published(row)
    folder = installation.root / "published" / home(row) / "M1"
    (folder / "README.md").write_text("edited")
    (installation.root / "published" / home(row) / ".M1.partial").mkdir()
    assert published(row).status == "done"
    assert "# mine M1" in (folder / "README.md").read_text()
    assert sorted(file.name for file in folder.parent.iterdir()) == ["M1", "M1.tar"]


TOKEN = "hf_secret_of_the_owner"


@pytest.fixture
def token(hub: Hub, settings: Settings) -> str:
    """The installation's token; it may write for `org` alone."""
    settings.META_REWARD_HF_TOKEN = TOKEN
    hub.writers[TOKEN] = {"org"}
    return TOKEN


def everything_told(job: Job, log: str) -> str:
    """Whatever a person or a collector of logs may see of an order."""
    events = "".join(f"{event.object_name} {event.details}" for event in Activity.objects.all())
    return json.dumps([job.outcome, job.payload, job.message, events, log])


def test_what_arrives_on_the_hub_is_the_folder_as_it_is_and_hidden(
    row: Experiment,
    installation: Installation,
    hub: Hub,
    token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    job = published(row, repository="org/name", is_public=False)
    assert (job.status, job.message) == ("done", "")
    made = hub.repositories["org/name"]
    folder = installation.root / "published" / home(row) / "M1"
    here = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert made.files() == here | {".gitattributes": b""}
    assert b"# mine M1" in made.files()["README.md"]
    assert made.private
    assert made.messages[-1] == "mine M1"
    assert job.outcome["repository"] == f"{hub.address}/org/name"
    assert job.outcome["commit"] == made.resolve("main")
    assert token not in everything_told(job, caplog.text)


def test_everybody_sees_it_if_that_was_asked_for(row: Experiment, hub: Hub, token: str) -> None:
    published(row, repository="org/name", is_public=True)
    assert not hub.repositories["org/name"].private


def test_a_repository_that_exists_keeps_what_is_not_the_models_and_no_weights_of_before(
    row: Experiment, hub: Hub, token: str
) -> None:
    kept = {"LICENSE": b"theirs", ".gitattributes": b"x"}
    stale = {"model-00001-of-00002.safetensors": b"x", "model.safetensors.index.json": b"{}"}
    hub.add("org/name", kept | stale | {"config.json": b"old"}, private=True)
    assert published(row, repository="org/name").status == "done"
    files = hub.repositories["org/name"].files()
    assert sorted(files) == sorted([*CHECKPOINT, "README.md", "model.safetensors", *kept])
    assert files["LICENSE"] == b"theirs"
    assert files["config.json"] == CHECKPOINT["config.json"]


def test_nothing_is_hidden_in_a_repository_that_everybody_sees(
    row: Experiment, hub: Hub, token: str
) -> None:
    hub.add("org/name", {"README.md": b"# theirs"})
    job = published(row, repository="org/name", is_public=False)
    assert job.status == "refused"
    assert "org/name is already public on the Hub" in job.message
    assert hub.repositories["org/name"].files() == {"README.md": b"# theirs"}


@pytest.mark.parametrize(
    "repository, writers, message",
    [
        ("org/name", {}, "rejected HF_TOKEN for org/name (401)"),
        ("others/name", {TOKEN: {"org"}}, "rejected HF_TOKEN for others/name"),
        ("org/theirs", {TOKEN: set[str]()}, "rejected HF_TOKEN for org/theirs"),
    ],
)
def test_whoever_may_not_write_is_told_so_and_what_was_published_here_stays(
    row: Experiment,
    hub: Hub,
    token: str,
    caplog: pytest.LogCaptureFixture,
    repository: str,
    writers: dict[str, set[str]],
    message: str,
) -> None:
    caplog.set_level("DEBUG")
    hub.add("org/theirs", {}, private=True)
    hub.writers = writers
    job = published(row, repository=repository)
    assert job.status == "refused"
    assert message in job.message
    assert "The folder and the archive were created." in job.message
    assert job.outcome["folder"] == f"{home(row)}/M1"
    assert token not in everything_told(job, caplog.text)
    assert not [name for name, one in hub.repositories.items() if "config.json" in one.files()]


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once."""
    clock = SimpleNamespace(sleep=lambda _: None, time=time.time)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("part", ["/preupload/", "/objects/batch", "/lfs/"])
def test_a_hub_that_stumbles_is_asked_again(
    row: Experiment, hub: Hub, token: str, part: str
) -> None:
    hub.faults.append(failing(503, part, times=2))
    assert published(row, repository="org/name").status == "done"
    assert "model.safetensors" in hub.repositories["org/name"].files()


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/lfs/", "/commit/"])
def test_a_hub_that_keeps_failing_is_said_to_and_shows_no_half_model(
    row: Experiment, hub: Hub, token: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hub.faults.append(failing(500, part))
    job = published(row, repository="org/name")
    assert job.status == "refused"
    assert f"could not upload org/name to the Hub: {hub.address} answered 500" in job.message
    assert not [one for one in hub.repositories.values() if "config.json" in one.files()]
    assert token not in everything_told(job, caplog.text)
    hub.faults.clear()
    assert published(row, repository="org/name").status == "done"


@pytest.mark.usefixtures("_no_pauses")
def test_a_hub_that_dies_in_the_middle_is_said_not_to_answer(
    row: Experiment, hub: Hub, token: str
) -> None:
    def die(asked: Asked) -> None:
        if asked.method == "PUT":
            hub.shut()

    hub.faults += [die, failing(503, "/lfs/", method="PUT")]
    job = published(row, repository="org/name")
    assert job.status == "refused"
    assert "does not respond (ConnectError" in job.message
    assert job.outcome["folder"] == f"{home(row)}/M1"


def test_without_a_token_nothing_is_sent(row: Experiment, hub: Hub) -> None:
    assert "no Hub token" in published(row, repository="org/name").message
    assert hub.asked == []


def test_a_mirror_without_xet_says_what_to_set(
    row: Experiment, hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    assert "set HF_HUB_DISABLE_XET=1" in published(row, repository="org/name").message


def test_what_was_published_begins_another_experiment_with_the_same_weights(
    row: Experiment,
    installation: Installation,
    hub: Hub,
    token: str,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """The miniature's seed model goes to the hub as an M1 and comes back as another's M0."""
    seed = {file.name: file.read_bytes() for file in get_shipped_seed_model().iterdir()}
    shutil.rmtree(installation.artifacts / "mine" / "iteration-1" / "checkpoint")
    make_model(installation, seed)
    job = published(row, repository="org/seed")
    assert (job.status, job.message) == ("done", "")
    settings.META_REWARD_MODEL_ROOT = str(tmp_path / "fresh")
    recipe = load_recipe(str(installation.recipe), changes=["model=org/seed", "name=second"])
    said: list[str] = []
    request = ExperimentRequest("second", recipe=recipe, prompts=installation.prompts)
    second = open_or_create(request, get_storage_roots(), say=said.append)
    commit = hub.repositories["org/seed"].resolve("main")
    assert second.seed_model.sha256 == hash_model_folder(get_shipped_seed_model())
    assert said == [f"fetching org/seed@{commit}, 2 MB"]
    found = record_experiment(second, artifact_root=str(installation.artifacts))
    lineage = read_lineage(found, [])
    assert (lineage.seed_name, lineage.seed_commit) == ("org/seed", commit)
    again = open_experiment(ArtifactStore(str(installation.artifacts)), "second")
    assert again is not None
    assert again.seed_folder.endswith(f"fresh/org/seed@{commit}")


def test_the_card_names_the_commit_of_a_model_of_the_hub(
    row: Experiment, installation: Installation
) -> None:
    commit = "0123456789" * 4
    roots = get_storage_roots()
    pinned = roots.models / "org" / f"name@{commit}"
    shutil.copytree(installation.model, pinned)
    description = installation.artifacts / "mine" / "experiment.json"
    found = json.loads(description.read_text())
    found["seed_model"]["folder"] = str(pinned)
    description.write_text(json.dumps(found))
    published(row)
    card = (installation.root / "published" / home(row) / "M1" / "README.md").read_text()
    assert f"seed model: org/name@{commit}" in card
    assert "\nbase_model: org/name\n" in card


def test_an_experiment_that_is_gone_is_said_to_be(db: None) -> None:
    from workers.jobs.publish_model import publish_model

    job = SimpleNamespace(experiment=None, experiment_name="mine", payload={"number": 1})
    with pytest.raises(Exception, match="experiment 'mine' was deleted"):
        publish_model(job)  # type: ignore[arg-type]
