"""A training process whose first one writes its checkpoint only after all others have ended."""

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Any

from meta_reward_core.training import export_weights, preprocessing, process_main, trainer

LONGEST_WAIT = 60.0


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("rows are sorted before the processes start")


def wait_first(function: Any, others: list[Path]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        give_up_at = time.monotonic() + LONGEST_WAIT
        while not all(note.exists() for note in others):
            if time.monotonic() > give_up_at:
                raise AssertionError("another process waits while the first one writes")
            time.sleep(0.1)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    notes, rank = Path(os.environ["TEST_NOTES"]), os.environ["RANK"]
    atexit.register((notes / rank).touch)
    for module in (trainer, preprocessing):
        patched: Any = module
        patched.split_rows = refuse
    others = [notes / str(one) for one in range(1, int(os.environ["WORLD_SIZE"]))]
    writing: Any = export_weights
    writing.publish_model = wait_first(writing.publish_model, others)
    process_main.main(Path(sys.argv[1]))
