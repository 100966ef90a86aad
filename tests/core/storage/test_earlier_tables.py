"""An iteration that version 1 of the tables began is finished by this one, shard by shard."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meta_reward_core.evaluation.iteration_metrics import measure_iteration
from meta_reward_core.storage import shards
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Battle, Judgment, Response
from meta_reward_core.storage.schemas import ADDED_COLUMNS, RECORDS, SCHEMAS, to_parquet
from meta_reward_core.storage.shards import IterationFiles
from tests.core.scripted_world import (
    begin,
    long_winded_reply,
    make_scripted_resources,
    run_before_training,
    stages_before_training,
)

FIXTURE = Path(__file__).parents[2] / "upgrades" / "3600774" / "files.tar.gz"


def write_as_version_1(table: pa.Table) -> bytes:
    """The bytes that version 1 wrote of a table."""
    for name, columns in ADDED_COLUMNS[2].items():
        if table.schema.equals(SCHEMAS[name]):
            return to_parquet(table.drop_columns(list(columns)))
    return to_parquet(table)


def bytes_of(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("until", ["generate", "judge", "meta_judge", "pair_judge"])
def test_an_iteration_that_version_1_began_goes_on_and_nothing_is_made_again(
    tmp_path: Path, until: str
) -> None:
    """Of the last stage that version 1 was at, it made the first shard alone."""
    root, resources = tmp_path / "artifacts", make_scripted_resources(tmp_path, long_winded_reply)
    meta_judge = {"max_judgments": None, "max_chosen_judgment_chars": None}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards, "to_parquet", write_as_version_1)
        patched.setattr(shards, "SCHEMA_VERSION", 1)
        experiment = begin(root, meta_judge=meta_judge)
        context = experiment.build_context(1)
        for stage in stages_before_training():
            count = 1 if stage.name == until else stage.plan_shards(context)
            for shard in range(count):
                stage.run_shard(context, shard, resources)
            if stage.name == until:
                break
    before = bytes_of(root)
    context = experiment.build_context(1)
    ran = run_before_training(context, resources)
    after = bytes_of(root)
    assert {path: after[path] for path in before} == before
    assert (until, 0) not in ran
    assert bool(ran) == (until != "pair_judge")
    judgments = context.files.read("judgments")
    known = judgments["finish_reason"].to_pylist()
    assert (None in known) == (until in ("judge", "meta_judge", "pair_judge"))
    assert measure_iteration(context.files, kinds=["actor", "judge"]).judge is not None


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> IterationFiles:
    """Iteration 1 of an experiment that an earlier version of the program made."""
    root = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(FIXTURE, root)
    return IterationFiles(ArtifactStore(str(root / "artifacts")), "kept/iteration-1")


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_table_of_an_earlier_version_is_read(earlier: IterationFiles, table: str) -> None:
    parts = sorted((Path(earlier.store.root) / earlier.folder / table).glob("*.parquet"))
    read = earlier.read(table)
    assert read.schema.equals(SCHEMAS[table])
    assert len(read) == sum(pq.ParquetFile(part).metadata.num_rows for part in parts)
    for column in ADDED_COLUMNS[2].get(table, ()):
        assert read[column].null_count == len(read) > 0
    if parts:
        on_disk = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
        assert read.select(on_disk.column_names).equals(on_disk)


@pytest.mark.parametrize("record", RECORDS.values())
def test_every_record_of_an_earlier_version_is_read(earlier: IterationFiles, record: type) -> None:
    read: list[object] = earlier.read_records(record)
    for found in read:
        assert getattr(found, "token_ids", None) is None
        if isinstance(found, Judgment | Battle):
            assert (found.finish_reason, found.readout, found.probabilities) == (None,) * 3
    assert earlier.read_records(Response)
    assert not any(judgment.is_cut_off for judgment in earlier.read_records(Judgment))
