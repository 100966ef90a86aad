"""Records of runs and of seed models travel: with the folder alone one goes on anywhere."""

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from django.core.management import CommandError

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.errors import InputError
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.storage.artifact_store import hash_bytes
from meta_reward_core.tasks.toy.base_model import GateResult, get_shipped_seed_model
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant
from tests.workers.installation import Installation, UseScript
from webapp.experiments.models import Experiment
from workers.reproduction import run as reproducing
from workers.reproduction.matrix import PlannedRun
from workers.reproduction.records import SeedCandidate, SeedModelRecords

RUN = "t.scripted.seed1"


@pytest.fixture
def finished(installation: Installation, use_script: UseScript) -> Installation:
    """A finished run of `reproduce --name t`."""
    installation.run_iteration("--iterations", 2, "--seed", 1, name=RUN)
    return installation


def report(installation: Installation, *arguments: object) -> tuple[str, str]:
    """What the command says of records, and the report that it writes."""
    stem = installation.root / "out" / "t"
    said = installation.run(
        "reproduce", "--name", "t", "--recipe", installation.recipe, "--seeds", 1, "--report-only",
        "--prompts", installation.prompts, "--output", stem, *arguments,
    )  # fmt: skip
    return said, stem.with_suffix(".md").read_text()


def forget_everything_but_records(installation: Installation) -> None:
    shutil.rmtree(installation.artifacts)
    Experiment.objects.all().delete()


def record(installation: Installation) -> Path:
    return installation.root / "out/t/runs" / f"{RUN}.json"


def test_the_report_of_records_alone_is_the_report_of_the_files(finished: Installation) -> None:
    said, from_files = report(finished)
    assert "does not count" not in said
    assert "| scripted |  | 1 of 1 |" in from_files
    assert record(finished).stat().st_size < 60_000
    forget_everything_but_records(finished)
    assert report(finished)[1] == from_files
    record(finished).unlink()
    assert "no run is finished" in report(finished)[1]


def test_a_report_names_the_versions_that_it_rests_on(finished: Installation) -> None:
    text = report(finished)[1]
    assert "version 1 of the toy task and version 1 of the tables" in text


@pytest.mark.parametrize(
    "file, then, now, why",
    [
        ("recipe.yaml", "judge: {samples: 5}", "judge: {samples: 6}", "recipe"),
        ("prompts.txt", "question 3?", "question three?", "prompts"),
        ("models/stub/model.safetensors", "weights of M0", "others", "seed model"),
    ],
)
def test_a_record_of_something_else_does_not_count_and_says_why(
    finished: Installation, file: str, then: str, now: str, why: str
) -> None:
    report(finished)
    forget_everything_but_records(finished)
    changed = finished.root / file
    changed.write_text(changed.read_text().replace(then, now))
    said, text = report(finished)
    assert f"{RUN}.json is not used: {why} " in said
    assert "no run is finished" in text


def test_a_damaged_record_does_not_count_and_says_why(finished: Installation) -> None:
    report(finished)
    forget_everything_but_records(finished)
    path = record(finished)
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    said, text = report(finished)
    assert f"{RUN}.json is not used: the file is not a run record: the record was modified" in said
    assert "no run is finished" in text


def test_a_finished_experiment_of_other_settings_does_not_count(finished: Installation) -> None:
    said, text = report(finished, "--set", "pairing.rho=0.1")
    assert f"the finished experiment {RUN} is not used: recipe" in said
    assert f"{RUN} is not in the tables: the existing record is not used" in text
    assert not record(finished).exists()


def test_a_finished_experiment_whose_files_are_damaged_does_not_count_until_it_is_mended(
    finished: Installation,
) -> None:
    (part,) = (finished.artifacts / RUN / "iteration-2/evaluation").iterdir()
    part.write_bytes(b"damaged")
    said, _ = report(finished)
    assert said.count(f"the finished experiment {RUN} is not used") == 1
    assert "does not match its manifest; rerun the command" in said
    finished.run_iteration("--iterations", 2, "--seed", 1, name=RUN)
    assert "| scripted |  | 1 of 1 |" in report(finished)[1]


def files_of(folder: Path) -> dict[str, str]:
    """Every file of an experiment but what names it, with its hash."""
    return {
        str(path.relative_to(folder)): hash_bytes(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("experiment.json", ".lock")
    }


def test_runs_that_begin_alike_draw_once_and_are_the_same_bytes(
    installation: Installation, use_script: UseScript
) -> None:
    """The twin differs in rho, which nothing that is drawn in iteration 1 depends on."""
    asked: Counter[str] = Counter()

    def script(conversation: Conversation, number: int, seed: int) -> str:
        asked[name] += 1
        return make_fake_reply(conversation, number, seed)

    use_script(script)
    draws = installation.root / "draws"
    for name, options in {
        "plain": (),
        "first": ("--completion-cache", draws),
        "twin": ("--completion-cache", draws, "--set", "pairing.rho=0.1"),
        "plain-twin": ("--set", "pairing.rho=0.1"),
    }.items():
        installation.run_iteration("--iterations", 1, *options, name=name)
    folder = installation.artifacts
    assert files_of(folder / "first") == files_of(folder / "plain")
    assert files_of(folder / "twin") == files_of(folder / "plain-twin")
    assert asked["first"] == asked["plain"] > 0
    assert asked["twin"] == 0


def test_other_weights_draw_anew(installation: Installation, use_script: UseScript) -> None:
    draws = installation.root / "draws"
    installation.run_iteration("--iterations", 1, "--completion-cache", draws, name="one")
    before = set(draws.iterdir())
    (installation.model / "model.safetensors").write_bytes(b"others")
    installation.run_iteration("--iterations", 1, "--completion-cache", draws, name="other")
    assert len(set(draws.iterdir())) == 2 * len(before)


def test_workers_share_no_draws_and_that_is_said_before_the_work(
    installation: Installation,
) -> None:
    with pytest.raises(CommandError, match="remove --queue or --completion-cache"):
        installation.run_iteration("--queue", "--completion-cache", installation.root / "draws")
    assert not installation.artifacts.exists()


@pytest.fixture
def seeds(tmp_path: Path) -> SeedModelRecords:
    return SeedModelRecords(tmp_path / "models", tmp_path / "runs", print)


def test_the_gate_of_a_seed_model_is_recorded_with_its_hash(seeds: SeedModelRecords) -> None:
    tried = seeds.find_or_record(SeedModelVariant(1))
    assert tried is not None
    assert tried.model == hash_model_folder(get_shipped_seed_model())
    found = json.loads(seeds.get_path(SeedModelVariant(1)).read_text())
    assert (found["model"], found["gate"]["sft_seed"]) == (tried.model, 1)


def write_gate(
    seeds: SeedModelRecords, variant: SeedModelVariant, **changes: object
) -> SeedCandidate:
    """As another machine would have left it."""
    tried = SeedCandidate(GateResult(variant.sft_seed, 0.9, 0.9, 0.9), "f" * 64)
    values = {"key": variant.key, "gate": asdict(tried.gate), "model": tried.model}
    seeds.get_path(variant).parent.mkdir(parents=True, exist_ok=True)
    seeds.get_path(variant).write_text(json.dumps(values | changes))
    return tried


def test_a_recorded_gate_needs_no_training(seeds: SeedModelRecords) -> None:
    assert seeds.find_or_record(SeedModelVariant(2)) is None
    recorded = write_gate(seeds, SeedModelVariant(2))
    assert seeds.find_or_record(SeedModelVariant(2)) == recorded


def test_a_gate_of_another_training_does_not_count(
    seeds: SeedModelRecords, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gate(seeds, SeedModelVariant(2), key="another")
    assert seeds.find_or_record(SeedModelVariant(2)) is None
    assert "its training settings differ" in capsys.readouterr().out


def test_a_seed_model_of_other_weights_than_recorded_is_refused_before_the_work(
    seeds: SeedModelRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of two M0s would pass for runs of one."""
    write_gate(seeds, SeedModelVariant(1))
    run = PlannedRun("r", "g", "miniature", "miniature", 1, 1, SeedModelVariant(1))
    with pytest.raises(InputError, match="differs from the base model in"):
        reproducing.prepare_seed_models(None, [run], seeds)  # type: ignore[arg-type]
