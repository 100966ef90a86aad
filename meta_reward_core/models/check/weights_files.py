"""Headers of safetensors files: the tensors of a model folder, without reading weights.

Loads no model library, so that the site can use it. Only the header of each file is read, so an
8B model takes milliseconds.

Source: the safetensors format, https://huggingface.co/docs/safetensors (eight bytes with the
length of the header, the header as JSON, the tensors' bytes without gaps).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.validation import WEIGHTS_FILE, WEIGHTS_INDEX
from meta_reward_core.system.untrusted_input import parse_json

DTYPE_BITS: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one value, by the names that the format uses."""

_TITLE: Final = "Weights files"
_DOWNLOAD: Final = "download this file again"
_PREFIX_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000
_SHOWN_NAMES: Final = 3
_FOREIGN_FORMATS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "run `git lfs pull`"),
    (b"GGUF", "a GGUF file under another name", "use the model's safetensors version"),
    (b"PK\x03\x04", "a zip archive (a PyTorch pickle) under another name", "convert it"),
    (b"\x80", "a pickle under another name", "convert the model to safetensors"),
    (b"<", "a web page, saved instead of the weights", _DOWNLOAD),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor according to its header.

    Attributes:
        dtype: name of the dtype in the format, such as `BF16`.
        shape: shape of the tensor.
        file: name of the file that contains the tensor.
        start: offset of its values in that file, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int = field(default=0, compare=False)


class UnreadableWeightsError(Exception):
    """A safetensors file cannot be read; the message gives the cause and the remedy."""

    def __init__(self, file: str, message: str, remedy: str = _DOWNLOAD) -> None:
        super().__init__(f"{file}: {message}; {remedy}")
        self.check = Check("weights.files", _TITLE, Level.RED, message, remedy, file)


def read_weights(folder: Path) -> tuple[dict[str, TensorInfo], list[Check]]:
    """Read the headers of a model's weights, and compare them with the index if there is one.

    Returns:
        The tensors by name, as far as they could be read, and the results of the checks.
    """
    try:
        names, weight_map = _list_weights_files(folder)
    except UnreadableWeightsError as error:
        return {}, [error.check]
    tensors: dict[str, TensorInfo] = {}
    problems: list[Check] = []
    for name in names:
        try:
            found = read_header(folder / name)
        except UnreadableWeightsError as error:
            problems.append(error.check)
            continue
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            problems.append(
                _fail(name, f"{_list_names(twice)} also in {tensors[twice[0]].file}", _DOWNLOAD)
            )
        tensors |= found
    if weight_map is not None and not problems:
        problems = _compare_with_index(weight_map, tensors)
    if not problems and not tensors:
        problems = [_fail(names[0], "contains no tensors", _DOWNLOAD)]
    if problems:
        return tensors, problems
    count = f"{len(names)} file{'s' if len(names) > 1 else ''}, {len(tensors)} tensors"
    return tensors, [
        Check("weights.files", _TITLE, Level.GREEN, count),
        *_note_unused_files(folder, names),
    ]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the tensors of a safetensors file, and check that the file is complete.

    Raises:
        UnreadableWeightsError: the file is missing, truncated, damaged or of another format.
    """
    name = file.name
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(32)
            length = int.from_bytes(start[:_PREFIX_BYTES], "little")
            _check_format(name, start, size=size, header_bytes=length)
            stream.seek(_PREFIX_BYTES)
            header = parse_json(stream.read(length))
    except OSError as error:
        raise UnreadableWeightsError(
            name, f"cannot be read ({error.strerror})", "make the file readable for this user"
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise UnreadableWeightsError(name, "has a damaged header") from error
    if not isinstance(header, dict):
        raise UnreadableWeightsError(name, "has a damaged header")
    header.pop("__metadata__", None)
    end = _check_layout(name, header)
    total = _PREFIX_BYTES + length + end
    if size < total:
        raise UnreadableWeightsError(name, f"is truncated: {size:,} of {total:,} bytes")
    if size > total:
        raise UnreadableWeightsError(name, f"is damaged: {size:,} bytes instead of {total:,}")
    first = _PREFIX_BYTES + length
    return {
        key: TensorInfo(
            entry["dtype"], tuple(entry["shape"]), name, first + entry["data_offsets"][0]
        )
        for key, entry in header.items()
    }


def _check_format(name: str, start: bytes, *, size: int, header_bytes: int) -> None:
    """Distinguish other formats and truncated files from safetensors files."""
    for magic, what, remedy in _FOREIGN_FORMATS:
        if start.startswith(magic) and not _may_be_header(start):
            raise UnreadableWeightsError(name, f"is {what}", remedy)
    if size < _PREFIX_BYTES + 2:
        raise UnreadableWeightsError(name, f"is truncated: {size} bytes")
    if not _may_be_header(start) or header_bytes > _MAX_HEADER_BYTES:
        raise UnreadableWeightsError(
            name, "is not a safetensors file", "download or convert the model again"
        )
    if size < _PREFIX_BYTES + header_bytes:
        raise UnreadableWeightsError(name, f"is truncated within its header: {size:,} bytes")


def _may_be_header(start: bytes) -> bool:
    return start[_PREFIX_BYTES : _PREFIX_BYTES + 1] == b"{"


def _check_layout(name: str, header: Mapping[str, Any]) -> int:
    """Check that the tensors are contiguous and have the sizes of their shapes.

    Returns:
        Total size of all tensors, in bytes.
    """
    spans = []
    for key, entry in header.items():
        try:
            begin, end = entry["data_offsets"]
            values = math.prod(entry["shape"])
            bits = DTYPE_BITS.get(entry["dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableWeightsError(name, f"has a damaged header at {key}") from error
        if bits is None:
            raise UnreadableWeightsError(
                name,
                f"contains {key} in the unknown number format {entry['dtype']!r}",
                "use the original model",
            )
        if not isinstance(values, int) or (end - begin) * 8 != values * bits:
            raise UnreadableWeightsError(name, f"has a damaged header at {key}")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise UnreadableWeightsError(name, "has a damaged header: its tensors overlap")
        at = end
    return at


def _list_weights_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """List the files to load, and the index by tensor if there is one."""
    if (folder / WEIGHTS_FILE).exists():  # the file that transformers reads first
        return [WEIGHTS_FILE], None
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise UnreadableWeightsError(
            WEIGHTS_FILE, "does not exist", "convert the model to safetensors"
        )
    try:
        found = parse_json(index.read_bytes())["weight_map"]
        weight_map = {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableWeightsError(WEIGHTS_INDEX, "is not an index of weights") from error
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside or not names:
        raise UnreadableWeightsError(
            WEIGHTS_INDEX, f"refers to {outside[0]!r}, which is not a file in this folder"
            if outside else "does not list any files",
        )  # fmt: skip
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UnreadableWeightsError(
            missing[0] if len(missing) == 1 else WEIGHTS_INDEX,
            f"{_list_names(missing)} missing ({len(missing)} of {len(names)} files of the index)",
            "download the missing files",
        )
    return names, weight_map


def _compare_with_index(
    weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> list[Check]:
    """Check that the index lists every tensor with its file."""
    wrong = [
        key for key, file in weight_map.items() if key not in tensors or tensors[key].file != file
    ]
    extra = sorted(tensors.keys() - weight_map.keys())
    remedy = "download the index and all weight files again, from the same revision"
    if wrong:
        message = f"{_list_names(sorted(wrong))} not in the file that the index specifies"
        return [_fail(WEIGHTS_INDEX, message, remedy)]
    if extra:
        return [_fail(WEIGHTS_INDEX, f"does not list {_list_names(extra, verb='')}", remedy)]
    return []


def _note_unused_files(folder: Path, used: Iterable[str]) -> list[Check]:
    """Warn about unused weights, which other engines could load instead."""
    unused = sorted(
        file.name
        for file in folder.glob("*.safetensors")
        if file.name not in used and not file.name.startswith(".")
    )
    if WEIGHTS_FILE in used and (folder / WEIGHTS_INDEX).is_file():
        return [
            Check(
                "weights.unused",
                _TITLE,
                Level.AMBER,
                f"is next to {WEIGHTS_FILE}, which holds the whole model; other engines may "
                "load the files of the index instead",
                "remove the one that is not needed",
                WEIGHTS_INDEX,
            )
        ]
    if not unused:
        return []
    return [
        Check(
            "weights.unused",
            _TITLE,
            Level.AMBER,
            f"{_list_names(unused)} not part of the model",
            "remove the files that are not needed, because another engine may load them",
            unused[0] if len(unused) == 1 else "",
        )
    ]


def _list_names(names: list[str], *, verb: str | None = None) -> str:
    """Format names as the subject of a clause: `a, b and 3 more are`."""
    shown = ", ".join(names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    ending = (" is" if len(names) == 1 else " are") if verb is None else verb
    return f"{shown}{more}{ending}"


def _fail(file: str, message: str, remedy: str) -> Check:
    return Check("weights.files", _TITLE, Level.RED, message, remedy, file)
