"""The toy task's M0: a tiny Llama trained from scratch on all three roles, with a quality gate.

Whether a model of this size learns to compare judgments depends on its training seed. So seeds are
tried in order until a meta-judge passes the gate on held-out comparisons; failed seeds are recorded
with the model. After this, nothing that trains or selects uses the ground truth of the toy task.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.engines.base import Engine, SamplingParams
from meta_reward_core.errors import TrainingError
from meta_reward_core.recipes.canonical import rename_to_frozen
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.recipes.training_settings import SftSettings
from meta_reward_core.storage.artifact_store import encode_canonical_json, hash_json
from meta_reward_core.tasks.toy import task, tokenizer
from meta_reward_core.tasks.toy.evaluation import measure_meta_judge

if TYPE_CHECKING:
    from meta_reward_core.training.row_types import SftRow

SFT_ROWS = 35_200
SFT_SETTINGS = SftSettings(
    learning_rate=2.5e-3,
    batch_size=16,
    device_batch_size=16,
    epochs=1,
    scheduler="cosine",
    warmup_ratio=0.05,
    max_length=512,
    weight_decay=0.01,
    adam_beta2=0.95,
    row_order="as_given",
    dtype="float32",
    gradient_checkpointing=False,
    log_every_steps=100,
)
_HASHED_SETTINGS = {
    *("adam_beta2", "batch_size", "device_batch_size", "dtype", "epochs"),
    *("gradient_checkpointing", "checkpoint_selection", "learning_rate", "log_every_steps", "lora"),
    *("max_grad_norm", "max_length", "max_refused_share", "max_steps", "row_order"),
    *("save_every_epochs", "scheduler", "validation_share", "warmup_ratio", "weight_decay"),
}
"""Settings that existed when the shipped seed model was trained.

Later settings that `SFT_SETTINGS` does not set do not change the training or the base model.
"""
THREADS = 2
"""Weights depend on the order of sums, and therefore on the number of threads."""


@dataclass(frozen=True, slots=True)
class QualityGate:
    """Requirements for a base model's meta-judge on held-out comparisons.

    Attributes:
        comparisons: number of comparisons; in half of them the better judgment is shown first.
        accuracy: minimum share of correct verdicts.
        order_gap: maximum difference between the accuracies of the two halves.
    """

    comparisons: int = 400
    accuracy: float = 0.8
    order_gap: float = 0.1


QUALITY_GATE = QualityGate()
MAX_SFT_SEEDS = 8
_REPLY_TOKENS = 48


@dataclass(frozen=True, slots=True)
class GateResult:
    """Result of one SFT seed's meta-judge."""

    sft_seed: int
    accuracy: float
    accuracy_better_first: float
    accuracy_better_second: float

    @property
    def passed(self) -> bool:
        """Whether it is accurate enough and unbiased."""
        gap = abs(self.accuracy_better_first - self.accuracy_better_second)
        return self.accuracy >= QUALITY_GATE.accuracy and gap <= QUALITY_GATE.order_gap


def compute_seed_model_key() -> str:
    """Hash all inputs of the base model."""
    templates = [load_template(f"miniature_{name}").text for name in ("judge", "meta_judge")]
    return hash_json(
        {
            "world": task.WORLD_VERSION,
            "architecture": tokenizer.get_architecture(),
            "chat_template": tokenizer.CHAT_TEMPLATE,
            "rows": SFT_ROWS,
            "sft": rename_to_frozen(
                SFT_SETTINGS.model_dump(
                    mode="json", include=_HASHED_SETTINGS | SFT_SETTINGS.model_fields_set
                ),
                "training.",
            ),
            "threads": THREADS,
            "gate": asdict(QUALITY_GATE),
            "templates": templates,
        }
    )


def ensure_seed_model(models: Path, *, scratch: Path, say: Callable[[str], None]) -> Path:
    """Return the base model's folder: built-in, cached, or trained now.

    Args:
        models: folder in which a trained model is stored.
        scratch: folder in which the trainer keeps its state.
        say: called with progress messages and the results of the gate.

    Raises:
        TrainingError: no seed passed the gate.
    """
    if (kept := find_cached_seed_model(models)) is not None:
        return kept
    folder = _get_cache_folder(models)
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{folder.name}.lock"):
        if not _is_made_from(folder, compute_seed_model_key()):
            train_seed_model(folder, scratch=scratch / "miniature-seed", say=say)
    return folder


def find_cached_seed_model(models: Path) -> Path | None:
    """Return the base model's folder if no training is needed: built-in or cached."""
    key = compute_seed_model_key()
    folders = (get_shipped_seed_model(), _get_cache_folder(models))
    return next((folder for folder in folders if _is_made_from(folder, key)), None)


def _get_cache_folder(models: Path) -> Path:
    return models / f"miniature-seed-{compute_seed_model_key()[:12]}"


def get_shipped_seed_model() -> Path:
    """Return the folder of the built-in base model."""
    return Path(str(files("meta_reward_core.tasks.toy") / "seed_model"))


def _get_record_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.json"


def _is_made_from(folder: Path, key: str) -> bool:
    record = _get_record_path(folder)
    return folder.is_dir() and record.is_file() and json.loads(record.read_text())["key"] == key


def train_seed_model(folder: Path, *, scratch: Path, say: Callable[[str], None]) -> None:
    """Try SFT seeds in order until one passes the gate; report the failed ones.

    Raises:
        TrainingError: `MAX_SFT_SEEDS` seeds failed.
    """
    tried: list[GateResult] = []
    for sft_seed in range(1, MAX_SFT_SEEDS + 1):
        say(f"training the miniature's seed model, SFT seed {sft_seed} (two to five minutes)")
        candidate = scratch / f"candidate-{sft_seed}"
        shutil.rmtree(candidate, ignore_errors=True)
        train_candidate(
            candidate, scratch=scratch / f"trainer-{sft_seed}", sft_seed=sft_seed, say=say
        )
        result = measure_gate(candidate, sft_seed=sft_seed)
        tried.append(result)
        say(describe_gate_result(result))
        if result.passed:
            _publish(candidate, folder, tried)
            return
    raise TrainingError(f"none of {MAX_SFT_SEEDS} SFT seeds passed the gate: {tried}")


def train_candidate(
    candidate: Path,
    *,
    scratch: Path,
    sft_seed: int,
    say: Callable[[str], None],
    meta_judge_noise: float | task.JudgeNoise = task.SEED_META_JUDGE_NOISE,
) -> None:
    """Train a model on the seed data of an SFT seed, without the gate.

    Args:
        candidate: folder that is created.
        meta_judge_noise: error rates of the meta-judge in the seed data.
    """
    from meta_reward_core.training.sft import InitialModel, train_sft

    steps = SFT_ROWS // SFT_SETTINGS.batch_size

    def tell(entry: dict[str, float]) -> None:
        if "loss" in entry:
            say(f"  step {entry['step']:.0f} of {steps}, loss {entry['loss']:.3f}")

    train_sft(
        _build_rows(sft_seed, meta_judge_noise),
        start=InitialModel(tokenizer.build_model_config(), tokenizer.build_tokenizer()),
        settings=SFT_SETTINGS,
        checkpoint=candidate,
        scratch=scratch,
        seed=sft_seed,
        threads=THREADS,
        on_log=tell,
    )


def _build_rows(sft_seed: int, noise: float | task.JudgeNoise) -> "list[SftRow]":
    return [
        {
            "prompt": row["prompt"],
            "completion": row["completion"],
            "kind": row["task"],
            "prompt_id": compute_prompt_id(row["prompt"][0]["content"]),
        }
        for row in task.generate_sft_rows(SFT_ROWS, seed=sft_seed, meta_judge_noise=noise)
    ]


def measure_gate(folder: Path, *, sft_seed: int) -> GateResult:
    """Run a candidate's meta-judge on held-out comparisons, greedily."""
    from meta_reward_core.engines.transformers import load_transformers_engine

    engine: Engine = load_transformers_engine(
        folder,
        dtype="float32",
        device="cpu",
        threads=THREADS,
        max_batch_tokens=65_536,
        max_model_len=None,
    )
    metrics = measure_meta_judge(
        engine,
        comparisons=QUALITY_GATE.comparisons,
        sampling=SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=_REPLY_TOKENS),
        template=load_template("miniature_meta_judge"),
        seed=0,
    )
    values = {name: value or 0.0 for name, value, _ in metrics}
    engine.close()
    return GateResult(sft_seed=sft_seed, **values)


def describe_gate_result(result: GateResult) -> str:
    """Describe the result of a seed at the gate."""
    verdict = "passed" if result.passed else "failed"
    return (
        f"SFT seed {result.sft_seed} {verdict} the gate: meta-judge accuracy "
        f"{result.accuracy:.3f} (better one first {result.accuracy_better_first:.3f}, "
        f"second {result.accuracy_better_second:.3f}; needed {QUALITY_GATE.accuracy}, "
        f"gap at most {QUALITY_GATE.order_gap})"
    )


def _publish(candidate: Path, folder: Path, tried: list[GateResult]) -> None:
    """Move the model into place, then write the record that makes it valid."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(candidate, folder)
    record = {"key": compute_seed_model_key(), "tried": [asdict(result) for result in tried]}
    _get_record_path(folder).write_bytes(encode_canonical_json(record))
