"""An experiment with real files, a batch of it, and people who answer."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from tests.core import scripted_world
from tests.core.review.miniature_battles import ask_oracle
from tests.webapp.conftest import make_person
from webapp.audit import annotation_queue
from webapp.audit.batch_sampling import BatchPlan
from webapp.audit.models import Batch, Item
from webapp.audit.services import create_batch
from webapp.experiments.models import Experiment, Iteration, Stage, StageStatus


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one iteration up to its pairs. Read them, do not write to them."""
    root = tmp_path_factory.mktemp("audited")
    write_files(root)
    return root


@pytest.fixture
def audited(artifacts: Path, alice: User) -> Experiment:
    """The row of that experiment, of which alice is the owner."""
    return record(artifacts, owner=alice)


def write_files(root: Path) -> None:
    """Run an iteration up to its pairs."""
    experiment = scripted_world.begin(root)
    resources = scripted_world.make_scripted_resources(root)
    scripted_world.run_before_training(experiment.build_context(1), resources)


def record(artifacts: Path, *, owner: User) -> Experiment:
    """Make the rows of those files."""
    files = ExperimentFiles(ArtifactStore(str(artifacts)), "scripted")
    row = Experiment.objects.create(
        uuid=files.read_uuid() or uuid4(),
        name="scripted",
        owner=owner,
        recipe={"name": "scripted", "iterations": 4},
        recipe_sha256="a" * 64,
        seed=1,
        base_model_folder="/models/m0",
        base_model_sha256="0" * 64,
        artifact_root=str(artifacts),
    )
    iteration = Iteration.objects.create(experiment=row, number=1, model_in="0" * 64)
    for position, name in enumerate(("judge", "pair_actor", "meta_judge", "pair_judge")):
        Stage.objects.create(
            iteration=iteration,
            name=name,
            title=name,
            position=position,
            status=StageStatus.FINISHED,
        )
    return row


@pytest.fixture
def carol(db: None) -> User:
    return make_person("carol", "auditor")


@pytest.fixture
def dave(db: None) -> User:
    return make_person("dave", "auditor")


@pytest.fixture
def batch(audited: Experiment, alice: User, carol: User, dave: User) -> Batch:
    return draw(audited, by=alice, auditors=[carol, dave])


def plan(**changes: Any) -> BatchPlan:
    values: dict[str, Any] = {
        "kind": "judgments",
        "strategy": "certainty",
        "size": 12,
        "seed": 3,
        "same_share": 0.0,
        "other_share": 0.0,
        "hides_score_lines": True,
        "reveals_at_once": True,
        "guidelines": "Read **both**.",
    }
    return BatchPlan(**values | changes)


def draw(experiment: Experiment, *, by: User | None, auditors: list[User], **changes: Any) -> Batch:
    return create_batch(experiment, 1, plan(**changes), by=by, auditors=auditors)


def browser(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def take(client: Client, batch: Batch) -> Item:
    """Go to the desk and find out which item it shows."""
    answer = client.get(f"/audits/{batch.pk}/annotate")
    assert answer.status_code == 302, answer.content
    found = re.search(r"/items/(\d+)$", answer["Location"])
    assert found is not None, answer["Location"]
    return batch.items.get(number=int(found[1]))


def address(item: Item, what: str = "") -> str:
    return f"/audits/{item.batch_id}/items/{item.number}{what}"


def give(client: Client, item: Item, choice: str = "A", **values: Any) -> Any:
    """Answer an item by the letter that is shown."""
    given = {"choice": choice, "confidence": "3"} | values
    return client.post(address(item), given)


def answer_by_oracle(batch: Batch, person: User) -> None:
    """Be an auditor who takes item after item and sees nothing but texts."""
    while (item := annotation_queue.lease_next_item(batch, person)) is not None:
        choice = ask_oracle(item.instruction, item.response, item.first, item.second)
        assert annotation_queue.submit_answer(
            item, person, annotation_queue.AnswerInput(choice, None, 3, (), "", 1.0)
        )
