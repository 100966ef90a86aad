"""A training process in which accelerate does plain data parallelism, as it does by itself."""

import sys
from pathlib import Path
from typing import Any

from meta_reward_core.training import process_main, trainer_factories

if __name__ == "__main__":
    patched: Any = trainer_factories
    patched.enable_fsdp_on_cpu = lambda: None
    process_main.main(Path(sys.argv[1]))
