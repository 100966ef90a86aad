"""The report of a model check among an experiment's files."""

from meta_reward_core.models.check.result import CheckReport
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.system.untrusted_input import parse_json


def write_report(store: ArtifactStore, experiment: str, report: CheckReport) -> None:
    """Keep a report beside the experiment's description; the first one stays."""
    store.put_if_absent(_get_name(experiment), encode_canonical_json(report.to_json()))


def read_report(store: ArtifactStore, experiment: str) -> CheckReport | None:
    """The report that an experiment began with; None if there is none."""
    data = store.read_if_exists(_get_name(experiment))
    return None if data is None else CheckReport.from_json(parse_json(data))


def _get_name(experiment: str) -> str:
    return f"{experiment}/model_check.json"
