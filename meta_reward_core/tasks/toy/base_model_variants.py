"""Other base models of the toy task: another SFT seed, or a noisier meta-judge.

A recipe selects one by name, `miniature-sft<K>` or `miniature-sft<K>-noisy`. It is trained on first
use and stored with its gate result. A normal variant must pass the gate; the result of a noisy one
is only recorded, because it is meant to fail.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from meta_reward_core.errors import TrainingError
from meta_reward_core.storage.artifact_store import encode_canonical_json, hash_json
from meta_reward_core.tasks.toy import base_model, task
from meta_reward_core.tasks.toy.base_model import GateResult

_NAME: Final = re.compile(r"miniature-sft([1-9][0-9]{0,3})(-noisy)?")


@dataclass(frozen=True, slots=True)
class SeedModelVariant:
    """Identifies a base model.

    Attributes:
        sft_seed: random seed of its training, and of the data that it is trained on.
        noisy: whether the meta-judge in its training data has the same error rates, and the same
            bias towards verbose responses, as the judge.
    """

    sft_seed: int
    noisy: bool = False

    @property
    def name(self) -> str:
        """Name in recipes."""
        return f"miniature-sft{self.sft_seed}{'-noisy' if self.noisy else ''}"

    @property
    def key(self) -> str:
        """Hash of all its inputs."""
        return hash_json({"seed": base_model.compute_seed_model_key(), **asdict(self)})


def parse_variant(name: str | None) -> SeedModelVariant | None:
    """Parse the variant from a recipe's `model`; None if it is not the name of a variant."""
    found = _NAME.fullmatch(name or "")
    return SeedModelVariant(int(found[1]), noisy=found[2] is not None) if found else None


def find_gate_result(variant: SeedModelVariant, models: Path) -> GateResult | None:
    """Return a variant's gate result if it has been tried."""
    if (shipped := _find_shipped_gate_result(variant)) is not None:
        return shipped
    path = _get_record_path(variant, models)
    return GateResult(**json.loads(path.read_text())["gate"]) if path.is_file() else None


def _find_shipped_gate_result(variant: SeedModelVariant) -> GateResult | None:
    """Return a variant's gate result from the record of the built-in base model."""
    if variant.noisy:
        return None
    record = json.loads(base_model.get_shipped_seed_model().with_suffix(".json").read_text())
    tried = record["tried"] if record["key"] == base_model.compute_seed_model_key() else []
    found = (GateResult(**one) for one in tried if one["sft_seed"] == variant.sft_seed)
    return next(found, None)


def find_cached_variant(variant: SeedModelVariant, models: Path) -> Path | None:
    """Return a variant's folder if it is stored here: shipped or trained earlier."""
    shipped = _find_shipped_gate_result(variant)
    if shipped is not None:
        return base_model.get_shipped_seed_model() if shipped.passed else None
    folder = _get_folder(variant, models)
    return folder if folder.is_dir() and _get_record_path(variant, models).is_file() else None


def ensure_variant(
    variant: SeedModelVariant, models: Path, *, scratch: Path, say: Callable[[str], None]
) -> Path:
    """Return a variant's folder: shipped, cached, or trained now.

    Raises:
        TrainingError: a variant that is not noisy failed the gate, now or earlier; or the folder
            was removed, but not its record.
    """
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{variant.name}-{variant.key[:12]}.lock"):
        gate = find_gate_result(variant, models) or _train_and_gate(
            variant, models, scratch=scratch, say=say
        )
    return _require_passed(variant, gate, models)


def check_variant(variant: SeedModelVariant, models: Path) -> Path | None:
    """Return a variant's folder like `ensure_variant`, or None if it must be trained.

    Raises:
        TrainingError: see `ensure_variant`; nothing is trained.
    """
    gate = find_gate_result(variant, models)
    return None if gate is None else _require_passed(variant, gate, models)


def _require_passed(variant: SeedModelVariant, gate: GateResult, models: Path) -> Path:
    if not variant.noisy and not gate.passed:
        raise TrainingError(
            f"{base_model.describe_gate_result(gate)}: it cannot be used as a base model"
        )
    folder = find_cached_variant(variant, models)
    if folder is None:
        raise TrainingError(
            f"the base model {_get_folder(variant, models)} is missing: restore it, or remove "
            f"{_get_record_path(variant, models)} to train it again"
        )
    return folder


def _get_folder(variant: SeedModelVariant, models: Path) -> Path:
    return models / f"{variant.name}-{variant.key[:12]}"


def _get_record_path(variant: SeedModelVariant, models: Path) -> Path:
    folder = _get_folder(variant, models)
    return folder.with_name(f"{folder.name}.json")


def _train_and_gate(
    variant: SeedModelVariant, models: Path, *, scratch: Path, say: Callable[[str], None]
) -> GateResult:
    """Train and test: write the folder first, then the record that makes it valid."""
    say(f"training the base model {variant.name} (two to five minutes on two idle cores)")
    place = scratch / f"{variant.name}-{variant.key[:12]}"
    candidate, folder = place / "candidate", _get_folder(variant, models)
    shutil.rmtree(place, ignore_errors=True)
    base_model.train_candidate(
        candidate,
        scratch=place / "trainer",
        sft_seed=variant.sft_seed,
        say=say,
        meta_judge_noise=(task.SEED_JUDGE_NOISE if variant.noisy else task.SEED_META_JUDGE_NOISE),
    )
    gate = base_model.measure_gate(candidate, sft_seed=variant.sft_seed)
    say(base_model.describe_gate_result(gate))
    shutil.rmtree(folder, ignore_errors=True)
    if gate.passed or variant.noisy:
        shutil.move(candidate, folder)
    shutil.rmtree(place, ignore_errors=True)
    record = {"key": variant.key, "variant": asdict(variant), "gate": asdict(gate)}
    _get_record_path(variant, models).write_bytes(encode_canonical_json(record))
    return gate
