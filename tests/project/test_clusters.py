"""The files for clusters: valid by public validators, and run with stand-ins for the scheduler."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "docker/slurm-worker.sbatch"
KUBERNETES = ROOT / "docker/kubernetes-worker.yaml"

WORKER = """\
#!/usr/bin/env bash
echo "$DATABASE_URL $*" >started
trap 'echo stopped >>started; exit 0' TERM
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_the_kubernetes_file_is_valid(version: str) -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert [one["kind"] for one in documents] == ["Deployment", "PodDisruptionBudget"]
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    broken = documents[0] | {"spec": documents[0]["spec"] | {"replicas": "one"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)
    pod = documents[0]["spec"]["template"]
    labels = [one["spec"]["selector"]["matchLabels"] for one in documents]
    assert labels == [pod["metadata"]["labels"]] * 2
    [worker] = pod["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {one["name"] for one in worker["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["spec"]["volumes"]}


def test_the_slurm_file_is_a_sound_shell_script() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run(
        [shellcheck, "--shell=bash", "--enable=all", "--exclude=SC2250,SC2310,SC2312", SLURM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    directives = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@120"} <= set(directives)


@pytest.fixture
def job(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """The script, with a worker and a `scontrol` that write down what they are told."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    scripts = {
        ".venv/bin/python": WORKER,
        "bin/scontrol": f'#!/bin/sh\necho "$@" >{tmp_path}/told\n',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "settings").write_text("DATABASE_URL=postgres://db\n")
    environment: dict[str, Any] = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "META_REWARD_HOME": str(tmp_path),
        "META_REWARD_ENVIRONMENT": str(tmp_path / "settings"),
        "SLURM_JOB_ID": "77",
    }
    process = subprocess.Popen(["bash", str(SLURM)], env=environment)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    return process


@pytest.mark.parametrize(
    "number, requeued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["limit", "scancel"]
)
def test_a_slurm_job_stops_its_worker_and_is_requeued_before_its_limit(
    job: "subprocess.Popen[bytes]",
    tmp_path: Path,
    number: signal.Signals,
    requeued: bool,
) -> None:
    job.send_signal(number)
    assert job.wait(20) == 0
    started = (tmp_path / "started").read_text()
    assert started == "postgres://db manage.py worker\nstopped\n"
    told = tmp_path / "told"
    assert told.exists() == requeued
    assert not requeued or told.read_text() == "requeue 77\n"
