"""Block sampling for an iteration until the judge probe has passed or is accepted.

The report is one of the iteration's files, so the worker that runs the next shard finds it. It is
valid only for the settings of the probe: if those of actor, judge or meta-judge change, the next
shard requires another probe, in any iteration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import NeedsAttentionError
from meta_reward_core.evaluation.judge_health import HealthLimits
from meta_reward_core.evaluation.judge_probe import ProbeResult, run_judge_probe
from meta_reward_core.recipes.dataflow import GENERATE, JUDGE, META_JUDGE
from meta_reward_core.recipes.schema import ProbeRecipe
from meta_reward_core.storage.artifact_store import encode_canonical_json, hash_json
from meta_reward_core.storage.layout import (
    PROBE_ACCEPTANCE,
    PROBE_REPORT,
    get_probe_table_path,
)
from meta_reward_core.storage.records import Prompt
from meta_reward_core.storage.schemas import build_table, to_parquet, to_records
from meta_reward_core.storage.shards import IterationFiles

ACCEPT_OPTION: Final = "--accept-probe"
ANY: Final = "any"
"""Key of an acceptance without a report."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """A stored probe.

    Attributes:
        key: hash of its inputs.
        settings: hash of the settings of the three roles; None in reports of earlier versions.
        report: the report in the form of `ProbeReport.to_json`.
        accepted: who accepted the findings, and why; None if no user accepted them.
    """

    key: str
    settings: str | None
    report: dict[str, Any]
    accepted: dict[str, Any] | None

    @property
    def findings(self) -> list[dict[str, str]]:
        """Reasons not to continue."""
        return list(self.report.get("findings", []))

    @property
    def passed(self) -> bool:
        """Whether the iteration may continue."""
        return not self.findings or self.accepted is not None


def read_probe(files: IterationFiles) -> ProbeRecord | None:
    """Read the probe of an iteration; None if there was none.

    Raises:
        ArtifactError: the report cannot be read.
    """
    stored = files.read_note(PROBE_REPORT)
    if not isinstance(stored, dict):
        return None
    accepted = files.read_note(PROBE_ACCEPTANCE)
    is_about_this = isinstance(accepted, dict) and accepted.get("key") in (stored["key"], ANY)
    return ProbeRecord(
        stored["key"],
        stored.get("settings"),
        stored["report"],
        accepted if is_about_this else None,
    )


def accept_probe(files: IterationFiles, *, by: str) -> bool:
    """Let an iteration continue despite present or future findings of its probe.

    Args:
        by: name of the user who accepted, for the record.

    Returns:
        False if the probe has passed, or was accepted before.
    """
    found = read_probe(files)
    if found is not None and found.passed:
        return False
    accepted = {"key": ANY if found is None else found.key, "by": by}
    files.replace_note(PROBE_ACCEPTANCE, encode_canonical_json(accepted))
    return True


def require_judge_probed(context: IterationContext, resources: StageResources) -> None:
    """Probe the judge before an experiment's first shard, and after changes of its settings.

    An experiment created before probes were introduced is not probed, nor is a reward model, which
    writes nothing that could be unreadable or cut off.

    Raises:
        NeedsAttentionError: the probe has findings that no user has accepted.
    """
    settings = context.recipe.probe
    if not settings.prompts or context.reward_model is not None:
        return
    key = _compute_key(context)
    found = read_probe(context.files)
    if found is None or found.key != key:
        if not _is_due(context, found):
            return
        _store(context, key, _probe(context, resources, settings))
        found = read_probe(context.files)
    if found is not None and not found.passed:
        raise NeedsAttentionError(describe_probe(found))


def _is_due(context: IterationContext, found: ProbeRecord | None) -> bool:
    """Whether an iteration that has no report for its settings and limits needs one.

    Args:
        found: its report for other settings or limits, if any.
    """
    if found is not None and not found.passed:
        return True
    has_sampled = any(made.stage == GENERATE.name for made in context.files.list_manifests())
    if not has_sampled and (found is not None or context.number == 1):
        return True
    earlier = (read_probe(files) for files in reversed(context.earlier))
    latest = found or next((record for record in earlier if record is not None), None)
    return latest is not None and latest.settings not in (None, _hash_settings(context))


def describe_probe(found: ProbeRecord) -> str:
    """Describe a probe's findings and their remedies in sentences."""
    return "\n".join(
        [
            f"The judge probe stopped the run after {found.report['prompts']} of "
            f"{found.report['wanted']} prompts ({found.report['seconds']:.0f} s):",
            *(f"- {one['sentence']} {one['remedy']}" for one in found.findings),
            f"Change the settings and run again, or continue unchanged with {ACCEPT_OPTION}.",
        ]
    )


def make_limits(settings: ProbeRecipe) -> HealthLimits:
    """Return the health limits of a recipe."""
    return HealthLimits(
        min_readable_share=settings.min_readable_share,
        max_cut_off_share=settings.max_cut_off_share,
        max_same_score_share=settings.max_same_score_share,
        max_refused_share=settings.max_refused_share,
        min_pair_share=settings.min_pair_share,
    )


def _select_settings(context: IterationContext) -> dict[str, Any]:
    return {spec.name: context.select_values(spec) for spec in (GENERATE, JUDGE, META_JUDGE)}


def _hash_settings(context: IterationContext) -> str:
    return hash_json(_select_settings(context))


def _compute_key(context: IterationContext) -> str:
    settings = context.recipe.probe
    return hash_json(
        {
            "settings": _select_settings(context),
            "probe": [settings.prompts, settings.seconds, asdict(make_limits(settings))],
            "model": context.model.get_hash("drawing"),
            "seed": context.seed,
        }
    )


def _probe(
    context: IterationContext, resources: StageResources, settings: ProbeRecipe
) -> ProbeResult:
    return run_judge_probe(
        _take_prompts(context.files, settings.prompts),
        context.recipe,
        context.templates,
        engine=resources.get_engine(context.model, context.recipe.engine),
        judge=resources.get_judge_engine(context.model, context.recipe),
        iteration=context.number,
        seed=derive_seed(context.seed, "probe"),
        seconds=settings.seconds,
        limits=make_limits(settings),
        chat_date=context.chat_date,
    )


def _take_prompts(files: IterationFiles, count: int) -> list[Prompt]:
    """Return the first prompts of the iteration, which are a random sample of the pool."""
    taken: list[Prompt] = []
    for part in files.list_partition_numbers("prompts"):
        taken += to_records(files.read("prompts", part), Prompt)[: count - len(taken)]
        if len(taken) >= count:
            break
    return taken


def _store(context: IterationContext, key: str, result: ProbeResult) -> None:
    """Store rows first and the report last."""
    files = context.files
    for table, rows in _iter_tables(result):
        files.replace_note(get_probe_table_path(table), to_parquet(build_table(table, rows)))
    stored = {
        "key": key,
        "settings": _hash_settings(context),
        "report": result.report.to_json(),
    }
    files.replace_note(PROBE_REPORT, encode_canonical_json(stored))


def _iter_tables(result: ProbeResult) -> Iterator[tuple[str, Sequence[object]]]:
    yield "responses", result.responses
    yield "judgments", result.judgments
    yield "battles", result.battles
