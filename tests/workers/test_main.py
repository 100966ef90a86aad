"""`manage.py` before any command."""

import os
import stat
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_what_is_made_here_is_closed_to_others(tmp_path: Path) -> None:
    var = tmp_path / "new" / "var"
    command = [sys.executable, str(CHECKOUT / "manage.py"), "version"]
    subprocess.run(command, env=os.environ | {"META_REWARD_VAR": str(var)}, check=True)
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
