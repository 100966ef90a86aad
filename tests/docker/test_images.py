"""The images and compose files, read as an engine would; no engine is needed, and none is here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from meta_reward_core.system.settings import iter_known_names
from workers.management.commands import serve

CHECKOUT = Path(__file__).parents[2]
DOCKER = CHECKOUT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
HEAVY = {
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets"),
    *("tokenizers", "safetensors"),
}
"""What models need, and the site does not."""

NO_MODELS = f"""
import sys

class NoModels:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is not in the image of the site")

sys.meta_path.insert(0, NoModels())
"""


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its words on one line."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def one(path: Path, word: str) -> str:
    found = [rest for name, rest in instructions(path) if name == word]
    assert len(found) == 1, f"{path.name}: {len(found)} times {word}"
    return found[0]


def commands(path: Path) -> list[list[str]]:
    """What the container runs, and what looks after its health."""
    health = re.sub(r"^.*?CMD ", "", one(path, "HEALTHCHECK"))
    return [yaml.safe_load(one(path, "CMD")), yaml.safe_load(health)]


def test_the_images_linter_has_no_complaint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--failure-threshold", "style", *DOCKERFILES],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def services() -> list[Any]:
    found = []
    for path in COMPOSE:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            found.append(pytest.param(service, id=f"{path.stem}-{name}"))
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_is_pinned_and_runs_as_nobody_in_particular(path: Path) -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", one(path, "FROM"))
    words = [word for word, _ in instructions(path)]
    assert one(path, "USER") == "10001"
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in {"RUN", "COPY"})
    assert "ADD" not in words
    for word, rest in instructions(path):
        if word == "RUN" and "pip install" in rest:
            assert "--constraint constraints.txt" in rest


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_runs_exists(path: Path) -> None:
    for program, script, name, *options in commands(path):
        assert (program, script) == ("python", "manage.py")
        command = load_command_class(get_commands()[name], name)
        command.create_parser("manage.py", name).parse_args(options)


def test_the_sites_container_starts_what_serve_starts_but_the_worker() -> None:
    all_parts = [part.name for part in serve._list_services("0.0.0.0", 1, with_worker=True)]
    parts = [part.name for part in serve._list_services("0.0.0.0", 1, with_worker=False)]
    assert parts == [name for name in all_parts if name != "worker"]
    assert {"web", "reconciler"} <= set(parts)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_copies_is_there_and_not_ignored(path: Path) -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    for word, rest in instructions(path):
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (CHECKOUT / source).exists(), source
                assert source in allowed, f"{source} is kept out by .dockerignore"


@pytest.mark.parametrize("service", services())
def test_a_service_is_pinned_healthy_and_has_no_secret_in_its_environment(
    service: dict[str, Any],
) -> None:
    image = service.get("image")
    if image is None:  # a file that only adds to another one
        assert set(service) <= {"ports", "networks", "volumes", "deploy", "environment", "secrets"}
        return
    assert re.search(r":\d+\.\d+[\w.-]*$", image), image
    assert service["restart"] == "unless-stopped"
    if "build" in service:
        file = CHECKOUT / service["build"]["dockerfile"]
        assert one(file, "HEALTHCHECK")
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    else:
        assert service["healthcheck"]["test"]
    for name in service.get("environment", {}):
        if re.search("PASSWORD|SECRET_KEY|TOKEN|DATABASE_URL|BROKER_URL", name):
            assert name.endswith("_FILE")


def test_every_variable_of_a_compose_file_is_one_that_settings_read() -> None:
    libraries = {"AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS_FILE"}
    known = {*iter_known_names(), *libraries}
    for path in COMPOSE:
        for service in yaml.safe_load(path.read_text())["services"].values():
            if "build" in service or "image" not in service:
                for name in service.get("environment", {}):
                    assert name in known, name


def test_every_volume_network_and_secret_is_declared() -> None:
    base = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for path in COMPOSE:
        found = yaml.safe_load(path.read_text())
        for kind in ("volumes", "networks", "secrets"):
            declared = {*found.get(kind, {}), *base.get(kind, {})}
            for service in found["services"].values():
                used = {str(entry).partition(":")[0] for entry in service.get(kind, [])}
                assert {name for name in used if "/" not in name} <= declared


def test_the_site_needs_all_but_what_models_need() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["web"], *extras["s3"]]
    listed = (DOCKER / "requirements-web.txt").read_text().splitlines()
    pinned = (CHECKOUT / "constraints.txt").read_text().splitlines()

    def names(lines: list[str]) -> set[str]:
        plain = (re.split(r"[\[=<>~ ]", line)[0] for line in lines if not line.startswith("#"))
        return {name.lower().replace("_", "-") for name in plain if name}

    assert names(listed) == names(wanted) - HEAVY
    assert names(listed) <= names(pinned)


@pytest.mark.slow
def test_the_site_and_the_reconciler_start_without_what_models_need(tmp_path: Path) -> None:
    """An order is carried out too: its experiment is begun, hashed and handed over."""
    (tmp_path / "sitecustomize.py").write_text(NO_MODELS)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "META_REWARD_VAR": str(tmp_path / "var"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "CELERY_BROKER_URL": f"redis+socket://{tmp_path}/nowhere",
    }
    script = """
import webapp.wsgi, workers.ops.services, workers.ops.supervisor, workers.reconciler
from django.core.management import call_command
from webapp.experiments.models import Experiment, Job
from meta_reward_core.planning.launch_request import LaunchRequest
from workers.jobs import runner
call_command("migrate", verbosity=0)
wish = LaunchRequest(
    experiment="first", seed=1, iterations=1, recipe="smoke", values={"engine.kind": "scripted"}
)
Job.objects.create(kind="launch", experiment_name="first", payload=wish.model_dump(mode="json"))
runner.run_waiting_jobs(runner.SLOW_HANDLERS)
order = Job.objects.get()
assert order.status == "done", order.message
assert Experiment.objects.get().iterations.get().status == "running"
"""
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", script],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_secrets_are_made_once_and_agree(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    script = shutil.copy(DOCKER / "make-secrets.sh", tmp_path / "docker")
    folder = tmp_path / "docker" / "secrets"
    subprocess.run([script, "10.0.0.1"], check=True, capture_output=True)
    made = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    subprocess.run([script, "10.0.0.1"], check=True, capture_output=True)
    assert {path: path.read_text() for path in made} == made
    assert folder.stat().st_mode & 0o077 == 0
    password = (folder / "database_password").read_text()
    assert len(password) > 40
    assert (folder / "database_url").read_text() == f"postgres://meta:{password}@postgres:5432/meta"
    there = (folder / "for-workers" / "database_url").read_text()
    assert there == f"postgres://meta:{password}@10.0.0.1:5432/meta"
    declared = yaml.safe_load((DOCKER / "compose.yaml").read_text())["secrets"]
    assert {path.name for path in folder.iterdir() if path.is_file()} == set(declared)
