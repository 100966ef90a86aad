"""`python -m meta_reward_core.tasks.toy`: retrain the built-in base model.

With the name of a variant, such as `miniature-sft2` or `miniature-sft1-noisy`, train that variant
and store it under META_REWARD_MODEL_ROOT.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from meta_reward_core.errors import TrainingError
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model, train_seed_model
from meta_reward_core.tasks.toy.base_model_variants import (
    SeedModelVariant,
    ensure_variant,
    parse_variant,
)


def main() -> int:
    """Train and check the quality gate; return the exit code, 1 if the gate failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "variant", nargs="?", type=_parse_variant, help="such as miniature-sft2-noisy"
    )
    variant: SeedModelVariant | None = parser.parse_args().variant
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:5.0f} s  {text}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as scratch:
        if variant is None:
            train_seed_model(get_shipped_seed_model(), scratch=Path(scratch), say=say)
            say(f"written to {get_shipped_seed_model()}")
            return 0
        models = StorageRoots.from_settings().models
        try:
            say(f"saved in {ensure_variant(variant, models, scratch=Path(scratch), say=say)}")
        except TrainingError as error:
            say(str(error))
            return 1
    return 0


def _parse_variant(name: str) -> SeedModelVariant:
    found = parse_variant(name)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected a name such as miniature-sft2 or miniature-sft2-noisy, got {name!r}"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
