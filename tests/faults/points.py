"""The test's side of `pause_points/sitecustomize.py`: where processes stop, and when they go on."""

from dataclasses import dataclass
from pathlib import Path

PAUSE_POINTS = Path(__file__).parent / "pause_points"


@dataclass(frozen=True)
class Points:
    """The points of one world, as files in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """What the processes of the world are started with."""
        return {"FAULTS_FOLDER": str(self.folder), "PYTHONPATH": str(PAUSE_POINTS)}

    def arm(self, step: str, point: str) -> None:
        """Let the next process that comes to a point stop there."""
        (self.folder / f"{step}.{point}.armed").touch()

    def reached(self, step: str, point: str) -> int | None:
        """Id of the process that stands at a point; None if none does."""
        try:
            return int((self.folder / f"{step}.{point}.reached").read_text())
        except FileNotFoundError:
            return None

    def release(self, step: str, point: str) -> None:
        """Let it go on."""
        (self.folder / f"{step}.{point}.go").touch()
