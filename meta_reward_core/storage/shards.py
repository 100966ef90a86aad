"""A shard is finished if its manifest has the current key and its files match their hashes.

A shard is a pure function of recipe, model, inputs and seed; their hash is the key of the shard.
The manifest is written after the shard's partitions, so a shard without a manifest is unfinished. A
shard whose key has changed (its inputs were recomputed and differ) is computed again.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from meta_reward_core.errors import (
    ArtifactError,
    DamagedArtifactError,
    StorageUnreachableError,
)
from meta_reward_core.storage.artifact_store import (
    ArtifactStore,
    encode_canonical_json,
    hash_bytes,
    hash_json,
)
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.layout import (
    CHECKPOINT,
    FINAL_MANIFEST,
    SHARD_MANIFESTS,
    ExperimentLayout,
    get_experiment_folder,
    get_partition_path,
    get_shard_manifest_path,
    parse_partition_number,
    parse_shard_manifest_name,
)
from meta_reward_core.storage.schemas import (
    MEANING_VERSION,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    WRITERS,
    Record,
    concatenate_tables,
    from_parquet,
    get_table_name,
    list_columns,
    to_parquet,
    to_records,
)
from meta_reward_core.system.untrusted_input import parse_json

Counts = dict[str, int]
ShardName = tuple[str, int]
"""A stage, and the number of its shard."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Results of a shard: tables by (name, partition number), and metrics."""

    tables: dict[tuple[str, int], pa.Table]
    counts: Counts = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """One Parquet file of a table. `path` is relative to the iteration's folder."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str

    @property
    def number(self) -> int:
        """Number of the partition."""
        return parse_partition_number(self.path)


@dataclass(frozen=True, slots=True)
class ShardManifest:
    """Contents of a finished shard, with hashes.

    Attributes:
        key: hash of all inputs of the shard.
        checkpoint: hash of the model folder that the shard created, if any.
    """

    stage: str
    shard: int
    key: str
    parts: tuple[Partition, ...]
    counts: Counts
    checkpoint: str | None
    packages: dict[str, str]

    @classmethod
    def from_json(cls, data: bytes) -> "ShardManifest":
        """Parse a manifest of the current or an earlier schema version.

        Raises:
            ValueError, KeyError, TypeError: the bytes are not a manifest.
        """
        values = parse_json(data)
        if not isinstance(values, dict):
            raise TypeError("is not an object")
        parts = tuple(Partition(**part) for part in values.pop("parts"))
        if values.pop("schema") not in READABLE_VERSIONS:
            raise ValueError("written under a later schema version")
        return cls(parts=parts, **values)

    def to_json(self) -> bytes:
        """Encode the manifest; the same manifest gives the same bytes."""
        return encode_canonical_json({"schema": SCHEMA_VERSION, **asdict(self)})


class IterationFiles:
    """The files of one iteration: table partitions, and the manifests that make them valid.

    An iteration may have tens of thousands of manifests, and reading one from a remote store takes
    a request. So a manifest is read only when its contents are needed, and then cached.
    """

    def __init__(self, store: ArtifactStore, folder: str) -> None:
        self.store = store
        self.folder = folder
        self._manifests: dict[ShardName, ShardManifest | None] = {}
        self._listed: set[ShardName] | None = None
        self._promises: dict[str, tuple[ShardManifest, Partition]] = {}

    def find_finished(self, stage: str, shard: int, key: str) -> ShardManifest | None:
        """Return the manifest of a finished, undamaged shard, else None."""
        manifest = self.find_manifest(stage, shard)
        if manifest is None or manifest.key != key:
            return None
        return manifest if self._is_whole(manifest) else None

    def find_manifest(self, stage: str, shard: int = 0) -> ShardManifest | None:
        """Return the stored manifest of a shard without checking its files."""
        name = stage, shard
        if name not in self._manifests and (self._listed is None or name in self._listed):
            self._remember(name, self._read_manifest(name))
        return self._manifests.get(name)

    def read_new_manifest(self, stage: str, shard: int) -> ShardManifest | None:
        """Read the manifest of a shard that another process has just finished, uncached."""
        self._forget(stage, shard)
        manifest = self._read_manifest((stage, shard))
        self._remember((stage, shard), manifest)
        return manifest

    def list_manifests(self) -> list[ShardManifest]:
        """Return all manifests, by stage and shard."""
        self.gather()
        known = (self._manifests[shard] for shard in sorted(self._manifests))
        return [manifest for manifest in known if manifest is not None]

    def gather(self, stages: Container[str] | None = None) -> None:
        """Prefetch the manifests of these stages, or of all stages."""
        unread = [
            shard
            for shard in self._list_manifest_names()
            if shard not in self._manifests and (stages is None or shard[0] in stages)
        ]
        read = self.store.read_each(self._read_manifest, unread)
        for shard, manifest in zip(unread, read, strict=True):
            self._remember(shard, manifest)

    def has_manifests(self) -> bool:
        """Whether any shard of the iteration is finished."""
        return bool(self._list_manifest_names())

    def count_finished_shards(self) -> dict[str, int]:
        """Count the shards with a manifest by stage name."""
        counts: dict[str, int] = {}
        for stage, _ in self._list_manifest_names():
            counts[stage] = counts.get(stage, 0) + 1
        return counts

    def list_finished_shards(self) -> list[ShardName]:
        """List the shards that have a manifest, sorted."""
        return sorted(self._list_manifest_names())

    @property
    def manifests_folder(self) -> str:
        """Folder of the shard manifests, relative to the store's root."""
        return self._get_path(SHARD_MANIFESTS)

    def is_finished(self) -> bool:
        """Whether the iteration's own manifest exists, which is written last."""
        return self.store.exists(self._get_path(FINAL_MANIFEST))

    def read_final_manifest(self) -> dict[str, Any] | None:
        """Read the iteration's own manifest; None if the iteration is not finished.

        Raises:
            ArtifactError: the file cannot be read.
        """
        data = self.store.read_if_exists(self._get_path(FINAL_MANIFEST))
        return None if data is None else dict(parse_json(data))

    def write_final_manifest(self, summary: Mapping[str, Any]) -> None:
        """Write the iteration's own manifest; an identical manifest is left unchanged."""
        name, data = self._get_path(FINAL_MANIFEST), encode_canonical_json(summary)
        if self.store.exists(name) and self.store.read(name) != data:
            self.store.delete(name)
        self.store.put_if_absent(name, data)

    def remove_partial_files(self) -> None:
        """Remove partial files of killed writers from the experiment's folder.

        Call it only while no other process writes to the folder.
        """
        self.store.remove_partial_files(self.experiment.folder)

    @property
    def experiment(self) -> ExperimentLayout:
        """File names of the experiment that the iteration belongs to."""
        return ExperimentLayout(get_experiment_folder(self.folder))

    def discard(self, stage: str, shard: int, stale_outputs: Iterable[str] = ()) -> None:
        """Discard a shard: its manifest first, so that its partitions are no longer trusted."""
        promised = self._forget(stage, shard)
        self.store.delete(self._get_path(get_shard_manifest_path(stage, shard)))
        for path in {*promised, *stale_outputs}:
            self.store.delete(self._get_path(path))

    def read_note(self, path: str) -> Any | None:
        """Read a JSON file that no manifest lists, such as the judge probe's report, or None.

        Raises:
            ArtifactError: the file cannot be read.
        """
        name = self._get_path(path)
        return self.store.read_json(name) if self.store.exists(name) else None

    def replace_note(self, path: str, data: bytes) -> None:
        """Write a file that no manifest lists, replacing an earlier file of the same name.

        Raises:
            StorageFullError: the disk or the store is full.
        """
        self.store.delete(self._get_path(path))
        self.store.put_if_absent(self._get_path(path), data)

    def publish(
        self, stage: str, shard: int, *, key: str, work: StageOutput, packages: Mapping[str, str]
    ) -> ShardManifest:
        """Write a shard's partitions, then its manifest.

        Raises:
            ArtifactError: another writer has stored different bytes under the same name.
            ValueError: readers would not look for such a partition in this shard's manifest.
        """
        for table, number in work.tables:
            if (stage, shard) not in _list_writers(table, number):
                raise ValueError(
                    f"shard {shard} of {stage!r} does not write part {number} of {table!r}: "
                    "see WRITERS"
                )
        parts = [
            self._put_partition(table, number, rows)
            for (table, number), rows in sorted(work.tables.items(), key=lambda item: item[0])
        ]
        manifest = ShardManifest(
            stage, shard, key, tuple(parts), work.counts, work.checkpoint, dict(packages)
        )
        self._put(get_shard_manifest_path(stage, shard), manifest.to_json())
        self._forget(stage, shard)
        self._remember((stage, shard), manifest)
        return manifest

    @property
    def checkpoint(self) -> Checkpoint:
        """The model that the iteration trains; for the pool, the remote experiment's copy of M0."""
        return Checkpoint(self.store, self._get_path(CHECKPOINT))

    def get_checkpoint_sha256(self) -> str | None:
        """Hash of the trained model according to its manifest; None before the training."""
        made = self.find_manifest("train")
        return made.checkpoint if made else None

    def list_partitions(self, table: str) -> list[Partition]:
        """List the partitions of a table in finished shards, by number."""
        return sorted(
            (known for _, known in self._find_promised(table)), key=lambda known: known.path
        )

    def find_partition(self, table: str, number: int) -> Partition | None:
        """Find one partition of a table in the finished shards."""
        return next((known for _, known in self._find_promised(table, number)), None)

    def list_partition_numbers(self, table: str) -> list[int]:
        """List the partition numbers of a table, ascending."""
        return [known.number for known in self.list_partitions(table)]

    def read(
        self, table: str, part: int | None = None, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read one or all partitions of a table, with some or all columns.

        Raises:
            DamagedArtifactError: a file does not match its manifest.
            KeyError: the table has no such column.
        """
        wanted = [known for _, known in self._find_promised(table, part)]
        wanted.sort(key=lambda known: known.path)
        return concatenate_tables(
            table, [self._read_partition(known, columns) for known in wanted], columns
        )

    def read_records(self, record: type[Record], part: int | None = None) -> list[Record]:
        """Read rows as records, without token ids.

        Raises:
            DamagedArtifactError: a file does not match its manifest.
        """
        rows = self.read(get_table_name(record), part, columns=list_columns(record))
        return to_records(rows, record)

    def hash_inputs(self, tables: Iterable[str], part: int | None = None) -> str:
        """Hash the inputs of a shard: the manifest hashes of its partitions, and of checkpoints."""
        read: dict[str, str | None] = {}
        for manifest, known in (
            one for table in tables for one in self._find_promised(table, part)
        ):
            read[known.path] = known.sha256
            read[f"{manifest.stage}/{CHECKPOINT}"] = manifest.checkpoint
        return hash_json(read)

    def _find_promised(
        self, table: str, part: int | None = None
    ) -> list[tuple[ShardManifest, Partition]]:
        """Find one or all partitions of a table in the manifests of finished shards."""
        if part is None:
            self.gather(WRITERS[table])
            return [one for one in list(self._promises.values()) if one[1].table == table]
        path = get_partition_path(table, part)
        for stage, shard in _list_writers(table, part):
            if path not in self._promises:
                self.find_manifest(stage, shard)
        return [self._promises[path]] if path in self._promises else []

    def _remember(self, shard: ShardName, manifest: ShardManifest | None) -> None:
        self._manifests[shard] = manifest
        if manifest is not None:
            self._promises |= {part.path: (manifest, part) for part in manifest.parts}

    def _forget(self, stage: str, shard: int) -> list[str]:
        """Drop a shard's cached manifest; return the files that it listed."""
        manifest = self.find_manifest(stage, shard)
        self._manifests[stage, shard] = None
        parts = manifest.parts if manifest else ()
        for part in parts:
            self._promises.pop(part.path, None)
        return [part.path for part in parts]

    def _list_manifest_names(self) -> set[ShardName]:
        """List the manifests as of the first call, so that a reader sees a consistent state."""
        if self._listed is None:
            names = self.store.list_names(self._get_path(SHARD_MANIFESTS))
            self._listed = set(filter(None, map(parse_shard_manifest_name, names)))
        return self._listed

    def _read_manifest(self, shard: ShardName) -> ShardManifest | None:
        """Read a manifest; None if it is damaged or was discarded since it was listed."""
        path = self._get_path(get_shard_manifest_path(*shard))
        data = self.store.read_if_exists(path)
        try:
            return ShardManifest.from_json(data) if data is not None else None
        except (ValueError, KeyError, TypeError):
            return None

    def _is_whole(self, manifest: ShardManifest) -> bool:
        try:
            if any(hash_bytes(self._read_bytes(part)) != part.sha256 for part in manifest.parts):
                return False
            return manifest.checkpoint in (None, self.checkpoint.compute_sha256())
        except StorageUnreachableError:
            raise  # it may be complete: do not compute it again because the network is down
        except ArtifactError:
            return False

    def _read_bytes(self, part: Partition) -> bytes:
        return self.store.read(self._get_path(part.path))

    def _read_partition(self, part: Partition, columns: Sequence[str] | None) -> pa.Table:
        data = self._read_bytes(part)
        if hash_bytes(data) != part.sha256:
            raise DamagedArtifactError(
                f"{self._get_path(part.path)} does not match its manifest; rerun the command "
                f"to rebuild the shard"
            )
        return from_parquet(
            data, name=part.table, origin=self._get_path(part.path), columns=columns
        )

    def _put_partition(self, table: str, number: int, rows: pa.Table) -> Partition:
        data = to_parquet(rows)
        path = get_partition_path(table, number)
        self._put(path, data)
        return Partition(table, path, rows.num_rows, len(data), hash_bytes(data))

    def _put(self, path: str, data: bytes) -> None:
        name = self._get_path(path)
        if not self.store.put_if_absent(name, data) and self.store.read(name) != data:
            raise ArtifactError(f"conflict: another attempt wrote different content to {name}")

    def _get_path(self, path: str) -> str:
        return f"{self.folder}/{path}"


def _list_writers(table: str, part: int) -> list[ShardName]:
    """List the shards that can write a partition: shard k, or shard 0 if it writes all."""
    return [(stage, shard) for stage in WRITERS[table] for shard in (part, 0)]


def compute_shard_key(**ingredients: Any) -> str:
    """Hash all inputs of a shard.

    The key contains only `MEANING_VERSION`, so added columns do not invalidate earlier shards.
    """
    return hash_json({"schema": MEANING_VERSION, **ingredients})
