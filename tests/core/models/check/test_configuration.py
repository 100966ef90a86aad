"""Quantised weights, number formats and positions, as the files alone tell them."""

from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.models.check.configuration import (
    check_dtype,
    check_positions,
    check_quantisation,
    find_position_limit,
    find_quantisation,
    has_learned_positions,
)
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Level
from meta_reward_core.models.check.weights_files import TensorInfo

PLAIN = {"model.layers.0.mlp.up_proj.weight": TensorInfo("BF16", (8, 4), "model.safetensors")}


def with_tensor(name: str, dtype: str = "BF16") -> dict[str, TensorInfo]:
    return {**PLAIN, name: TensorInfo(dtype, (4,), "model-00002-of-00002.safetensors")}


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
        ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "MXFP4"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "new-one"}}, "new-one"),
        ({"quantization_config": {"bits": 3}}, "an unknown format"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "AWQ"),
        ({"compression_config": {"format": "pack-quantized"}}, "an unknown format"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
    ],
)
def test_a_declared_format_is_found(tmp_path: Path, config: dict[str, Any], method: str) -> None:
    assert find_quantisation(tmp_path, config, PLAIN) == (method, "config.json")


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "I32", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.g_idx", "I32", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.SCB", "F32", "bitsandbytes"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "U8", "bitsandbytes"),
        (
            "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
            "U8",
            "bitsandbytes",
        ),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "F32", "FP8"),
        ("model.layers.0.mlp.up_proj.weight_scale", "BF16", "FP8"),
        ("model.layers.0.mlp.up_proj.weight_packed", "I32", "compressed-tensors"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", "MXFP4"),
        ("model.layers.0.mlp.up_proj.scales", "BF16", "MLX"),
        ("model.layers.0.mlp.down_proj.weight", "F8_E4M3", "stored as F8_E4M3"),
        ("model.layers.0.mlp.down_proj.weight", "I8", "stored as I8"),
        ("model.layers.0.mlp.down_proj.weight", "U32", "stored as U32"),
    ],
)
def test_quantised_tensors_are_found_without_a_declaration(
    tmp_path: Path, name: str, dtype: str, method: str
) -> None:
    found = find_quantisation(tmp_path, {}, with_tensor(name, dtype))
    assert found == (method, "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("name", "method"),
    [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ"),
     ("hf_quant_config.json", "ModelOpt")],
)  # fmt: skip
def test_a_file_of_a_quantiser_is_found(tmp_path: Path, name: str, method: str) -> None:
    (tmp_path / name).write_text("{}")
    assert find_quantisation(tmp_path, {}, PLAIN) == (method, name)


def test_quantised_weights_are_refused_for_training_alone(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    (refused,) = check_quantisation(tmp_path, config, PLAIN, needs=ModelNeeds())
    assert refused.level is Level.RED
    assert "(GPTQ)" in refused.message
    assert refused.remedy == "use the original model in bfloat16, float16 or float32"
    (noted,) = check_quantisation(tmp_path, config, PLAIN, needs=ModelNeeds(trains=False))
    assert noted.level is Level.AMBER


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}])
def test_plain_weights_pass(tmp_path: Path, config: dict[str, Any]) -> None:
    tensors = {**PLAIN, "model.position_ids": TensorInfo("I64", (1, 8), "model.safetensors")}
    (check,) = check_quantisation(tmp_path, config, tensors, needs=ModelNeeds())
    assert check.level is Level.GREEN


@pytest.mark.parametrize(
    ("config", "level", "message"),
    [
        ({"dtype": "bfloat16"}, Level.GREEN, "all weights in bfloat16"),
        ({"torch_dtype": "torch.bfloat16"}, Level.GREEN, "all weights in bfloat16"),
        ({"text_config": {"dtype": "bfloat16"}}, Level.GREEN, "all weights in bfloat16"),
        ({}, Level.AMBER, "no dtype is set, so checkpoints are saved in float32"),
        ({"dtype": "float16"}, Level.AMBER, "checkpoints are saved in float16"),
        ({"dtype": "bf16"}, Level.RED, "dtype 'bf16' is not a number format"),
        ({"dtype": "float8_e4m3fn"}, Level.RED, "is not a number format"),
    ],
)
def test_the_number_format_of_checkpoints_is_told(
    config: dict[str, Any], level: Level, message: str
) -> None:
    (check,) = check_dtype(config, PLAIN)
    assert check.level is level
    assert message in check.message


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 8}, 8),
        ({"n_positions": 32}, 32),
        ({"text_config": {"max_position_embeddings": 16}}, 16),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": -1}, -1),
        ({}, None),
    ],
)
def test_the_longest_row_is_read(config: dict[str, Any], limit: int | None) -> None:
    assert find_position_limit(config) == limit


@pytest.mark.parametrize(
    ("name", "is_learned"),
    [
        ("transformer.wpe.weight", True),
        ("model.decoder.embed_positions.weight", True),
        ("bert.embeddings.position_embeddings.weight", True),
        ("model.embed_tokens.weight", False),
        ("model.rotary_emb.inv_freq", False),
    ],
)
def test_a_table_of_positions_is_told_by_its_name(name: str, *, is_learned: bool) -> None:
    assert has_learned_positions({name: TensorInfo("F32", (1,), "f")}) is is_learned


NEEDS = ModelNeeds(max_new_tokens=48, max_length=512)


@pytest.mark.parametrize(
    ("limit", "is_learned", "level", "message"),
    [
        (None, False, Level.GREEN, "does not declare a maximum length"),
        (1024, True, Level.GREEN, "1,024 positions, rows of up to 512 tokens"),
        (512, True, Level.GREEN, "512 positions"),
        (511, True, Level.RED, "511 learned positions and a row of training may have 512 tokens"),
        (256, False, Level.GREEN, "256 positions, so rows stay below training.max_length"),
        (48, False, Level.RED, "so no prompt fits"),
        (48, True, Level.RED, "so no prompt fits"),
    ],
)
def test_positions_are_compared_with_the_rows_of_a_recipe(
    limit: int | None, level: Level, message: str, *, is_learned: bool
) -> None:
    (check,) = check_positions(limit, NEEDS, is_learned=is_learned)
    assert check.level is level
    assert message in check.message
    assert bool(check.remedy) == (level is Level.RED)
