"""A wheel is all that somebody needs: it is built, installed elsewhere, and used."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.serving import CHECKOUT, wait
from tests.services import free_port

PACKAGES = ("meta_reward_core", "webapp", "workers", "templates")


def call(*command: str, folder: Path) -> str:
    """Run a program that knows nothing of this checkout and its settings."""
    done = subprocess.run(
        command, cwd=folder, env=bare(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare() -> dict[str, str]:
    ours = ("META_REWARD", "DJANGO", "PYTHON", "DATABASE_URL", "CELERY")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build is taken along."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    call(*pip, "--wheel-dir", str(source / "dist"), str(source), folder=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a clean environment in which only the wheel is installed."""
    root = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", str(root / "venv"), folder=root)
    python = str(root / "venv" / "bin" / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--constraint")
    call(*install, str(CHECKOUT / "constraints.txt"), f"{wheel}[web]", folder=root)
    return root / "venv" / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_installed_wheel_runs_an_iteration_in_an_empty_folder(
    programs: Path, tmp_path: Path
) -> None:
    meta_reward = str(programs / "meta-reward")
    call(meta_reward, "migrate", "--verbosity", "0", folder=tmp_path)
    run = (meta_reward, "run_iteration", "--experiment", "demo", "--recipe", "smoke")
    call(*run, folder=tmp_path)
    assert (tmp_path / "var" / "artifacts" / "demo" / "iteration-1").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["var"]
    assert "demo" in call(meta_reward, "list_experiments", folder=tmp_path)
    assert "--dry-run" in call(str(programs / "meta-reward-core"), "--help", folder=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_installed_wheel_serves_pages_with_their_styles(programs: Path, tmp_path: Path) -> None:
    port = free_port()
    command = (str(programs / "meta-reward"), "serve", "--port", str(port))
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        serving = subprocess.Popen(
            command, cwd=tmp_path, env=bare(), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait(lambda: b"ready." in log.read_bytes(), explain=log.read_text)
        assert "Sign in" in read(port, "/account/login")
        assert "font" in read(port, "/static/site.css")
        assert "ok" in read(port, "/healthz")
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)


def read(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def test_every_pinned_package_but_torch_has_the_hashes_of_its_files() -> None:
    pinned = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    text = (CHECKOUT / "requirements-hashes.txt").read_text(encoding="utf-8")
    hashed = re.findall(
        r"^(\S+==[^\s;]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.M
    )
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name, _ in hashed}
    names = [line.partition(" ;")[0] for line in pinned]  # without an environment marker
    expected = {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    assert normal == {name for name in expected if not name.startswith("torch==")}, (
        "run: make hashes"
    )
    assert "://" not in text
