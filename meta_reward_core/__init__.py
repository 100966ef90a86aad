"""Meta-Rewarding: a language model that improves itself, its judge and its judge's judge.

This package is the method and nothing else: it knows no web, no queue and no database.
Start reading at `meta_reward_core.iteration`.
"""

import os

# Threads of torch wait for each other by spinning, some 10 ms at a time unless told otherwise.
# Beside another process on the same cores each then waits for one that is not running, and both
# crawl: docs/decisions/0002. Said here because libgomp reads it once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
