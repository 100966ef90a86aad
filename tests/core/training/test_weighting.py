"""A step depends on its rows alone, however they are dealt to micro batches and processes."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from meta_reward_core.recipes.training_settings import TrainingSettings
from meta_reward_core.training import trainer
from meta_reward_core.training.callbacks import TrainingMonitor
from meta_reward_core.training.launcher import train
from meta_reward_core.training.row_types import PreferenceRow, RowIterable, SftRow, TrainingRow
from meta_reward_core.training.trainer_factories import DPO, SFT, Objective
from tests.core.tiny_model import WORDS, make_tokenizer
from tests.core.training.conftest import TINY_DPO, TINY_SFT, preference_row, sft_rows

Weights = dict[str, torch.Tensor]

ONE_STEP = {"batch_size": 16, "epochs": 1, "warmup_ratio": 0.0, "max_grad_norm": 1e9}
DPO_STEP = TINY_DPO.model_copy(update=ONE_STEP)
BOTH_PARTS = DPO_STEP.model_copy(update={"sft_weight": 0.5})
SFT_STEP = TINY_SFT.model_copy(update=ONE_STEP)


@dataclass
class Run:
    """A training: its log, the gradient of each step, and the weights that came out."""

    log: list[dict[str, float]] = field(default_factory=list)
    gradients: list[Weights] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)


def replies(count: int) -> list[str]:
    """Texts of 1 to 12 words, so that micro batches differ in tokens."""
    return [" ".join(WORDS[: 1 + 7 * number % 12]) for number in range(count)]


def pairs(count: int) -> list[PreferenceRow]:
    return [preference_row(number, reply=reply) for number, reply in enumerate(replies(count))]


def completions(count: int) -> list[SftRow]:
    """The chosen texts of as many pairs."""
    both = zip(sft_rows(count), pairs(count), strict=True)
    return [{**row, "completion": pair["chosen"]} for row, pair in both]


def tokens(row: PreferenceRow) -> int:
    """Tokens of a chosen text: its words and the end of the turn."""
    return len(row["chosen"][0]["content"].split()) + 1


@pytest.fixture
def run(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:  # a function of rows, settings and objective
    def run_once(
        rows: RowIterable[TrainingRow],
        settings: TrainingSettings,
        objective: Objective = DPO,
        **more: Any,
    ) -> Run:
        made = Run()

        class Watching(TrainingMonitor):
            def on_pre_optimizer_step(self, *_: Any, **of: Any) -> None:
                parameters = of["model"].named_parameters()
                made.gradients.append({name: value.grad.clone() for name, value in parameters})

        monkeypatch.setattr(trainer, "TrainingMonitor", Watching)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        outcome = train(
            objective,
            rows,
            start=first_model,
            settings=settings.model_copy(update=more),
            checkpoint=folder,
            scratch=tmp_path / "scratch",
            seed=5,
            threads=1,
        )
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        made.log, made.weights = outcome.log, model.state_dict()
        return made

    return run_once


def largest_difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("rows_of_step", [16, 11], ids=["whole", "with_a_small_last_micro_batch"])
@pytest.mark.parametrize(
    "settings",
    [pytest.param(DPO_STEP, id="dpo", marks=pytest.mark.slow), pytest.param(BOTH_PARTS, id="both")],
)
def test_a_step_of_dpo_does_not_depend_on_the_device_batch_size(
    run: Any, settings: TrainingSettings, rows_of_step: int
) -> None:
    """Gradients within 1e-6 where the largest element is above 0.1: float32 sums in other orders.

    The first step of AdamW moves a weight by g / (|g| + 1e-8) learning rates of 5e-3, whatever
    the size of g. So the weights after it are compared where the gradient is above 1e-5, within
    1e-6 / 1e-5 = 10% of a step at most; what is nearly 0 may even change its sign.
    """
    rows = pairs(rows_of_step)
    whole = run(rows, settings, device_batch_size=16)
    assert len(whole.log) == len(whole.gradients) == 1
    assert max(float(value.abs().max()) for value in whole.gradients[0].values()) > 0.1
    for size in (4, 1):
        dealt = run(rows, settings, device_batch_size=size)
        assert dealt.log[0] == pytest.approx(whole.log[0], abs=1e-5)
        assert largest_difference(dealt.gradients[0], whole.gradients[0]) < 1e-6
        clear = {name: value.abs() > 1e-5 for name, value in whole.gradients[0].items()}
        moved = {
            name: torch.where(clear[name], dealt.weights[name], whole.weights[name])
            for name in clear
        }
        assert sum(int(known.sum()) for known in clear.values()) > 1000
        assert largest_difference(moved, {name: whole.weights[name] for name in clear}) < 5e-4


def test_a_step_of_supervised_fine_tuning_does_not_depend_on_it_either(run: Any) -> None:
    rows = completions(11)
    whole = run(rows, SFT_STEP, SFT, device_batch_size=16)
    for size in (4, 1):
        dealt = run(rows, SFT_STEP, SFT, device_batch_size=size)
        assert dealt.log[0] == pytest.approx(whole.log[0], abs=1e-5)
        assert largest_difference(dealt.gradients[0], whole.gradients[0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "settings"),
    [(DPO, BOTH_PARTS), (SFT, SFT_STEP)],
    ids=["dpo_and_sft", "sft"],
)
def test_what_chooses_a_checkpoint_does_not_depend_on_it(
    run: Any, objective: Objective, settings: TrainingSettings
) -> None:
    """Held-out rows that fill no whole batches of 4."""
    rows: Any = pairs(60) if objective is DPO else completions(60)
    logs = [
        run(rows, settings, objective, device_batch_size=size, validation_share=0.25).log[-1]
        for size in (16, 4, 1)
    ]
    assert "eval_loss" in logs[0]
    for log in logs[1:]:
        assert log == pytest.approx(logs[0], abs=1e-5)


def test_a_loss_of_two_parts_is_logged_in_both(run: Any, first_model: Path) -> None:
    """At step 1 the DPO part is log 2; the SFT part, by the model alone, over 4 x 4 rows.

    0.5 times the negative log-likelihood of all chosen tokens over their number.
    """
    rows = pairs(16)
    [row] = run(rows, BOTH_PARTS, device_batch_size=4).log
    expected = 0.5 * -_log_likelihood(first_model, rows) / sum(map(tokens, rows))
    assert row["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert row["loss/sft"] == pytest.approx(expected, abs=1e-5)
    assert row["loss"] == pytest.approx(row["loss/dpo"] + row["loss/sft"], abs=1e-6)


def _log_likelihood(folder: Path, rows: list[PreferenceRow]) -> float:
    """Summed log-probability of the chosen texts, each computed by itself."""
    tokenizer: Any = make_tokenizer()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    total = 0.0
    for row in rows:
        text = [*row["prompt"], *row["chosen"]]
        ids = torch.tensor([tokenizer.apply_chat_template(text, return_dict=False)])
        with torch.inference_mode():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        total += float(logs.gather(-1, ids[0, 1:, None])[-tokens(row) :].sum())
    return total


def test_a_loss_of_one_part_is_logged_as_it_is(run: Any) -> None:
    [row] = run(pairs(16), DPO_STEP).log
    assert not [name for name in row if name.startswith("loss/")]


@pytest.mark.parametrize(
    ("scheduler", "warmup_ratio", "first"),
    [
        ("cosine", 0.0, 2),
        ("cosine", 0.5, 3),
        ("linear", 0.5, 3),
        ("constant", 0.5, 2),
        ("constant_with_warmup", 0.5, 3),
    ],
)
def test_an_accuracy_is_logged_once_a_step_has_moved_the_weights(
    run: Any, scheduler: str, warmup_ratio: float, first: int
) -> None:
    """Until then all rewards are equal; a warm-up begins with a learning rate of 0."""
    settings = DPO_STEP.model_copy(update={"batch_size": 8})
    more = {"scheduler": scheduler, "warmup_ratio": warmup_ratio, "device_batch_size": 4}
    log = run(pairs(32), settings, **more).log
    with_accuracy = [row["step"] for row in log if "rewards/accuracies" in row]
    assert with_accuracy == list(range(first, 5))
    moving = [row["step"] for row in log if row["learning_rate"] > 0]
    assert moving[0] + 1 == first


def test_an_accuracy_over_several_steps_leaves_the_first_out(run: Any) -> None:
    """Steps 1 and 2 are a row of the log: its accuracy is that of step 2 alone."""
    settings = DPO_STEP.model_copy(update={"batch_size": 8})
    each = run(pairs(32), settings).log
    every_second = run(pairs(32), settings, log_every_steps=2).log
    assert every_second[0]["rewards/accuracies"] == each[1]["rewards/accuracies"]
    both = (each[0]["rewards/margins"] + each[1]["rewards/margins"]) / 2
    assert every_second[0]["rewards/margins"] == pytest.approx(both)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(run: Any) -> None:
    """Micro batches of 4 on two processes, 16 rows a step: see the first test for the limits."""
    rows = pairs(32)
    one = run(rows, BOTH_PARTS, device_batch_size=4)
    two = run(rows, BOTH_PARTS, device_batch_size=4, processes=2)
    for single, double in zip(one.log, two.log, strict=True):
        assert double == pytest.approx(single, abs=1e-4)
    assert largest_difference(two.weights, one.weights) < 1e-4
