"""A training whose model is sharded: really so, with the weights of one that is not."""

import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from meta_reward_core.errors import TrainingError
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings
from meta_reward_core.training import launcher
from meta_reward_core.training.model_sharding import check_sharding
from tests.core.tiny_model import llama_config, make_tokenizer, save_model
from tests.core.training.killed_process import MOMENTS
from tests.core.training.test_processes import (
    VALIDATED,
    largest_difference,
    list_processes,
    trained,
)

LONG = VALIDATED.model_copy(update={"epochs": 4, "gradient_checkpointing": True})
"""Twelve optimizer steps."""
SHARDED = {"processes": 2, "sharding": "fsdp"}
LORA = {"lora": LoraSettings(r=2, alpha=4)}


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, with one weight as both embeddings."""
    tokenizer = make_tokenizer()
    config = llama_config(tokenizer)
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).bfloat16()
    return save_model(model, tokenizer, tmp_path_factory.mktemp("models") / "tied")


def describe_tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 no mapping
        return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["all weights", "adapters", "tied bfloat16 weights"])
def test_sharded_training_gives_the_weights_of_one_process(
    first_model: Path, tied_model: Path, tmp_path: Path, trains: str
) -> None:
    """The difference is at most 1% of what the training changes; the folder has the same form."""
    start = tied_model if trains.startswith("tied") else first_model
    settings = LONG.model_copy(update=LORA if trains == "adapters" else {})
    alone, _ = trained(tmp_path / "alone", start, settings)
    sharded, told = trained(tmp_path / "sharded", start, settings.model_copy(update=SHARDED))
    assert told == sharded.log
    assert sharded.log[-1]["step"] == 12
    for one, other in zip(sharded.log, alone.log, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    single, both = tmp_path / "alone" / "m1", tmp_path / "sharded" / "m1"
    change = largest_difference(start, single)
    assert change > 1e-3
    assert largest_difference(single, both) <= 0.01 * change
    assert describe_tensors(both) == describe_tensors(single)
    assert sorted(file.name for file in both.iterdir()) == sorted(
        file.name for file in single.iterdir()
    )


@pytest.mark.slow
def test_data_parallel_instead_of_sharding_is_refused(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what accelerate 1.15 does on a CPU, and which ends in the same weights."""
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.unsharded_process")
    with pytest.raises(TrainingError, match=r"fsdp, but process \d of 2 has 2\d"):
        trained(tmp_path, first_model, LONG.model_copy(update=SHARDED))
    assert not (tmp_path / "m1").exists()


@pytest.fixture(scope="module")
def undisturbed(first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    trained(root, first_model, LONG.model_copy(update=SHARDED))
    return root / "m1"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_training_resumes_after_the_kill_of_any_process(
    first_model: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    rank: int,
) -> None:
    """All end within a minute, the killed one is named, and the end is the same."""
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.killed_process")
    note = tmp_path / "killed"
    monkeypatch.setenv("TEST_KILL", f"{rank}:{moment}:{note}")
    settings = LONG.model_copy(update=SHARDED)
    with pytest.raises(TrainingError, match=f"process {rank} was killed by signal 9"):
        trained(tmp_path, first_model, settings)
    assert time.time() - note.stat().st_mtime < 60
    assert list_processes(tmp_path) == []
    _, told = trained(tmp_path, first_model, settings)
    epochs = {"fifth step": 1, "saving": 1, "publishing": 4}
    steps = sorted({int(row["step"]) for row in told})
    assert steps == list(range(3 * epochs.get(moment, 0) + 1, 13))
    change = largest_difference(first_model, undisturbed)
    assert largest_difference(undisturbed, tmp_path / "m1") <= 0.01 * change
    assert describe_tensors(tmp_path / "m1") == describe_tensors(undisturbed)


@pytest.mark.slow
def test_sharded_adapters_resume_after_a_kill_and_are_published_like_those_of_one_process(
    tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LONG.model_copy(update=LORA)
    trained(tmp_path / "alone", tied_model, settings)
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.killed_process")
    monkeypatch.setenv("TEST_KILL", f"1:fifth step:{tmp_path / 'killed'}")
    sharded = settings.model_copy(update=SHARDED)
    with pytest.raises(TrainingError, match="process 1 was killed by signal 9"):
        trained(tmp_path / "sharded", tied_model, sharded)
    outcome, told = trained(tmp_path / "sharded", tied_model, sharded)
    assert (told[0]["step"], outcome.log[-1]["step"]) == (4, 12)
    single, both = tmp_path / "alone" / "m1", tmp_path / "sharded" / "m1"
    change = largest_difference(tied_model, single)
    assert change > 1e-3
    assert largest_difference(single, both) <= 0.01 * change
    assert describe_tensors(both) == describe_tensors(single)


@pytest.mark.slow
def test_the_error_of_a_single_process_is_told_within_a_minute(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of the others, whose connection breaks, only follow from it."""
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.killed_process")
    note = tmp_path / "killed"
    monkeypatch.setenv("TEST_KILL", f"1:fifth step:{note}")
    monkeypatch.setenv("TEST_ERROR", "the disk of process 1 is gone")
    with pytest.raises(TrainingError, match=r"^the disk of process 1 is gone$"):
        trained(tmp_path, first_model, LONG.model_copy(update=SHARDED))
    assert time.time() - note.stat().st_mtime < 60
    assert list_processes(tmp_path) == []


@pytest.mark.slow
def test_no_process_waits_while_rows_are_sorted_or_the_checkpoint_is_written(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.waiting_process")
    monkeypatch.setenv("TEST_NOTES", str(tmp_path))
    outcome, _ = trained(tmp_path, first_model, LONG.model_copy(update=SHARDED))
    assert outcome.published
    assert (tmp_path / "1").exists()


@pytest.mark.slow
def test_a_process_that_writes_for_long_is_waited_for(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the limit of a collective, which applies to a process without heartbeats."""
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.slow_process")
    settings = VALIDATED.model_copy(update=SHARDED | {"epochs": 1, "gradient_checkpointing": True})
    outcome, _ = trained(tmp_path, first_model, settings)
    assert outcome.published


@pytest.mark.slow
def test_each_process_writes_its_own_part_of_a_state(
    first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None gathers the whole model or optimizer, for which the others would wait."""
    monkeypatch.setattr(launcher, "_PROCESS_MODULE", "tests.core.training.killed_process")
    monkeypatch.setenv("TEST_KILL", f"1:publishing:{tmp_path / 'killed'}")
    with pytest.raises(TrainingError, match="process 1 was killed by signal 9"):
        trained(tmp_path, first_model, LONG.model_copy(update=SHARDED))
    state = tmp_path / "scratch" / "states" / "checkpoint-12"
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        sizes = [(state / part / f"__{rank}_0.distcp").stat().st_size for rank in range(2)]
        assert max(sizes) < 0.7 * sum(sizes)
    assert not list(state.glob("*.safetensors"))
    assert not list(state.glob("optimizer*.bin"))


def test_sharding_is_checked_on_the_model_and_its_optimizer(
    first_model: Path, tmp_path: Path
) -> None:
    """One process, so that its share of a sharded model is the whole of it."""
    model = AutoModelForCausalLM.from_pretrained(first_model)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(TrainingError, match=r"22 complete parameters, such as model\.emb"):
        check_sharding(model, optimizer, sharding="fsdp", processes=1)
    check_sharding(model, optimizer, sharding="none", processes=1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(TrainingError, match="1 complete parameters, such as optimiz"):
            check_sharding(model, optimizer, sharding="fsdp", processes=1)
        sharded = torch.optim.AdamW(model.parameters())
        check_sharding(model, sharded, sharding="fsdp", processes=1)
        with pytest.raises(TrainingError, match="process 0 of 2 has 21 complete"):
            check_sharding(model, sharded, sharding="fsdp", processes=2)
        with pytest.raises(TrainingError, match="zero3, but"):
            check_sharding(model, sharded, sharding="zero3", processes=2)
    finally:
        torch.distributed.destroy_process_group()


def test_sharding_over_one_process_is_refused() -> None:
    with pytest.raises(ValueError, match="sharding: fsdp needs processes above 1"):
        DpoSettings(sharding="fsdp")
