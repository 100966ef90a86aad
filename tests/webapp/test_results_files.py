"""Downloads: every artifact of an experiment, and nothing else of the machine."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from meta_reward_core.data.csv_safety import unguard_cell
from meta_reward_core.data.exports import EXPORTS
from meta_reward_core.experiment import Experiment as OnDisk
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.webapp.conftest import make_person
from tests.webapp.results_fixtures import begun_with, record, scripted_experiment
from tests.webapp.test_results_prompts import rows_of
from webapp.activity.models import Action, Activity
from webapp.experiments.models import Experiment

pytestmark = pytest.mark.django_db
FILES = "/experiments/scripted/files"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    root = tmp_path_factory.mktemp("files")
    made = scripted_experiment(root)
    checkpoint = root / "scripted/iteration-1/checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (checkpoint / "config.json").write_text('{"a": 1}')
    (checkpoint / "outside.json").symlink_to(root / "secret.json")
    (root / "secret.json").write_text("secret")
    (root / "scripted/.lock").write_text("lock")
    (root / "scripted/iteration-1/judgments/.partial-1").write_text("half")
    for name, text in {"alpacaeval.json": '{"figures": []}', ".partial-2": "half"}.items():
        card = root / "scripted/evaluations/M1" / name
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(text)
    (root / "other").mkdir()
    (root / "other/experiment.json").write_text("secret")
    return made


@pytest.fixture
def row(on_disk: OnDisk, alice: User, settings: Settings, tmp_path: Path) -> Experiment:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path)
    return record(on_disk, alice)


def body_of(client: Client, path: str) -> bytes:
    answer = client.get(f"{FILES}/{path}")
    assert answer.status_code == 200, path
    assert answer["Content-Disposition"].startswith('attachment; filename="scripted-')
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Type"] == "application/octet-stream"
    return b"".join(iter(answer))


def test_the_list_names_every_table_with_rows_and_size(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    answer = client.get(FILES)
    pool, first = answer.context["iterations"]
    assert [table.name for table in pool.tables] == ["prompts"]
    tables = {table.name: table for table in first.tables}
    assert tables["judgments"].rows == len(rows_of(on_disk, "judgments"))
    folder = Path(on_disk.store.root) / "scripted/iteration-1"
    assert tables["judgments"].size == sum(
        part.stat().st_size for part in (folder / "judgments").glob("part-*")
    )
    names = [file.what for file in first.checkpoint]
    assert names == ["config.json", "model.safetensors"]


def test_every_link_of_the_list_leads_to_a_file(client: Client, row: Experiment) -> None:
    page = client.get(FILES).content.decode()
    links = [piece.split('"')[0] for piece in page.split(f'href="{FILES}/')[1:]]
    assert len(links) > 30
    for link in links:
        assert body_of(client, link) or link.endswith("judge_pairs.csv")


def test_the_list_names_the_kept_evaluations_of_each_model(client: Client, row: Experiment) -> None:
    found = client.get(FILES).context["evaluations"]
    assert [(one.number, [card.what for card in one.cards]) for one in found] == [
        (1, ["alpacaeval.json"])
    ]


def test_stored_files_are_sent_as_they_lie(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    folder = Path(on_disk.store.root) / "scripted"
    for path in (
        "experiment.json",
        "iteration-1/judgments/part-00001.parquet",
        "iteration-1/manifests/judge-00000.json",
        "iteration-1/checkpoint/model.safetensors",
        "iteration-0/prompts/part-00000.parquet",
        "evaluations/M1/alpacaeval.json",
    ):
        assert body_of(client, path) == (folder / path).read_bytes()


def test_a_remote_root_shows_and_gives_the_same(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    remote = ArtifactStore("memory://results-files")
    for name in on_disk.store.list_sizes("scripted"):
        if not name.endswith(("outside.json", ".lock", ".partial-1")):
            remote.put_if_absent(f"scripted/{name}", on_disk.store.read(f"scripted/{name}"))
    first = on_disk.get_files(1).read("prompts")["prompt_id"][0].as_py()
    pages = ("files", "iterations/1/prompts", f"iterations/1/prompts/{first}")
    bodies = ("iteration-1/judgments.csv", "iteration-1/checkpoint/model.safetensors",
              "iteration-1/checkpoint.zip", "iteration-1/pairs.parquet")  # fmt: skip

    def seen() -> list[bytes]:
        shown = [client.get(f"/experiments/scripted/{page}").content for page in pages]
        without_tokens = [re.sub(rb"(?i)csrf\S+ \S+", b"", one) for one in shown]
        return [*without_tokens, *(body_of(client, path) for path in bodies)]

    local = seen()
    Experiment.objects.update(artifact_root="memory://results-files")
    assert seen() == local
    assert client.get(f"{FILES}/iteration-1/judgments/part-00099.parquet").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "../other/experiment.json",
        "..%2Fother%2Fexperiment.json",
        "%2e%2e/other/experiment.json",
        "iteration-1/../../other/experiment.json",
        "/etc/passwd",
        "//etc/passwd",
        "iteration-1/checkpoint/../../../secret.json",
        "iteration-1/checkpoint/outside.json",
        "iteration-1/checkpoint/.hidden",
        "iteration-1/checkpoint",
        "iteration-1/judgments",
        "iteration-1/judgments/.partial-1",
        "iteration-1/judgments/part-00099.parquet",
        "iteration-1/judgments/part-00000.parquet%0A",
        "iteration-1/judgments/part-00000.parquet%00",
        "iteration-1/optimizer/part-00000.parquet",
        "evaluations/M1/.partial-2",
        "evaluations/M1/../../../secret.json",
        "evaluations/M2/alpacaeval.json",
        "evaluations/M1",
        "iteration-1/secrets.csv",
        "iteration-1/training_log.csv",
        "iteration-2/judgments.csv",
        "iteration-2/checkpoint.zip",
        "iteration-2/pairs.parquet",
        "iteration-\u0661/judgments.csv",
        ".lock",
        "iteration-1\\..\\..\\other\\experiment.json",
    ],
)
def test_nothing_else_can_be_had(client: Client, row: Experiment, path: str) -> None:
    answer = client.get(f"{FILES}/{path}")
    assert answer.status_code == 404
    assert b"secret" not in answer.content


def test_pairs_come_as_trl_reads_them(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    for kind in ("actor", "judge"):
        lines = body_of(client, f"iteration-1/{kind}_pairs.trl.jsonl").decode().splitlines()
        pairs = rows_of(on_disk, f"{kind}_pairs")
        assert [json.loads(line)["chosen"] for line in lines] == [p["chosen"] for p in pairs]
    both = body_of(client, "iteration-1/all_pairs.trl.jsonl").decode().splitlines()
    assert len(both) == len(rows_of(on_disk, "actor_pairs")) + len(rows_of(on_disk, "judge_pairs"))


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_pairs_come_in_every_format(client: Client, row: Experiment, name: str) -> None:
    lines = body_of(client, f"iteration-1/all_pairs.{name}.jsonl").decode().splitlines()
    assert all(json.loads(line) for line in lines)
    assert lines


def test_pairs_come_as_one_parquet_file(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    table = pq.read_table(io.BytesIO(body_of(client, "iteration-1/pairs.parquet")))
    pairs = rows_of(on_disk, "actor_pairs") + rows_of(on_disk, "judge_pairs")
    assert table["rejected"].to_pylist() == [pair["rejected"] for pair in pairs]
    assert {"prompt", "chosen", "rejected"} <= set(table.column_names)


def test_a_table_comes_as_csv(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    text = body_of(client, "iteration-1/judgments.csv").decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    rows = rows_of(on_disk, "judgments")
    assert [one["judgment_id"] for one in found] == [one["judgment_id"] for one in rows]
    assert [one["score"] for one in found] == [
        "" if one["score"] is None else str(one["score"]) for one in rows
    ]


def test_prompts_that_are_formulas_are_guarded_in_csv(
    client: Client, alice: User, tmp_path: Path
) -> None:
    texts = ["=HYPERLINK(1)", " =1+1", "\u200b@SUM(1)", "x;=1+1", "plain, 1=1"]
    record(begun_with(tmp_path, texts), alice, numbers=())
    text = body_of(client, "iteration-0/prompts.csv").decode()
    found = [row["text"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    guarded = ["'=HYPERLINK(1)", "' =1+1", "'\u200b@SUM(1)", "'x;'=1+1", "plain, 1=1"]
    assert found == guarded
    assert [unguard_cell(cell) for cell in found] == texts


def test_a_checkpoint_comes_as_an_archive_that_is_not_compressed(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    archive = zipfile.ZipFile(io.BytesIO(body_of(client, "iteration-1/checkpoint.zip")))
    assert archive.testzip() is None
    assert archive.namelist() == ["checkpoint/config.json", "checkpoint/model.safetensors"]
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    weights = Path(on_disk.store.root) / "scripted/iteration-1/checkpoint/model.safetensors"
    assert archive.read("checkpoint/model.safetensors") == weights.read_bytes()


def test_a_file_that_is_taken_out_is_noted(client: Client, row: Experiment, alice: User) -> None:
    assert client.get(f"{FILES}/experiment.json").getvalue()
    assert client.get(f"{FILES}/no-such-file").status_code == 404
    event = Activity.objects.get(action=Action.EXPORTED)
    assert (event.object_name, event.details, event.actor) == (row.name, "experiment.json", alice)


def test_only_those_who_may_see_may_download(client: Client, row: Experiment) -> None:
    paths = (FILES, f"{FILES}/experiment.json", f"{FILES}/iteration-1/judgments.csv")
    for path in paths:
        assert client.post(path).status_code == 405
    somebody = Client()
    for path in paths:
        assert somebody.get(path)["Location"].startswith("/account/login")
    somebody.force_login(make_person("dora", "auditor"))
    for path in paths:
        assert somebody.get(path).status_code == 403
    somebody.force_login(make_person("bob", "viewer"))
    Experiment.objects.update(is_private=True)
    for path in paths:
        assert somebody.get(path).status_code == 404


def test_the_list_costs_few_queries(
    client: Client, row: Experiment, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(6):
        client.get(FILES)


@pytest.mark.parametrize(
    "path",
    [
        f"iteration-1/checkpoint/{'a' * 300}",
        f"iteration-1/checkpoint/{'a' * 3000}",
        f"evaluations/M1/{'a' * 300}.json",
    ],
    ids=["a file of a model", "a longer one", "a scorecard"],
)
def test_a_name_that_no_file_can_have_is_not_found(
    path: str, client: Client, row: Experiment
) -> None:
    assert client.get(f"{FILES}/{path}").status_code == 404
