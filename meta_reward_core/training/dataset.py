"""The training rows of an iteration: its pairs, except those withheld, and human pairs.

Human decisions are written to the files before training, as an additional shard, `audit`. It does
not belong to a stage: the process that runs the iteration writes it from a database that this
package does not use. Without it, an iteration trains on all its pairs. It is an input of training,
so its hashes are part of the key of training.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.context import IterationContext
from meta_reward_core.engines.base import pack_token_ids
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.models.reasoning import ReasoningPolicy, select_answer
from meta_reward_core.storage.layout import get_partition_path
from meta_reward_core.storage.records import PairKind
from meta_reward_core.storage.schemas import build_table, get_schema
from meta_reward_core.storage.shards import (
    Counts,
    IterationFiles,
    StageOutput,
    compute_shard_key,
)
from meta_reward_core.training.row_types import SampledTokens

Row = dict[str, Any]

AUDIT_TABLES: Final = ("withheld", "human_pairs")
PAIR_KINDS: Final[tuple[PairKind, ...]] = ("actor", "judge")
PAIR_SIDES: Final = ("chosen", "rejected")
ID_COLUMNS: Final = {"responses": "response_id", "judgments": "judgment_id"}
"""Tables of completions with stored token ids, and the id column of each table."""

_AUDIT: Final = "audit"
_BATCH_ROWS: Final = 256


CompletionKey = tuple[int, str, str]
"""Key of a stored completion: iteration, table, id."""


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """The tokens of a stored completion, packed, with its text; see `SampledTokens`."""

    text: str
    token_ids: "array[int]"
    finish_reason: str | None
    injected_at: tuple[int, ...] = ()

    def spells(self, text: str, policy: ReasoningPolicy) -> bool:
        """Return whether these tokens match `text`; the completion may have been regenerated."""
        return text in {self.text, select_answer(self.text, policy)}

    def to_row(self) -> SampledTokens:
        """Convert to the form used in training rows."""
        row: SampledTokens = {
            "token_ids": self.token_ids.tolist(),
            "finish_reason": self.finish_reason,
        }
        if self.injected_at:
            row["injected_at"] = list(self.injected_at)
        return row


@dataclass(frozen=True, slots=True)
class WithheldPairs:
    """A kind of pairs that an iteration must not train on, with the reason."""

    kind: PairKind
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Training rows: preference pairs, read from disk on each iteration, then human pairs.

    A row includes the token ids of its completions if they are stored; see `PreferenceRow`.

    Attributes:
        pairs: names of the tables of pairs.
        human: the human pairs that were selected.
        counts: numbers of human pairs and of withheld pairs; empty without an audit.
        sampled: stored tokens of the completions of these rows, by completion key.
        reasoning: reasoning policies by kind of row.
    """

    files: IterationFiles
    pairs: tuple[str, ...]
    human: tuple[Row, ...] = ()
    counts: Counts = field(default_factory=dict)
    sampled: Mapping[CompletionKey, StoredTokens] = field(default_factory=dict)
    reasoning: Mapping[str, ReasoningPolicy] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(_count_rows(self.files, table) for table in self.pairs) + len(self.human)

    def __iter__(self) -> Iterator[Any]:
        for table in self.pairs:
            for some in self.files.read(table).to_batches(_BATCH_ROWS):
                yield from (self._complete(row) for row in some.to_pylist())
        yield from (self._complete(row) for row in self.human)

    def _complete(self, row: Row) -> Row:
        """Return the row with its policy and, as far as known, the tokens of its completions."""
        policy = self.reasoning.get(row["kind"], "keep")
        completed = row if policy == "keep" else row | {"reasoning": policy}
        for side in PAIR_SIDES:
            stored = self.sampled.get(get_completion_key(row, side))
            if stored is not None and stored.spells(row[side][0]["content"], policy):
                completed = completed | {f"{side}_drawn": stored.to_row()}
        return completed


def write_audit(
    files: IterationFiles, *, withheld: Sequence[WithheldPairs], human_pairs: Sequence[Row] | None
) -> None:
    """Write an audit's effects on an iteration's training; equal content is not rewritten.

    Args:
        human_pairs: rows of the table `human_pairs`; None if none are requested. An empty table is
            written too, so that a pair that is added later does not change the training.
    """
    reasons = [asdict(one) for one in withheld]
    rows = list(human_pairs or ())
    key = compute_shard_key(stage=_AUDIT, withheld=reasons, human_pairs=rows)
    if files.find_finished(_AUDIT, 0, key) is not None:
        return
    files.discard(_AUDIT, 0, [get_partition_path(table, 0) for table in AUDIT_TABLES])
    if not reasons and human_pairs is None:
        return
    tables = {
        ("withheld", 0): build_table("withheld", reasons),
        ("human_pairs", 0): build_table("human_pairs", rows),
    }
    counts = {"withheld_kinds": len(reasons), "human_pairs": len(rows)}
    files.publish(_AUDIT, 0, key=key, work=StageOutput(tables, counts), packages={})


def has_audit(files: IterationFiles) -> bool:
    """Return whether the audit shard was ever written."""
    return files.find_manifest(_AUDIT) is not None


def has_whole_audit(files: IterationFiles) -> bool:
    """Return whether the audit shard is written and undamaged."""
    manifest = files.find_manifest(_AUDIT)
    return manifest is not None and files.find_finished(_AUDIT, 0, manifest.key) is not None


def load_training_rows(context: IterationContext) -> TrainingRows:
    """Collect the rows that an iteration trains on.

    Human pairs are pairs of judgments, so they are excluded wherever judge pairs are. The
    experiment's seed determines which of them are sampled.
    """
    files = context.files
    kinds = [kind for kind in PAIR_KINDS if context.recipe.trains_on(kind, context.number)]
    withheld = set(files.read("withheld")["kind"].to_pylist())
    pairs = tuple(f"{kind}_pairs" for kind in kinds if kind not in withheld)
    recipe = context.recipe
    policies = {"actor": recipe.actor.reasoning} | dict.fromkeys(
        ("judge", "human"), recipe.judge.reasoning
    )
    own = TrainingRows(files, pairs, reasoning=policies)
    if not has_audit(files):
        return _with_sampled_tokens(own, context)
    left_out = sum(_count_rows(files, f"{kind}_pairs") for kind in kinds if kind in withheld)
    offered = files.read("human_pairs").to_pylist() if "judge" in {*kinds} - withheld else []
    taken = sample_human_pairs(
        offered,
        others=len(own),
        max_share=context.recipe.audit.human_pairs_share,
        seed=context.seed,
    )
    counts = {"withheld": left_out, "human": len(taken), "human_offered": len(offered)}
    return _with_sampled_tokens(replace(own, human=tuple(taken), counts=counts), context)


def get_completion_key(row: Row, side: str) -> CompletionKey:
    """Return the key of the stored completion on one side of a pair."""
    if row["kind"] == "actor":
        return row["iteration"], "responses", row[f"{side}_response_id"]
    return row["iteration"], "judgments", row[f"{side}_judgment_id"]


def _with_sampled_tokens(rows: TrainingRows, context: IterationContext) -> TrainingRows:
    """Add the stored tokens of the rows' completions; no other tokens are kept in memory."""
    wanted = {get_completion_key(row, side) for row in rows for side in PAIR_SIDES}
    sampled: dict[CompletionKey, StoredTokens] = {}
    for number, table in sorted({(number, table) for number, table, _ in wanted}):
        ids = {name for *place, name in wanted if place == [number, table]}
        files = _get_files(context, number)
        if files is not None:
            stored = read_stored_tokens(files, table, ids)
            sampled |= {(number, table, name): tokens for name, tokens in stored.items()}
    return replace(rows, sampled=sampled)


def _get_files(context: IterationContext, number: int) -> IterationFiles | None:
    """Return the files of this or an earlier iteration; None for an unknown iteration."""
    known = (*context.earlier, context.files)
    return known[number - 1] if 1 <= number <= len(known) else None


def read_stored_tokens(
    files: IterationFiles, table: str, ids: Iterable[str]
) -> dict[str, StoredTokens]:
    """Read responses or judgments by id, with their tokens; those without tokens are skipped.

    One part of the table is in memory at a time.
    """
    id_column = ID_COLUMNS[table]
    columns = [id_column, "text", "token_ids", "finish_reason"]
    if "injected_at" in get_schema(table).names:
        columns.append("injected_at")
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, StoredTokens] = {}
    for part in files.list_partition_numbers(table):
        rows = files.read(table, part, columns=columns)
        rows = rows.filter(
            pc.and_(pc.is_in(rows[id_column], wanted), pc.is_valid(rows["token_ids"]))
        )
        for name, text, token_ids, reason, *injected in zip(
            *(column.to_pylist() for column in rows), strict=True
        ):
            positions = tuple(injected[0] or ()) if injected else ()
            found[name] = StoredTokens(text, pack_token_ids(token_ids), reason, positions)
    return found


def _count_rows(files: IterationFiles, table: str) -> int:
    return sum(part.rows for part in files.list_partitions(table))


def sample_human_pairs(
    offered: Sequence[Row], *, others: int, max_share: float, seed: int
) -> list[Row]:
    """Sample human pairs up to a share of all rows; the same seed selects the same pairs.

    Args:
        others: number of rows that are not human pairs.
        max_share: maximum share of human pairs among all rows, in [0, 1).
    """
    allowed = int(others * max_share / (1 - max_share) + 1e-9)
    shuffled = sorted(offered, key=lambda row: derive_seed(seed, "human", *_get_row_key(row)))
    taken = {_get_row_key(row) for row in shuffled[:allowed]}
    return [row for row in offered if _get_row_key(row) in taken]


def _get_row_key(row: Row) -> tuple[str, ...]:
    return str(row["iteration"]), row["chosen_judgment_id"], row["rejected_judgment_id"]
