"""Stop a stage whose replies are useless, after the shard that reveals it.

After each shard of actor, judge and meta-judge, the measures of `judge_health` are computed from
its replies, and from those of earlier shards if it has too few. If they exceed the recipe's limits
(`probe.*`), the shard is kept, and a note records why no other shard of the stage may start. The
note is one of the iteration's files, so every worker and every command finds it. It is valid for
that shard only: if changed settings require the shard to be recomputed, the note does not stop it.
Limits are read each time, so changing a limit is enough to continue.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import NeedsAttentionError
from meta_reward_core.evaluation.judge_health import (
    Finding,
    ReplyTally,
    Role,
    diagnose_actor,
    diagnose_replies,
)
from meta_reward_core.evaluation.probe_gate import (
    ACCEPT_OPTION,
    accept_probe,
    make_limits,
    read_probe,
)
from meta_reward_core.recipes.dataflow import GENERATE, JUDGE, META_JUDGE, StageSpec
from meta_reward_core.recipes.schema import DecodingRecipe, Recipe
from meta_reward_core.storage.artifact_store import encode_canonical_json
from meta_reward_core.storage.layout import BREAKER_ACCEPTANCE, get_breaker_path
from meta_reward_core.storage.records import Battle, Judgment, RefusedPrompt, Response
from meta_reward_core.storage.schemas import to_records
from meta_reward_core.storage.shards import IterationFiles, StageOutput

MIN_REPLIES: Final = 50
"""With fewer replies, an unfinished stage is not stopped."""

MIN_PROMPTS: Final = 8
"""Replies about one prompt are similar, so replies about fewer prompts do not represent the rest.
"""

_ROLES: Final[dict[str, Role]] = {
    GENERATE.name: "actor",
    JUDGE.name: "judge",
    META_JUDGE.name: "meta-judge",
}


@dataclass(frozen=True, slots=True)
class BreakerNote:
    """A finding that stopped a stage.

    Attributes:
        stage: name of the stage.
        shard: number of the shard that revealed the finding.
        key: key of the shard at that time.
        prompts: number of measured prompts.
        tally: counts of the replies to these prompts.
    """

    stage: str
    shard: int
    key: str
    prompts: int
    tally: ReplyTally

    def diagnose(self, recipe: Recipe) -> list[Finding]:
        """Find faults according to the limits of a recipe."""
        return _diagnose(self.stage, self.tally, recipe)

    def to_json(self) -> dict[str, Any]:
        """Convert it to plain values."""
        tally = {one.name: getattr(self.tally, one.name) for one in fields(self.tally)}
        tally["scores"] = sorted(self.tally.scores.items())
        return {
            "stage": self.stage,
            "shard": self.shard,
            "key": self.key,
            "prompts": self.prompts,
            "tally": tally,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BreakerNote":
        """Parse the output of `to_json`."""
        tally = dict(values["tally"])
        scores = Counter({float(score): count for score, count in tally.pop("scores")})
        reasons: Counter[str] = Counter(tally.pop("reasons"))
        refusals: Counter[str] = Counter(tally.pop("refusals", {}))  # absent in earlier versions
        counted = ReplyTally(**tally, reasons=reasons, scores=scores, refusals=refusals)
        return cls(**values | {"tally": counted})


def read_breaker(files: IterationFiles, stage: str) -> BreakerNote | None:
    """Read the finding that stopped a stage; None if none did or its shard will be recomputed.

    Raises:
        ArtifactError: the note cannot be read.
    """
    if stage not in _ROLES:
        return None
    stored = files.read_note(get_breaker_path(stage))
    if not isinstance(stored, dict):
        return None
    note = BreakerNote.from_json(stored)
    made = files.find_manifest(stage, note.shard)
    return note if made is not None and made.key == note.key else None


def list_breakers(files: IterationFiles) -> list[BreakerNote]:
    """Return the findings that stopped stages of an iteration, in order."""
    notes = (read_breaker(files, stage) for stage in _ROLES)
    return [note for note in notes if note is not None]


def read_accepted_causes(files: IterationFiles) -> dict[str, str]:
    """Return the causes accepted for an iteration and its probe, with the users who accepted."""
    stored = files.read_note(BREAKER_ACCEPTANCE)
    accepted = dict(stored) if isinstance(stored, dict) else {}
    probe = read_probe(files)
    if probe is not None and probe.accepted is not None:
        by = probe.accepted["by"]
        accepted = dict.fromkeys((one["cause"] for one in probe.findings), by) | accepted
    return accepted


def accept_breakers(context: IterationContext, *, by: str) -> bool:
    """Let the stages of an iteration continue despite the findings that stopped them.

    Causes are accepted for this iteration: a different cause stops it again.

    Args:
        by: name of the user who accepted, for the record.

    Returns:
        False if no finding stops the iteration.
    """
    files = context.files
    accepted = read_accepted_causes(files)
    causes = {
        one.cause
        for note in list_breakers(files)
        for one in note.diagnose(context.recipe)
        if one.cause not in accepted
    }
    if not causes:
        return False
    decided = accepted | dict.fromkeys(sorted(causes), by)
    files.replace_note(BREAKER_ACCEPTANCE, encode_canonical_json(decided))
    return True


def accept_findings(context: IterationContext, *, by: str) -> bool:
    """Let an iteration continue despite present or future probe findings, and its breakers.

    Args:
        by: name of the user who accepted, for the record.

    Returns:
        False if there was nothing to accept.
    """
    if accept_breakers(context, by=by):
        return True
    is_probed = context.number == 1 or read_probe(context.files) is not None
    return is_probed and context.recipe.probe.prompts > 0 and accept_probe(context.files, by=by)


def require_stage_healthy(context: IterationContext, stage: str) -> None:
    """Refuse to start shards of a stage once a completed one has revealed a fault.

    Raises:
        NeedsAttentionError: a completed shard exceeds the limits of the recipe, and no user has
            accepted it.
    """
    note = read_breaker(context.files, stage)
    if note is None:
        return
    findings = find_open_findings(context.files, note, context.recipe)
    if findings:
        raise NeedsAttentionError(_describe(note, findings))


def find_open_findings(files: IterationFiles, note: BreakerNote, recipe: Recipe) -> list[Finding]:
    """Return the finding that still stops a stage: beyond the limits and not accepted."""
    findings = note.diagnose(recipe)
    if not findings:
        return []
    accepted = read_accepted_causes(files)
    return [one for one in findings if one.cause not in accepted]


def check_shard(
    context: IterationContext,
    spec: StageSpec,
    shard: int,
    work: StageOutput,
    *,
    key: str,
    is_finished: Callable[[int], bool],
) -> bool:
    """Measure a shard that is about to be published; write a note if the stage must stop.

    Args:
        is_finished: returns whether another shard of the stage is finished under the current
            settings.

    Returns:
        False if there are still too few replies. If several workers finish the last shards at the
        same time, none of them sees all shards before it publishes its own, so check again
        afterwards.
    """
    if spec.name not in _ROLES or not context.recipe.probe.check_shards:
        return True
    measured = _measure_shard(spec.name, context.files, shard, work, is_finished)
    if measured is None:
        return False
    measured.tally.prompts = len(measured.prompts)
    if _diagnose(spec.name, measured.tally, context.recipe):
        note = BreakerNote(spec.name, shard, key, len(measured.prompts), measured.tally)
        context.files.replace_note(
            get_breaker_path(spec.name), encode_canonical_json(note.to_json())
        )
    return True


@dataclass(slots=True)
class _Measured:
    """Replies of some shards, and their prompts."""

    tally: ReplyTally = field(default_factory=ReplyTally)
    prompts: set[str] = field(default_factory=set)

    @property
    def is_enough(self) -> bool:
        return len(self.prompts) >= MIN_PROMPTS and self.tally.replies >= MIN_REPLIES

    def add(self, stage: str, rows: Sequence[Any], refused: Sequence[RefusedPrompt]) -> None:
        """Add a shard; refused judgments and battles are among its rows."""
        self.prompts.update(row.prompt_id for row in (*rows, *refused))
        self.tally.add_refusals(refused)
        if stage == GENERATE.name:
            self.tally.add_responses(rows, refused=sum(one.replies for one in refused))
        elif stage == JUDGE.name:
            self.tally.add_judgments(rows)
        else:
            self.tally.add_battles(rows)


def _measure_shard(
    stage: str,
    files: IterationFiles,
    shard: int,
    work: StageOutput,
    is_finished: Callable[[int], bool],
) -> _Measured | None:
    """Count the replies of a shard, and of earlier shards until there are enough replies.

    Returns:
        None if there are too few replies and other shards are unfinished. If this shard is the last
        one of the stage, all replies are counted, even if there are few.
    """
    measured = _Measured()
    table, record = _TABLES[stage]
    refused = _REFUSALS[stage]
    measured.add(
        stage,
        _select_rows(work, table, record),
        _select_rows(work, refused, RefusedPrompt),
    )
    others = [number for number in files.list_partition_numbers("prompts") if number != shard]
    missing = False
    for other in sorted(others, key=lambda number: (number > shard, -number)):
        if measured.is_enough:
            return measured
        if is_finished(other):
            rows = files.read_records(record, other)
            measured.add(stage, rows, to_records(files.read(refused, other), RefusedPrompt))
        else:
            missing = True
    return None if missing and not measured.is_enough else measured


def _select_rows(work: StageOutput, table: str, record: type[Any]) -> Sequence[Any]:
    return [
        row
        for (name, _), rows in work.tables.items()
        if name == table
        for row in to_records(rows, record)
    ]


_TABLES: Final[dict[str, tuple[str, Any]]] = {
    GENERATE.name: ("responses", Response),
    JUDGE.name: ("judgments", Judgment),
    META_JUDGE.name: ("battles", Battle),
}
_REFUSALS: Final = {
    GENERATE.name: "refused_by_actor",
    JUDGE.name: "refused_by_judge",
    META_JUDGE.name: "refused_by_meta_judge",
}


def _diagnose(stage: str, tally: ReplyTally, recipe: Recipe) -> list[Finding]:
    role, limits = _ROLES[stage], make_limits(recipe.probe)
    tokens = _get_decoding(role, recipe).max_new_tokens
    if role == "actor":
        return diagnose_actor(tally, limits=limits, max_new_tokens=tokens)
    return diagnose_replies(tally, role=role, limits=limits, max_new_tokens=tokens)


def _get_decoding(role: Role, recipe: Recipe) -> DecodingRecipe:
    return {"actor": recipe.actor, "judge": recipe.judge, "meta-judge": recipe.meta_judge}[role]


def _describe(note: BreakerNote, findings: Sequence[Finding]) -> str:
    return "\n".join(
        [
            f"Shard {note.shard} of stage {note.stage} stopped the run; finished work is kept "
            f"({note.prompts:,} prompts measured):",
            *(f"- {one.sentence} {one.remedy}" for one in findings),
            f"Change the settings and run again, or continue unchanged with {ACCEPT_OPTION}.",
        ]
    )
