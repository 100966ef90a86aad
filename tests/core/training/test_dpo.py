"""DPO starts from and refers to M_{t-1}, loses no row, survives a kill and repeats to the byte."""

import math
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.validation import ADAPTER_FOLDER, check_model_folder, hash_model_folder
from meta_reward_core.recipes.training_settings import LoraSettings
from meta_reward_core.training.dpo import train_dpo
from meta_reward_core.training.preprocessing import RefusedRow
from meta_reward_core.training.result import TrainingOutcome
from meta_reward_core.training.trainer import run_training
from meta_reward_core.training.trainer_factories import DPO
from tests.core.tiny_model import WORDS
from tests.core.training.conftest import TINY_DPO, preference_row, preference_rows

ROWS = preference_rows(32)
VALIDATED = TINY_DPO.model_copy(
    update={"validation_share": 0.25, "checkpoint_selection": "lowest_validation_loss"}
)


@dataclass(frozen=True)
class Undisturbed:
    """A training that nothing interrupted."""

    folder: Path
    outcome: TrainingOutcome
    logged: list[dict[str, float]]


@pytest.fixture(scope="session")
def undisturbed(first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    logged: list[dict[str, float]] = []
    outcome = train_dpo(
        ROWS,
        start=first_model,
        settings=VALIDATED,
        checkpoint=root / "m1",
        scratch=root / "scratch",
        seed=5,
        threads=1,
        on_log=logged.append,
    )
    return Undisturbed(root / "m1", outcome, logged)


def mean_log_probability(folder: Path, *, column: Literal["chosen", "rejected"]) -> float:
    """Mean over ROWS of the summed log-probability of a reply, computed from `folder` alone."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    total = 0.0
    for row in ROWS:
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        whole = [*row["prompt"], *row[column]]
        ids = torch.tensor([tokenizer.apply_chat_template(whole, return_dict=False)])
        with torch.inference_mode():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        total += float(logs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum())
    return total / len(ROWS)


def test_the_policy_learns_to_prefer_what_was_chosen(undisturbed: Undisturbed) -> None:
    first, last = undisturbed.outcome.log[0], undisturbed.outcome.log[-2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert last["loss"] < 0.5
    assert last["rewards/accuracies"] == 1.0


def test_the_log_holds_trls_metrics_and_no_clock(undisturbed: Undisturbed) -> None:
    names = {name for row in undisturbed.outcome.log for name in row}
    assert {
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "eval_loss",
        "eval_rewards/accuracies",
    } <= names
    assert not [n for n in names if "time" in n or "second" in n or "flos" in n or "mem" in n]
    assert undisturbed.logged == undisturbed.outcome.log


def test_rows_in_are_rows_trained_held_out_or_refused(undisturbed: Undisturbed) -> None:
    outcome = undisturbed.outcome
    assert outcome.rows_trained + outcome.rows_held_out == len(ROWS)
    assert outcome.rows_held_out > 0
    assert outcome.refused == []


def test_the_kept_weights_are_those_with_the_lowest_validation_loss(
    undisturbed: Undisturbed,
) -> None:
    outcome = undisturbed.outcome
    losses = {row["step"]: row["eval_loss"] for row in outcome.log if "eval_loss" in row}
    assert outcome.kept_step == min(losses, key=lambda step: losses[step])
    assert outcome.rule == "lowest_validation_loss"
    assert outcome.kept_epoch in (1.0, 2.0, 3.0)


def test_only_the_model_is_published_and_no_path_of_the_machine(
    undisturbed: Undisturbed, first_model: Path
) -> None:
    folder = undisturbed.folder
    assert check_model_folder(folder, allowed_roots=[folder.parent]) == folder
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    for file in folder.iterdir():
        assert str(folder.parent).encode() not in file.read_bytes()
        assert str(first_model).encode() not in file.read_bytes()
    assert [entry.name for entry in folder.parent.iterdir()] == ["m1"], "scratch is gone"


def test_only_weights_change(undisturbed: Undisturbed, first_model: Path) -> None:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (undisturbed.folder / name).read_bytes() == (first_model / name).read_bytes()
    assert hash_model_folder(undisturbed.folder) != hash_model_folder(first_model)


KILLED = """
import os, signal
from pathlib import Path
from meta_reward_core.training.dpo import train_dpo
from tests.core.training.test_dpo import ROWS, VALIDATED

def die(row):
    if row["epoch"] > {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)

root = Path({root!r})
train_dpo(ROWS, start=Path({start!r}), settings=VALIDATED, checkpoint=root / "m1",
          scratch=root / "scratch", seed=5, threads=1, on_log=die)
"""


@pytest.mark.slow
def test_a_training_killed_after_an_epoch_ends_with_the_same_bytes(
    undisturbed: Undisturbed, first_model: Path, tmp_path: Path
) -> None:
    """SIGKILL in the second epoch, and a state that was being written when it came."""
    script = KILLED.format(root=str(tmp_path), start=str(first_model), epoch=1.3)
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path.cwd(), check=False)
    assert killed.returncode == -signal.SIGKILL
    states = tmp_path / "scratch" / "states"
    assert (states / "checkpoint-3" / "complete").is_file()
    assert (tmp_path / "scratch").stat().st_mode & 0o777 == 0o700
    half = states / "checkpoint-6"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    logged: list[dict[str, float]] = []
    outcome = train_dpo(
        ROWS,
        start=first_model,
        settings=VALIDATED,
        checkpoint=tmp_path / "m1",
        scratch=tmp_path / "scratch",
        seed=5,
        threads=1,
        on_log=logged.append,
    )
    assert logged[0]["step"] == 4, "it resumed, it did not begin again"
    assert outcome == undisturbed.outcome
    order = [list(row) for row in outcome.log]
    assert order == [list(row) for row in undisturbed.outcome.log], "it is written in this order"
    assert hash_model_folder(tmp_path / "m1") == hash_model_folder(undisturbed.folder)


def test_the_reference_of_the_second_iteration_is_m1_and_not_m0(
    undisturbed: Undisturbed, first_model: Path, tmp_path: Path
) -> None:
    """One step on all rows at once: it logs the mean log-probabilities before any update.

    They equal M1's, computed apart, and the rewards, beta (log pi - log reference), are 0: so
    policy and reference both are M1.
    """
    one_step = TINY_DPO.model_copy(
        update={"epochs": 1, "batch_size": len(ROWS), "device_batch_size": len(ROWS)}
    )
    second = train_dpo(
        ROWS,
        start=undisturbed.folder,
        settings=one_step,
        checkpoint=tmp_path / "m2",
        scratch=tmp_path / "scratch",
        seed=5,
        threads=1,
    )
    [row] = second.log
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert row["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    assert row["rewards/rejected"] == pytest.approx(0.0, abs=1e-6)
    columns: tuple[Literal["chosen"], Literal["rejected"]] = ("chosen", "rejected")
    for column in columns:
        of_m1 = mean_log_probability(undisturbed.folder, column=column)
        of_m0 = mean_log_probability(first_model, column=column)
        assert row[f"logps/{column}"] == pytest.approx(of_m1, abs=1e-3)
        assert abs(of_m1 - of_m0) > 0.1


def test_adapters_are_merged_before_publication(first_model: Path, tmp_path: Path) -> None:
    settings = TINY_DPO.model_copy(update={"epochs": 1, "lora": LoraSettings(r=2, alpha=4)})
    outcome = train_dpo(
        ROWS[:16],
        start=first_model,
        settings=settings,
        checkpoint=tmp_path / "m1",
        scratch=tmp_path / "scratch",
        seed=5,
        threads=1,
    )
    assert outcome.log[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    check_model_folder(tmp_path / "m1", allowed_roots=[tmp_path])
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "m1", local_files_only=True)
    begun: Any = AutoModelForCausalLM.from_pretrained(first_model, local_files_only=True)
    assert loaded.state_dict().keys() == begun.state_dict().keys()
    assert any(
        not torch.equal(new, old)
        for new, old in zip(loaded.state_dict().values(), begun.state_dict().values(), strict=True)
    )


def test_frozen_weights_in_bfloat16_and_rows_by_length_learn_alike(
    first_model: Path, tmp_path: Path
) -> None:
    losses = []
    for base in ("float32", "bfloat16"):
        settings = TINY_DPO.model_copy(
            update={"lora": LoraSettings(r=2, alpha=4, base=base), "group_by_length": True}
        )
        outcome = train_dpo(
            preference_rows(16),
            start=first_model,
            settings=settings,
            checkpoint=tmp_path / base,
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
        losses.append([row["loss"] for row in outcome.log if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], abs=0.01)
    assert losses[1][-1] < losses[1][0] - 0.01
    dtypes = [next(load.parameters()).dtype for load in map(
        AutoModelForCausalLM.from_pretrained, (first_model, tmp_path / "bfloat16"))]  # fmt: skip
    assert dtypes[0] == dtypes[1], "adapters are merged into the weights as they are stored"


def test_an_adapter_is_kept_beside_the_merged_weights_where_that_is_asked_for(
    first_model: Path, tmp_path: Path
) -> None:
    """The weights before and the adapter give the logits of the merged weights."""
    lora = LoraSettings(r=2, alpha=4, keep_adapter=True)
    for name in ("m1", "again"):
        train_dpo(
            ROWS[:16],
            start=first_model,
            settings=TINY_DPO.model_copy(update={"epochs": 2, "lora": lora}),
            checkpoint=tmp_path / name,
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
    made = tmp_path / "m1"
    check_model_folder(made, allowed_roots=[tmp_path])
    assert hash_model_folder(made) == hash_model_folder(tmp_path / "again")
    files = {file.name for file in (made / ADAPTER_FOLDER).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(first_model) not in (made / ADAPTER_FOLDER / "adapter_config.json").read_text()
    begun: Any = AutoModelForCausalLM.from_pretrained(first_model, local_files_only=True)
    ids = torch.arange(6)[None]
    before = begun(ids).logits
    adapted: Any = PeftModel.from_pretrained(begun, made / ADAPTER_FOLDER)
    merged: Any = AutoModelForCausalLM.from_pretrained(made, local_files_only=True)
    assert not torch.allclose(merged(ids).logits, before, atol=1e-6)
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)


def test_the_first_writer_of_a_checkpoint_wins(first_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "m1"
    other.mkdir()
    (other / "config.json").write_text("{}")
    outcome = train_dpo(
        ROWS[:8],
        start=first_model,
        settings=TINY_DPO.model_copy(update={"epochs": 1}),
        checkpoint=other,
        scratch=tmp_path / "scratch",
        seed=5,
        threads=1,
    )
    assert not outcome.published
    assert (other / "config.json").read_text() == "{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m1"]


def test_a_long_row_is_refused_and_counted(first_model: Path, tmp_path: Path) -> None:
    long = preference_row(40, reply=" ".join(WORDS))
    outcome = train_dpo(
        [*ROWS[:15], long],
        start=first_model,
        settings=TINY_DPO.model_copy(update={"epochs": 1, "max_length": 30}),
        checkpoint=tmp_path / "m1",
        scratch=tmp_path / "scratch",
        seed=5,
        threads=1,
    )
    assert outcome.rows_trained == 15
    assert outcome.refused == [RefusedRow("prompt-40", "actor", "longer_than_max_length")]


def test_too_many_refused_rows_stop_the_training(first_model: Path, tmp_path: Path) -> None:
    long = [preference_row(number, reply=" ".join(WORDS)) for number in range(40, 45)]
    with pytest.raises(TrainingError, match=r"3 of 8 actor rows longer_than_max_length, 2 of 7"):
        train_dpo(
            [*ROWS[:10], *long],
            start=first_model,
            settings=TINY_DPO.model_copy(update={"max_length": 30}),
            checkpoint=tmp_path / "m1",
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
    assert not (tmp_path / "m1").exists()


def test_a_diverging_training_stops_and_publishes_nothing(
    first_model: Path, tmp_path: Path
) -> None:
    wild = TINY_DPO.model_copy(update={"learning_rate": 1e30, "warmup_ratio": 0.0})
    with pytest.raises(TrainingError, match="diverged at step"):
        train_dpo(
            ROWS,
            start=first_model,
            settings=wild,
            checkpoint=tmp_path / "m1",
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
    assert not (tmp_path / "m1").exists()


def test_a_training_on_fewer_processes_than_asked_is_refused(
    first_model: Path, tmp_path: Path
) -> None:
    """A launcher that starts one process and says nothing has been seen."""
    with pytest.raises(
        TrainingError, match="2 training processes were requested, but 1 are running"
    ):
        run_training(
            DPO,
            ROWS,
            start=first_model,
            settings=TINY_DPO.model_copy(update={"processes": 2}),
            checkpoint=tmp_path / "m1",
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
