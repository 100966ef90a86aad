"""A whole iteration on a CUDA device: the engine and the training that a CPU runs elsewhere."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import make_site

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_an_iteration_runs_on_the_device(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    finished = site.run_iteration(
        "--iterations", "1", "--set", "engine.device=cuda", "--set", "engine.threads=null"
    )
    assert finished.returncode == 0, finished.stdout
    assert (site.artifacts / "tiny/iteration-1/checkpoint/model.safetensors").exists()
