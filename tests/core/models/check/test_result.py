"""Results of the model check: their sentence, their worst level and their JSON form."""

import json

from meta_reward_core.models.check.result import Check, CheckReport, Level

MISSING = Check(
    "weights.keys",
    "Weights",
    Level.RED,
    "no tensor for 2 parameters",
    remedy="download the file again",
    file="model.safetensors",
)
FINE = Check("config", "Configuration", Level.GREEN, "readable")
NOTE = Check("template.system", "Chat template", Level.AMBER, "adds a default system turn")


def test_a_result_is_one_sentence_of_file_finding_and_remedy() -> None:
    assert MISSING.describe() == (
        "model.safetensors: no tensor for 2 parameters; download the file again."
    )
    assert FINE.describe() == "readable."


def test_a_report_is_as_serious_as_its_worst_result() -> None:
    assert CheckReport("m", ()).level is Level.GREEN
    assert CheckReport("m", (FINE, NOTE)).level is Level.AMBER
    assert CheckReport("m", (NOTE, MISSING, FINE)).level is Level.RED


def test_a_report_read_back_from_json_is_equal() -> None:
    report = CheckReport("models/mine", (FINE, NOTE, MISSING))
    written = json.dumps(report.to_json())
    assert CheckReport.from_json(json.loads(written)) == report
    assert json.loads(written)["level"] == "red"


def test_results_are_selected_by_level() -> None:
    report = CheckReport("m", (FINE, MISSING, NOTE))
    assert report.select(Level.RED) == [MISSING]
    assert report.select(Level.AMBER) == [NOTE]
