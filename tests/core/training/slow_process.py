"""A training process whose first one writes longer than the processes wait for a collective."""

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from meta_reward_core.training import callbacks, process_main, trainer

MAX_WAIT = timedelta(seconds=60)
WRITES_SECONDS = 75.0


def write_slowly(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        time.sleep(WRITES_SECONDS)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    patched: Any = trainer
    patched.MAX_WAIT = MAX_WAIT
    sealing: Any = callbacks
    sealing.mark_complete = write_slowly(sealing.mark_complete)
    process_main.main(Path(sys.argv[1]))
