"""`python -m meta_reward_core.miniature`: train the seed model that the package ships, anew."""

import sys
import tempfile
import time
from pathlib import Path

from meta_reward_core.miniature.seed import shipped_seed, train_seed_model


def main() -> None:
    """Train, gate and put the first seed that passes into the package."""
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:5.0f} s  {text}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as scratch:
        train_seed_model(shipped_seed(), scratch=Path(scratch), say=say)
    say(f"written to {shipped_seed()}")


if __name__ == "__main__":
    main()
