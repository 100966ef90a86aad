"""Publishing: a clean folder, the same as an archive, and the hub's API at its edge."""

import json
import struct
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django.fixtures import Settings

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.experiment import open_experiment
from meta_reward_core.launch import Places, open_or_begin
from meta_reward_core.request import Request
from meta_reward_core.shards import Work
from tests.webapp.conftest import make_person
from tests.workers.installation import Installation
from webapp.experiments.models import Experiment, Order, OrderKind
from webapp.people.models import Event, EventKind
from workers.orders import SLOW, carry_out
from workers.rows import record_experiment, record_iteration

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
    places = Places(str(installation.artifacts), root / "models", root / "scratch")
    model = str(root / "models" / "stub")
    request = Request(
        "mine", recipe=str(installation.recipe), prompts=installation.prompts, model=model
    )
    experiment = open_or_begin(request, places, say=lambda text: None)
    found = record_experiment(experiment, artifact_root=places.artifacts)
    make_model(installation, CHECKPOINT | {"model.safetensors": safetensors(format="pt")})
    made = record_iteration(found, 1, model_in="b" * 64)
    type(made).objects.filter(pk=made.pk).update(status="finished", metrics=METRICS)
    return found


def make_model(installation: Installation, contents: dict[str, bytes]) -> Path:
    """Put M1 where a training would, with the manifest that promises it."""
    experiment = open_experiment(ArtifactStore(str(installation.artifacts)), "mine")
    assert experiment is not None
    files = experiment.files(1)
    folder = installation.artifacts / "mine" / "iteration-1" / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files.discard("train", 0)
    work = Work({}, {}, checkpoint=files.checkpoint.sha256())
    files.publish("train", 0, key="a key", work=work, packages={})
    return folder


def published(row: Experiment, *, by: User | None = None, **wish: Any) -> Order:
    order = Order.objects.create(
        kind=OrderKind.PUBLISH, experiment=row, subject="mine", by=by, wish={"number": 1} | wish
    )
    assert carry_out(order, SLOW)
    order.refresh_from_db()
    return order


def test_a_folder_and_an_archive_hold_the_model_and_its_card(
    row: Experiment, installation: Installation
) -> None:
    order = published(row)
    assert (order.status, order.finding) == ("done", "")
    folder = installation.root / "published" / order.outcome["folder"]
    expected = sorted([*CHECKPOINT, "README.md", "model.safetensors"])
    assert sorted(file.name for file in folder.iterdir()) == expected == order.outcome["files"]
    archive = installation.root / "published" / order.outcome["archive"]
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == [f"mine-M1/{name}" for name in expected]
        assert {(one.uname, one.mtime, one.mode) for one in tar} == {("", 0, 0o644)}
    assert sorted(file.name for file in folder.parent.iterdir()) == ["M1", "M1.tar"]


def test_a_publication_is_noted(row: Experiment) -> None:
    alice = make_person("alice", "operator")
    published(row, by=alice)
    event = Event.objects.get(kind=EventKind.PUBLISHED)
    assert (event.subject, event.detail, event.by) == ("mine M1", "in mine/M1", alice)


def test_the_card_says_what_it_is_and_what_is_known(
    row: Experiment, installation: Installation
) -> None:
    published(row)
    card = (installation.root / "published" / "mine" / "M1" / "README.md").read_text()
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
    order = published(row)
    assert order.status == "refused"
    assert f"{name} names a folder of this machine" in order.finding
    assert not list((installation.root / "published").rglob("M1*"))


def test_a_model_whose_files_have_changed_is_not_published(
    row: Experiment, installation: Installation
) -> None:
    folder = installation.artifacts / "mine" / "iteration-1" / "checkpoint"
    (folder / "model.safetensors").write_bytes(safetensors(format="other"))
    order = published(row)
    assert order.status == "refused"
    assert "have changed" in order.finding


def test_a_model_that_is_not_made_is_not_published(row: Experiment) -> None:
    assert "M2 of experiment 'mine' has not been made" in published(row, number=2).finding
    assert "M0 of experiment 'mine' has not been made" in published(row, number=0).finding


def test_what_is_published_again_takes_the_place_of_what_was(
    row: Experiment, installation: Installation
) -> None:
    published(row)
    folder = installation.root / "published" / "mine" / "M1"
    (folder / "README.md").write_text("edited")
    (installation.root / "published" / "mine" / ".M1.partial").mkdir()
    assert published(row).status == "done"
    assert "# mine M1" in (folder / "README.md").read_text()
    assert sorted(file.name for file in folder.parent.iterdir()) == ["M1", "M1.tar"]


class Hub:
    """Stands at the edge of the hub's client."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._error = error

    def __call__(self, *, token: str) -> "Hub":
        self.calls.append(("token", token))
        return self

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        self.calls.append(("create", (name, private, exist_ok)))
        return f"https://hub.example/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self._error is not None:
            raise self._error
        names = sorted(file.name for file in folder_path.iterdir())
        self.calls.append(("upload", (repo_id, names, commit_message)))


def use_hub(monkeypatch: pytest.MonkeyPatch, settings: Settings, hub: Hub) -> None:
    settings.META_REWARD_HF_TOKEN = "hf_secret"
    monkeypatch.setattr("huggingface_hub.HfApi", hub)


def test_it_goes_to_a_repository_where_a_token_is_configured(
    row: Experiment, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    use_hub(monkeypatch, settings, hub)
    order = published(row, repository="org/name", is_public=False)
    assert order.outcome["repository"] == "https://hub.example/org/name"
    assert hub.calls[:2] == [("token", "hf_secret"), ("create", ("org/name", True, True))]
    assert hub.calls[2][1][0] == "org/name"
    assert "README.md" in hub.calls[2][1][1]
    assert "hf_secret" not in json.dumps(order.outcome)


def test_what_the_hub_refuses_stays_here(
    row: Experiment, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, settings, Hub(OSError("no such organisation")))
    order = published(row, repository="org/name")
    assert order.status == "refused"
    assert "the hub did not take org/name: no such organisation" in order.finding
    assert order.outcome["folder"] == "mine/M1"


def test_without_a_token_nothing_is_sent(row: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    assert "no token of the hub" in published(row, repository="org/name").finding
    assert hub.calls == []


def test_an_experiment_that_is_gone_is_said_to_be(db: None) -> None:
    from workers.publishing import publish

    order = SimpleNamespace(experiment=None, subject="mine", wish={"number": 1})
    with pytest.raises(Exception, match="experiment 'mine' is gone"):
        publish(order)  # type: ignore[arg-type]
