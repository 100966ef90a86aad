"""Files of models, written without a model library."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from meta_reward_core.models.check.weights_files import DTYPE_BITS

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Number format and shape by name."""


def write_safetensors(file: Path, tensors: Tensors) -> Path:
    """Write a file of zeros; its holes take no room on the disk."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    data = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(data).to_bytes(8, "little") + data)
        stream.truncate(8 + len(data) + at)
    return file


def write_small_folder(folder: Path) -> Path:
    """A folder that passes what is checked by files alone; no library can load it."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "dtype": "float32", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(folder / "model.safetensors", {"model.norm.weight": ("F32", (4,))})
    return folder


def edit_json(file: Path, **values: object) -> None:
    """Change values of a JSON object; None removes one."""
    changed = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: one for key, one in changed.items() if one is not None}))
