"""An unusable model is refused before anything is drawn: by commands, the form and the API."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client
from pytest_django.fixtures import Settings
from safetensors.torch import load_file, save_file

from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.model_files import edit_json
from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import NEW, filled, launch
from tests.webapp.test_api import Program, program_of
from tests.workers.installation import Installation
from tests.workers.test_create_experiment import carry_out
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus

pytestmark = pytest.mark.django_db

Break = Callable[[Path], object]


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.self_attn.o_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def quantise(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})


def point_to_lfs(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 7\n")


def spoil_sampling(folder: Path) -> None:
    edit_json(folder / "generation_config.json", top_k=20, do_sample=False)


def end_elsewhere(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=2)
    edit_json(folder / "tokenizer_config.json", eos_token="<|user|>")


def shorten_positions(folder: Path) -> None:
    edit_json(folder / "config.json", max_position_embeddings=20)


def cut_prompts(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("message['content']", "message['content'][:99]"))


def open_with_words(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    opened = "{% if add_generation_prompt %}<|assistant|>\n"
    text = template.read_text()
    assert opened in text
    template.write_text(text.replace(opened, f"{opened}Well,\n"))


REFUSED: dict[str, tuple[Break, str, str]] = {
    "missing tensor": (lose_a_tensor, "model.safetensors", "download the weights again"),
    "quantised": (quantise, "config.json", "use the original model"),
    "pointer": (point_to_lfs, "tokenizer.json", "run `git lfs pull`"),
    "generation config": (spoil_sampling, "generation_config.json", "remove the sampling values"),
    "end token": (end_elsewhere, "generation_config.json", "add its id 4"),
    "positions": (shorten_positions, "config.json", "lower max_new_tokens"),
    "template": (cut_prompts, "chat_template.jinja", "correct the template"),
}


@pytest.fixture
def toy(installation: Installation, settings: Settings) -> Path:
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    return Path(shutil.copytree(get_shipped_seed_model(), installation.root / "models" / "toy"))


@pytest.fixture
def operator() -> User:
    return make_person("olga", "operator")


@pytest.mark.parametrize("fault", REFUSED)
def test_each_way_to_begin_refuses_a_broken_model_with_file_and_remedy(
    fault: str, installation: Installation, toy: Path, operator: User
) -> None:
    damage, file, remedy = REFUSED[fault]
    damage(toy)
    for sentence in (
        *ask_commands(installation),
        ask_form(operator),
        ask_api_to_check(program_of(operator)),
        ask_api_to_launch(program_of(operator)),
    ):
        assert file in sentence
        assert remedy in sentence
    assert not Experiment.objects.exists()
    assert not list(installation.artifacts.glob("*"))


def test_each_way_to_begin_says_that_drawn_tokens_are_trained_on(
    installation: Installation, toy: Path, operator: User
) -> None:
    """Where a template changes completions; the note is given before anything is drawn."""
    open_with_words(toy)
    words = "training uses the sampled token ids"
    assert words in installation.run("check_model", "toy")
    assert words in check_in_form(operator)
    assert words in ask_api_to_check(program_of(operator))
    status, job = program_of(operator).ask("POST", "/experiments", LAUNCH)
    assert status == 202
    done = carry_out(Job.objects.get(pk=job["id"]))
    assert any(words in line for line in done.outcome["said"])
    assert not list(installation.artifacts.glob("*/iteration-1/**/*.parquet"))


MODEL = {"source": "folder", "name": "toy"}
LAUNCH = {"name": "mine", "recipe": "smoke", "model": MODEL}
IN_FORM = {"model_from": "folder", "model_folder": "toy"}


def ask_commands(installation: Installation) -> list[str]:
    told = []
    for words in (
        ("check_model", "toy"),
        ("run_iteration", "--experiment", "mine", "--recipe", "smoke", "--model", "toy"),
    ):
        with pytest.raises(CommandError) as caught:
            installation.run(*words)
        assert caught.value.returncode == 2
        told.append(str(caught.value))
    return told


def check_in_form(person: User) -> str:
    """Press Check, and read the page when the check is done."""
    client = Client()
    client.force_login(person)
    page = str(client.post(NEW, filled(action="check", **IN_FORM)).content.decode())
    job = Job.objects.filter(kind=JobKind.CHECK_MODEL).last()
    if job is None:  # files alone told it
        return page
    if job.status == JobStatus.WAITING:
        carry_out(job)
    return str(client.post(NEW, filled(**IN_FORM)).content.decode())


def ask_form(person: User) -> str:
    page = check_in_form(person)
    client = Client()
    client.force_login(person)
    launch(client, **IN_FORM)
    assert not Job.objects.filter(kind=JobKind.LAUNCH).exists()
    return page


def ask_api_to_check(program: Program) -> str:
    status, job = program.ask("POST", "/models/check", {"model": MODEL, "recipe": "smoke"})
    assert status == 202
    found = Job.objects.get(pk=job["id"])
    done = carry_out(found) if found.status == JobStatus.WAITING else found
    assert (done.status, done.message) == ("done", "")
    return " ".join(describe(check) for check in done.outcome["checks"])


def describe(check: dict[str, Any]) -> str:
    return f"{check['file']} {check['message']} {check['remedy']}"


def ask_api_to_launch(program: Program) -> str:
    status, answer = program.ask("POST", "/experiments", LAUNCH)
    assert status == 422, answer
    return str(answer["detail"])
