"""Wait for the other processes of a training, however long one of them writes files.

torch's collectives give up after a fixed time, which writing a large model can exceed. Here a
process waits as long as the others show that they are alive: each touches a file of its own every
second, also while it writes.
"""

import threading
import time
from pathlib import Path
from typing import Final

from meta_reward_core.errors import TrainingError

FOLDER: Final = "barrier"
BEAT_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.1


class ProcessBarrier:
    """A meeting point of the processes of one training, by files in a folder that they share.

    Args:
        folder: an empty or nonexistent folder.
        rank: number of this process.
        processes: number of processes.
        max_silence_seconds: time without a heartbeat after which a process counts as lost.
    """

    def __init__(
        self, folder: Path, *, rank: int, processes: int, max_silence_seconds: float
    ) -> None:
        self._folder = folder
        self._rank = rank
        self._processes = processes
        self._max_silence = max_silence_seconds
        self._heard: dict[int, tuple[float, float]] = {}
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Send heartbeats until `stop`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._heart.start()

    def stop(self) -> None:
        """Send no further heartbeats."""
        self._stopped.set()
        self._heart.join()

    def wait(self, name: str) -> None:
        """Wait until every process has called this with the same name.

        Raises:
            TrainingError: a process sends no heartbeats.
        """
        self._get_note(name, self._rank).touch()
        missing = set(range(self._processes))
        while True:
            missing = {rank for rank in missing if not self._get_note(name, rank).exists()}
            if not missing:
                return
            for rank in sorted(missing):
                self._check_heartbeat(rank)
            time.sleep(_POLL_SECONDS)

    def _get_note(self, name: str, rank: int) -> Path:
        return self._folder / f"{name}-{rank}"

    def _beat(self) -> None:
        beat = self._get_note("alive", self._rank)
        while not self._stopped.wait(BEAT_SECONDS):
            beat.touch()

    def _check_heartbeat(self, rank: int) -> None:
        """Compare this process's clock with changes of the file, not with the file's time."""
        beat, now = self._get_note("alive", rank), time.monotonic()
        changed = beat.stat().st_mtime if beat.exists() else 0.0
        known, since = self._heard.get(rank, (-1.0, now))
        if changed != known:
            self._heard[rank] = changed, now
        elif now - since > self._max_silence:
            raise TrainingError(
                f"Training process {rank} has sent no heartbeat for {now - since:.0f} s. "
                "The training resumes from its last state when it is started again."
            )
