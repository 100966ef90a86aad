"""Items that can be sent to an audit: a response, or a pair of judgments."""

from collections.abc import Sequence
from dataclasses import dataclass

from meta_reward_core.review.sampling_units import UnitKind
from meta_reward_core.storage.records import Battle, Judgment, ResponseScore
from meta_reward_core.storage.schemas import to_records
from webapp.results.iteration_reader import OpenIteration, read_prompt_rows
from webapp.results.prompt_index import IterationIndex


@dataclass(frozen=True, slots=True)
class AuditOption:
    """An item that can be sent.

    Attributes:
        key: identifies it in audits.
        part: number of the partitions that contain it.
    """

    kind: UnitKind
    key: str
    label: str
    part: int


def list_audit_options(
    opened: OpenIteration,
    index: IterationIndex,
    row: int,
    *,
    response: str = "",
    judgment: str = "",
    other: str = "",
) -> Sequence[AuditOption]:
    """List the items that the given ids refer to.

    Args:
        response: id of a scored response.
        judgment: id of a judgment, which selects all pairs in which it battled.
        other: id of a second judgment, which selects only this pair.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    part, prompt_id = int(index.get_counts("part")[row]), index.prompt_ids[row]
    if response:
        scores = to_records(
            read_prompt_rows(opened.files, "scores", part, prompt_id), ResponseScore
        )
        is_scored = any(one.response_id == response and one.mean is not None for one in scores)
        label = f"Response {response}: how good is it?"
        return [AuditOption("responses", response, label, part)] if is_scored else []
    judgments = {
        one.judgment_id: one
        for one in to_records(
            read_prompt_rows(opened.files, "judgments", part, prompt_id), Judgment
        )
    }
    battles = to_records(read_prompt_rows(opened.files, "battles", part, prompt_id), Battle)
    pairs = {frozenset((one.first_judgment_id, one.second_judgment_id)) for one in battles}
    wanted = {judgment, other} - {""}
    found = sorted(sorted(pair) for pair in pairs if wanted and wanted <= pair)
    return [
        AuditOption("judgments", f"{first} {second}", _label_pair(judgments, first, second), part)
        for first, second in found
    ]


def _label_pair(judgments: dict[str, Judgment], first: str, second: str) -> str:
    a, b = judgments[first], judgments[second]
    scores = " and ".join("no score" if one.score is None else f"{one.score:g}" for one in (a, b))
    return f"Judgments {a.sample} and {b.sample} (scores {scores}): which is better?"
