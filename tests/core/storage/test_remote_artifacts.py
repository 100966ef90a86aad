"""A root in an S3-compatible store keeps the promises of a local folder."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import (
    ArtifactError,
    DamagedArtifactError,
    ExperimentBusyError,
    InputError,
    ModelFolderError,
    StorageUnreachableError,
)
from meta_reward_core.experiment import create_experiment, open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage import experiment_lock
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from tests.core.scripted_world import (
    RECIPE,
    make_scripted_resources,
    prompt_file,
    run_before_training,
)
from tests.services import S3

_PROBE_REPORT = "iteration-1/probe/report.json"


@pytest.fixture
def root(s3: S3, request: pytest.FixtureRequest) -> str:
    return s3.root(request.node.name.replace("[", "-").replace("]", ""))


@pytest.fixture
def store(root: str) -> ArtifactStore:
    return ArtifactStore(root)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 10_000)
    (folder / "more" / "words.json").write_text("[]")
    (folder / ".download-notes").write_text("not part of it")
    return folder


def test_the_first_writer_wins_and_what_was_put_is_read_back(store: ArtifactStore) -> None:
    assert store.put_if_absent("a/b.bin", b"\x00\xff")
    assert not store.put_if_absent("a/b.bin", b"second")
    assert store.read("a/b.bin") == b"".join(store.iter_chunks("a/b.bin")) == b"\x00\xff"
    assert store.put_if_absent("ab/c", b"1")
    assert store.list_names("a") == ["b.bin"]
    assert store.list_sizes("a") == {"b.bin": 2}
    assert store.exists("a/b.bin")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a/b.bin")
    assert store.exists("ab/c"), "a folder of a longer name is another folder"
    with pytest.raises(ArtifactError, match=r"a/b\.bin"):
        store.read("a/b.bin")
    assert store.list_names("nowhere") == []
    assert store.list_sizes("nowhere") == {}


def test_of_many_writers_at_once_exactly_one_wins_and_its_bytes_stay(root: str) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        store = ArtifactStore(root)
        barrier.wait()
        if store.put_if_absent("contested", str(number).encode() * 1000):
            won.append(number)

    _together(write, 8)
    assert len(won) == 1
    assert ArtifactStore(root).read("contested") == str(won[0]).encode() * 1000


def test_an_address_with_a_secret_is_refused_without_repeating_it() -> None:
    with pytest.raises(InputError, match="secret") as error:
        ArtifactStore("s3://KEY:PASSWORD@bucket/folder")
    assert "PASSWORD" not in str(error.value)


def test_who_has_no_credentials_is_told_so(
    root: str, s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other_name = s3.endpoint.replace("127.0.0.1", "localhost")  # connections are kept by address
    monkeypatch.setenv("META_REWARD_S3_ENDPOINT", other_name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nothing"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ArtifactError, match="no credentials"):
        ArtifactStore(f"{root}/without-credentials").list_names("a")


def test_a_store_that_overwrites_is_refused(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.require_first_writer_wins("mine")
    assert store.list_names("mine") == []
    monkeypatch.setattr(store, "put_if_absent", lambda name, data: True)
    with pytest.raises(InputError, match="If-None-Match"):
        store.require_first_writer_wins("mine")


def _begin(store: ArtifactStore, model: Path) -> None:
    create_experiment(
        store,
        "scripted",
        recipe=Recipe.model_validate(RECIPE | {"prompts_per_shard": 12}),
        seed=1,
        seed_model=ModelRef("M0", model, hash_model_folder(model)),
        prompts=prompt_file(60),
    )


def test_tables_and_manifests_have_the_bytes_of_a_local_root(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    local = ArtifactStore(str(tmp_path / "local"))
    for one in (store, local):
        _begin(one, model)
        experiment = open_experiment(one, "scripted")
        assert experiment is not None
        ran = run_before_training(experiment.build_context(1), make_scripted_resources(tmp_path))
        assert len(ran) == 9
        again = open_experiment(one, "scripted")
        assert again is not None
        assert run_before_training(again.build_context(1), make_scripted_resources(tmp_path)) == []
    made, wanted = store.list_sizes("scripted"), local.list_sizes("scripted")
    of_model = {
        f"iteration-0/checkpoint/{name}" for name in Checkpoint(local, "../model").list_files()
    }
    only_here = {name for name in made.keys() - wanted.keys() if not name.startswith(".lock/")}
    assert only_here == of_model
    assert wanted.keys() - made.keys() == {".lock"}
    without_times = {name for name in wanted if name not in (".lock", _PROBE_REPORT)}
    for name in without_times - {"experiment.json"}:
        assert store.read(f"scripted/{name}") == local.read(f"scripted/{name}"), name
    here, there = (one.read_json("scripted/experiment.json") for one in (local, store))
    assert here | {"uuid": ""} == there | {"uuid": ""}


def test_manifests_are_gathered_before_they_are_asked_for(store: ArtifactStore) -> None:
    made = IterationFiles(store, "mine/iteration-1")
    made.publish("sample", 0, key="key", work=StageOutput({}), packages={})
    for shard in range(6):
        made.publish("judge", shard, key=f"key {shard}", work=StageOutput({}), packages={})
    store.delete("mine/iteration-1/manifests/judge-00003.json")
    files = IterationFiles(store, "mine/iteration-1")
    files.gather({"judge"})
    store.delete("mine")
    assert [made.shard for made in files.list_manifests()] == [0, 1, 2, 4, 5]
    assert files.find_manifest("judge", 4) is not None


def test_readers_of_a_remote_store_do_not_wait_for_each_other(store: ArtifactStore) -> None:
    met = threading.Barrier(8, timeout=30)
    assert sorted(store.read_each(lambda number: number + 0 * met.wait(), range(8))) == list(
        range(8)
    )


def test_a_damaged_part_is_made_again_and_a_store_that_is_away_makes_nothing_damaged(
    store: ArtifactStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _begin(store, model)
    experiment = open_experiment(store, "scripted")
    assert experiment is not None
    sample = STAGES[0]
    sample.run_shard(experiment.build_context(1), 0, make_scripted_resources(tmp_path))
    again = experiment.build_context(1)
    assert sample.find_finished_shard(again, 0) is not None
    part = "scripted/iteration-1/prompts/part-00000.parquet"
    whole = store.read(part)
    store.delete(part)
    assert sample.find_finished_shard(again, 0) is None
    store.put_if_absent(part, whole[:-1] + b"?")
    assert sample.find_finished_shard(again, 0) is None

    def unreachable(name: str) -> bytes:
        raise StorageUnreachableError("away")

    monkeypatch.setattr(store, "read", unreachable)
    with pytest.raises(StorageUnreachableError):
        sample.find_finished_shard(again, 0)


def test_a_store_that_does_not_answer_is_said_to_be_away(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("META_REWARD_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageUnreachableError, match="cannot list"):
        ArtifactStore(root).list_names("a")
    with pytest.raises(StorageUnreachableError, match="cannot write"):
        ArtifactStore(root).put_if_absent("a", b"1")
    assert StorageUnreachableError.retryable


def _upload(store: ArtifactStore, model: Path) -> tuple[Checkpoint, str]:
    made = Checkpoint(store, "mine/iteration-1/checkpoint")
    made.upload(model)
    return made, hash_model_folder(model)


def test_a_model_is_copied_under_its_hash_and_again_when_the_copy_is_damaged(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    made, sha256 = _upload(store, model)
    assert made.compute_sha256() == sha256
    folder = made.fetch_folder(sha256)
    assert folder == tmp_path / "cache" / "checkpoints" / sha256
    assert hash_model_folder(folder) == sha256
    assert not (folder / ".download-notes").exists()
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert hash_model_folder(made.fetch_folder(sha256)) == sha256
    made.upload(model)
    (model / "config.json").write_text('{"another": 1}')
    with pytest.raises(ArtifactError, match="different content"):
        made.upload(model)


def test_many_who_need_a_model_at_once_copy_it_once(
    store: ArtifactStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sha256 = _upload(store, model)
    copied: list[Path] = []
    download = Checkpoint._download

    def counted(self: Checkpoint, target: Path) -> None:
        copied.append(target)
        download(self, target)

    monkeypatch.setattr(Checkpoint, "_download", counted)
    found: list[Path] = []
    _together(lambda number: found.append(made.fetch_folder(sha256)), 4)
    assert len(copied) == 1
    assert len(set(found)) == 1
    assert hash_model_folder(found[0]) == sha256


def test_a_model_that_is_another_or_gone_is_not_loaded(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    made, _ = _upload(store, model)
    with pytest.raises(DamagedArtifactError):
        made.fetch_folder("0" * 64)
    copies = [path for path in (tmp_path / "cache" / "checkpoints").iterdir() if path.suffix == ""]
    assert copies == []
    store.delete(made.name)
    assert made.compute_sha256() is None
    with pytest.raises(ArtifactError, match="no model"):
        made.fetch_folder("1" * 64)


def test_a_store_cannot_slip_a_pickle_in(store: ArtifactStore, model: Path) -> None:
    (model / "training_args.bin").write_bytes(b"a pickle")
    made, sha256 = _upload(store, model)
    with pytest.raises(ModelFolderError, match="pickle"):
        made.fetch_folder(sha256)


def test_a_name_in_a_store_cannot_lead_out_of_the_cache(
    store: ArtifactStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sha256 = _upload(store, model)
    monkeypatch.setattr(Checkpoint, "list_files", lambda self: {"../../../planted.json": 2})
    monkeypatch.setattr(Checkpoint, "iter_chunks", lambda self, file: iter([b"{}"]))
    with pytest.raises(DamagedArtifactError, match="leads out"):
        made.fetch_folder(sha256)
    assert list(tmp_path.rglob("planted.json")) == []


def test_a_training_writes_to_scratch_and_its_model_appears_in_the_store(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "checkpoint").mkdir(parents=True)
    (scratch / "checkpoint" / "config.json").write_text("of a killed attempt")
    made = Checkpoint(store, "mine/iteration-1/checkpoint")
    with made.open_for_writing(scratch) as folder:
        assert not folder.exists()
        model.rename(folder)
        sha256 = hash_model_folder(folder)
    assert made.compute_sha256() == sha256
    assert list(scratch.iterdir()) == []
    store.delete(made.name)
    assert hash_model_folder(made.fetch_folder(sha256)) == sha256, "this machine has it already"


def test_one_process_at_a_time_holds_an_experiment(store: ArtifactStore) -> None:
    with experiment_lock.lock_experiment(store, "mine"):
        with (
            pytest.raises(ExperimentBusyError, match=r"process .* on "),
            experiment_lock.lock_experiment(store, "mine"),
        ):
            pass
        with experiment_lock.lock_experiment(store, "other"):
            pass
    with experiment_lock.lock_experiment(store, "mine"):
        pass
    assert len(store.list_names("mine/.lock")) == 1


def test_of_many_who_want_it_at_once_one_gets_it(root: str) -> None:
    won: list[experiment_lock.Lease] = []
    barrier = threading.Barrier(6)

    def claim(number: int) -> None:
        lease = experiment_lock.Lease(ArtifactStore(root), "mine/.lock")
        barrier.wait()
        try:
            lease.claim()
        except ExperimentBusyError:
            return
        won.append(lease)

    _together(claim, 6)
    assert len(won) == 1


def test_who_is_silent_for_long_is_overtaken_and_learns_of_it(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, living = (experiment_lock.Lease(store, "mine/.lock") for _ in range(2))
    silent.claim()
    with pytest.raises(ExperimentBusyError):
        living.claim()
    monkeypatch.setattr(experiment_lock, "LEASE_SECONDS", 0.0)
    living.claim()
    living.renew()
    silent.renew()
    assert silent.is_lost
    assert not living.is_lost


@pytest.mark.parametrize("at_ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_work_whose_lock_was_taken_is_stopped(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, at_ctrl_c: Any
) -> None:
    """Also what a script runs in the background, where Ctrl-C is ignored."""
    monkeypatch.setattr(experiment_lock, "RENEWAL_SECONDS", 0.05)
    before = signal.signal(signal.SIGINT, at_ctrl_c), signal.getsignal(signal.SIGUSR2)

    def work() -> None:
        with experiment_lock.lock_experiment(store, "mine"):
            while not _take_over(store, "mine/.lock"):
                pass
            threading.Event().wait(20)

    try:
        with pytest.raises(ExperimentBusyError, match="taken this experiment over"):
            work()
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert signal.getsignal(signal.SIGUSR2) == before[1]


def _take_over(store: ArtifactStore, folder: str) -> bool:
    """Write the next number, as another process does that takes this one for dead."""

    def latest() -> int:
        return int(max(store.list_names(folder), default="00000000.json").removesuffix(".json"))

    number = latest() + 1
    # Free may also be a number that its writer has removed, for it has gone on meanwhile.
    return store.put_if_absent(f"{folder}/{number:08d}.json", b"{}") and latest() == number


def _together(work: Callable[[int], object], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
