"""`manage.py train_seed` up to the door of the training."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError

from tests.workers.installation import Installation


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the training was called with."""
    calls: list[dict[str, Any]] = []

    def train_sft(rows: list[Any], **given: Any) -> SimpleNamespace:
        calls.append({"rows": rows, **given})
        given["on_log"]({"step": 1.0, "epoch": 0.5, "loss": 2.0})
        given["checkpoint"].mkdir()
        refused = [SimpleNamespace(prompt_id="p" * 64, kind="eft", reason="too long")]
        return SimpleNamespace(rows_trained=len(rows), rows_held_out=0, refused=refused)

    fake = SimpleNamespace(train_sft=train_sft)
    monkeypatch.setitem(sys.modules, "meta_reward_core.training.sft", fake)
    return calls


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "judge this", "response": "fine\nScore: 4"},
        {"prompt": "say hello", "response": "hello"},
        {"prompt": " ", "response": "nothing asked"},
    ]
    path = tmp_path / "eft.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(installation: Installation, data: Path, *more: object) -> str:
    arguments = ["--model", "stub", "--data", data, "--output", "seed", *more]
    return installation.run("train_seed", *arguments)


def test_rows_and_settings_reach_the_training(
    installation: Installation, data: Path, trained: list[dict[str, Any]]
) -> None:
    shown = run(installation, data, "--epochs", 2, "--dtype", "float32", "--lora-rank", 8)
    (call,) = trained
    assert [row["kind"] for row in call["rows"]] == ["eft", "eft"]
    assert call["rows"][0]["completion"] == [{"role": "assistant", "content": "fine\nScore: 4"}]
    assert call["start"] == installation.model
    assert call["checkpoint"] == installation.root / "models" / "seed"
    assert (call["settings"].epochs, call["settings"].dtype) == (2, "float32")
    assert call["settings"].lora.r == 8
    for expected in ("line 3: skipped", "loss 2.0000", "2 rows trained", "1 refused", "too long"):
        assert expected in shown


@pytest.mark.parametrize(
    "more, message",
    [
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "3"], "multiple of device_batch_size"),
        (["--lora-rank", "0"], "given: 0"),
        (["--output", "../up"], "--output must name a folder"),
        (["--output", "stub"], "exists"),
        (["--model", "/nowhere"], "no model folder"),
        (["--data", "/nowhere/data.jsonl"], "data.jsonl"),
    ],
)
def test_what_is_wrong_is_told_before_the_training(
    installation: Installation,
    data: Path,
    trained: list[dict[str, Any]],
    more: list[str],
    message: str,
) -> None:
    with pytest.raises(CommandError) as caught:
        run(installation, data, *more)
    assert message in str(caught.value)
    assert caught.value.returncode == 2
    assert not trained
    assert not (installation.root / "models" / "seed").exists()
