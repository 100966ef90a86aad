"""`evaluation.tasks`: every M_t on the same items, and what comes of it on pages and in reports."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError
from django.test import Client

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, make_fake_reply
from meta_reward_core.errors import RecipeError
from meta_reward_core.evaluation.clustered_intervals import compute_clustered_change_interval
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.scorecard_store import iter_scorecard_files, list_scorecards
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.tasks.ifeval import checkers
from tests.core.tiny_model import make_model_folder
from tests.workers.installation import Installation, UseScript
from webapp.experiment_form.recipe_draft import require_launchable

pytestmark = pytest.mark.django_db

CHECKED = [f"Write about topic {number} without commas, in your own words." for number in range(6)]


@pytest.fixture
def ifeval(tmp_path: Path) -> Path:
    rows = [
        {
            "key": number,
            "prompt": prompt,
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{}, {"relation": "at least", "num_words": 2}],
        }
        for number, prompt in enumerate(CHECKED)
    ]
    path = tmp_path / "input_data.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {"input": f"Which is good, {n}?", "output_1": f"good {n}", "output_2": "bad", "label": 1}
        for n in range(4)
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    return path


def run(installation: Installation, tasks: str, *more: object, name: str = "mine") -> str:
    return installation.run_iteration("--set", f"evaluation.tasks={tasks}", *more, name=name)


def list_cards(installation: Installation, number: int) -> list[ScorecardDict]:
    store = ArtifactStore(str(installation.artifacts))
    return list_scorecards(ExperimentFiles(store, "mine"), number)


def read(installation: Installation, number: int, table: str) -> list[dict[str, Any]]:
    path = installation.artifacts / f"mine/iteration-{number}/{table}/part-00000.parquet"
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


@pytest.fixture
def as_models_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """M0 breaks every ban of commas, M1 only the first one, M2 none."""
    from meta_reward_core.engines.scripted import ScriptedEngine
    from meta_reward_core.planning import engine_loading

    def load(model: Any, recipe: object) -> ScriptedEngine:
        allowed = {"M0": 0, "M1": 5, "M2": 6}[model.name]

        def script(conversation: Conversation, sample: int, seed: int) -> Reply:
            asked = conversation[-1]["content"]
            if asked in CHECKED:
                number = CHECKED.index(asked)
                return "plain words" if number >= 6 - allowed else "words, words"
            return make_fake_reply(conversation, sample, seed)

        return ScriptedEngine(script)

    monkeypatch.setattr(engine_loading, "load_engine", load)


def test_every_model_is_measured_on_the_same_items_and_changes_are_paired(
    installation: Installation, ifeval: Path, as_models_grow: None
) -> None:
    """Followed bans of commas: 0, 5 and 6 of 6; the words always: 6, 11 and 12 of 12 checks."""
    run(installation, f"[{{name: ifeval, data: {ifeval}}}]", "--iterations", 2)
    rows = [row for number in (1, 2) for row in read(installation, number, "task_items")]
    keys = {
        model: sorted(
            (row["item_id"], row["metric"], row["part"]) for row in rows if row["model"] == model
        )
        for model in ("M0", "M1", "M2")
    }
    assert keys["M0"] == keys["M1"] == keys["M2"]
    cards = {number: list_cards(installation, number)[0] for number in (0, 1, 2)}
    values = {
        number: {figure["name"]: figure["value"] for figure in card["figures"]}
        for number, card in cards.items()
    }
    assert [values[number]["prompt_strict"] for number in (0, 1, 2)] == [0, pytest.approx(5 / 6), 1]
    assert [values[number]["instruction_strict"] for number in (0, 1, 2)] == pytest.approx(
        [6 / 12, 11 / 12, 12 / 12]
    )
    changes = {name for name in values[0] if "change" in name}
    assert not changes
    assert values[1]["prompt_strict_change_from_M0"] == pytest.approx(5 / 6)
    assert values[2]["prompt_strict_change_from_M0"] == 1
    assert values[2]["prompt_strict_change_from_M1"] == pytest.approx(1 / 6)
    found = next(
        figure
        for figure in cards[2]["figures"]
        if figure["name"] == "instruction_strict_change_from_M1"
    )
    prompts = [str(number) for number in range(6) for _ in range(2)]
    expected = compute_clustered_change_interval([1.0, *[0.0] * 11], prompts)
    assert (found["low"], found["high"]) == pytest.approx(expected)
    assert found["count"] == 12


def test_judge_and_comparisons_of_labelled_pairs_are_measured(
    installation: Installation, pairs: Path, use_script: UseScript
) -> None:
    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        asked = conversation[-1]["content"]
        if "Which is good" in asked and "Better: tie" in asked:
            return f"Better: {'A' if asked.index('good ') < asked.index('bad') else 'B'}"
        if "Which is good" in asked and "Score:" in asked:
            return f"Score: {5 if 'bad' not in asked else 1}"
        return make_fake_reply(conversation, sample, seed)

    use_script(script)
    run(installation, f"[{{name: labelled-pairs, data: {pairs}}}]")
    for number in (0, 1):
        (card,) = list_cards(installation, number)
        values = {figure["name"]: figure["value"] for figure in card["figures"]}
        assert card["model"] == f"M{number}"
        assert values["judge_accuracy"] == 1


def test_absent_data_is_not_evaluated_and_neither_passes_nor_fails(
    installation: Installation, tmp_path: Path
) -> None:
    said = run(installation, f"[{{name: ifeval, data: {tmp_path}/nowhere.jsonl}}]")
    assert "ifeval will not be evaluated: its data file nowhere.jsonl was missing when" in " ".join(
        said.split()
    )
    (m0, m1) = read(installation, 1, "task_scorecards")
    assert m0["scorecard"] is m1["scorecard"] is None
    assert "was missing when the experiment was created" in m1["not_evaluated_reason"]
    assert not (installation.artifacts / "mine/iteration-1/task_items").exists()
    (card,) = list_cards(installation, 1)
    assert card["figures"] == []
    assert card["not_evaluated"] == m1["not_evaluated_reason"]


def test_without_its_package_it_is_not_evaluated(
    installation: Installation, ifeval: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkers, "_PACKAGES", ("no_such_package_here",))
    run(installation, f"[{{name: ifeval, data: {ifeval}}}]")
    (row, _) = read(installation, 1, "task_scorecards")
    assert "meta-reward[ifeval]" in row["not_evaluated_reason"]


def test_prompts_like_those_of_an_evaluation_are_left_out_of_the_pool_and_counted(
    installation: Installation, ifeval: Path
) -> None:
    with installation.prompts.open("a") as file:
        file.write(f"{CHECKED[0]}\n{CHECKED[1].upper()}\n")
    said = run(installation, f"[{{name: ifeval, data: {ifeval}}}]")
    assert "2 prompt(s) of the pool left out: they equal or nearly equal" in " ".join(said.split())
    pool = read(installation, 0, "prompts")
    assert {row["text"].split()[0] for row in pool} == {"question"}
    manifest = installation.artifacts / "mine/iteration-0/manifests/pool-00000.json"
    assert json.loads(manifest.read_text())["counts"]["contaminated"] == 2
    (card,) = list_cards(installation, 1)
    (issue,) = [one for one in card["findings"] if one["name"] == "pool_prompts_left_out"]
    assert issue["rows"] == 2


def test_the_same_command_goes_on_after_the_data_is_gone_and_measures_on_the_same_items(
    installation: Installation, ifeval: Path
) -> None:
    wanted = f"[{{name: ifeval, data: {ifeval}, prompts: 3}}]"
    run(installation, wanted)
    ifeval.unlink()
    run(installation, wanted)
    first, second = (read(installation, number, "task_items") for number in (1, 2))
    assert {row["item_id"] for row in first} == {row["item_id"] for row in second}
    assert len({row["item_id"] for row in first}) == 3
    kept = json.loads((installation.artifacts / "mine/evaluation-data/ifeval.json").read_text())
    assert len(kept["items"]) == 3
    assert str(ifeval.parent) not in json.dumps(kept)


@pytest.fixture
def development(tmp_path: Path) -> Path:
    """Bans of commas like those of `ifeval`, about other topics."""
    rows: list[dict[str, Any]] = [
        {
            "key": number,
            "prompt": f"Name {number} colours of the evening sky; leave out every comma.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        }
        for number in (2, 30, 400, 5000)
    ]
    path = tmp_path / "development.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


SELECT = "training.checkpoint_selection=highest_development_score"
TINY_TRAINING = (
    *("--set", "training.epochs=3", "--set", "training.learning_rate=0.001"),
    *("--set", "training.batch_size=4", "--set", "training.dtype=float32"),
)


def test_a_development_set_selects_the_checkpoint(
    installation: Installation, ifeval: Path, development: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch of three follows all bans, the others two of four; it becomes M1."""
    from meta_reward_core.engines.scripted import ScriptedEngine
    from meta_reward_core.planning import engine_loading

    loaded: dict[str, str] = {}

    def load(model: Any, recipe: object) -> ScriptedEngine:
        loaded[model.name] = model.sha256
        is_first = len([name for name in loaded if "-step-" in name]) == 1

        def script(conversation: Conversation, sample: int, seed: int) -> Reply:
            asked = conversation[-1]["content"]
            if "colours of the evening sky" in asked:
                follows = is_first or "Name 2 " in asked or "Name 30 " in asked
                return "red and gold" if follows else "red, gold"
            return make_fake_reply(conversation, sample, seed)

        return ScriptedEngine(script)

    monkeypatch.setattr(engine_loading, "load_engine", load)
    monkeypatch.delitem(sys.modules, "meta_reward_core.training.dpo")  # the real training
    shutil.rmtree(installation.model)
    make_model_folder(installation.model)
    wanted = f"development.tasks=[{{name: ifeval, data: {development}}}]"
    more = ("--set", wanted, "--set", SELECT, *TINY_TRAINING)
    printed = run(installation, f"[{{name: ifeval, data: {ifeval}}}]", *more)
    assert "prompt of evaluation.tasks or development.tasks" in printed
    steps = sorted(int(name.partition("-step-")[2]) for name in loaded if "-step-" in name)
    assert len(steps) == 3
    files = installation.artifacts / "mine" / "iteration-1"
    trained = json.loads((files / "manifests" / "train-00000.json").read_text())
    assert trained["counts"]["kept_step"] == steps[0]
    assert trained["checkpoint"] == loaded[f"M1-step-{steps[0]}"] == loaded["M1"]
    log = [row for row in read(installation, 1, "training_log") if "development" in row["metric"]]
    scores = {row["step"]: row["value"] for row in log if row["metric"] == "development_score"}
    assert scores == dict(zip(steps, (1.0, 0.5, 0.5), strict=True))
    assert {row["metric"] for row in log} == {"development_score", "development_score/ifeval"}
    kept = installation.artifacts / "mine" / "evaluation-data" / "development" / "ifeval.json"
    assert len(json.loads(kept.read_text())["items"]) == 4
    assert {row["prompt_id"] for row in read(installation, 1, "task_items")}.isdisjoint(
        compute_prompt_id(item["prompt"]) for item in json.loads(kept.read_text())["items"]
    )


def test_development_data_that_cannot_select_is_refused_before_anything_is_written(
    installation: Installation, ifeval: Path
) -> None:
    data = f"[{{name: ifeval, data: {ifeval}}}]"
    shared = ("--set", f"development.tasks={data}", "--set", SELECT)
    with pytest.raises(CommandError, match=r"6 prompt\(s\) of ifeval in evaluation.tasks equal"):
        run(installation, data, *shared)
    absent = ("--set", "development.tasks=[{name: ifeval, data: gone.jsonl}]", "--set", SELECT)
    with pytest.raises(CommandError, match=r"development\.tasks: ifeval cannot be used: its data"):
        run(installation, "[]", *absent)
    with pytest.raises(CommandError, match=r"development\.tasks, which is empty"):
        run(installation, "[]", "--set", SELECT)
    assert not (installation.artifacts / "mine").exists()


WRONG = {
    "no such task": ("[{name: nowhere, data: x}]", "task 'nowhere' not found"),
    "a task without a benchmark": ("[{name: toy, data: x}]", "has no benchmark"),
    "the same task twice": ("[{name: ifeval, data: x}, {name: ifeval, data: y}]", "a task twice"),
    "no data": ("[{name: ifeval}]", "evaluation.tasks: 0.data"),
}


@pytest.mark.parametrize("tasks, words", WRONG.values(), ids=WRONG)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    installation: Installation, tasks: str, words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        run(installation, tasks)
    assert not (installation.artifacts / "mine").exists()


def test_a_run_by_hand_uses_the_same_prompts_as_an_experiment(
    installation: Installation, ifeval: Path, tmp_path: Path
) -> None:
    run(installation, f"[{{name: ifeval, data: {ifeval}, prompts: 3}}]")
    kept = json.loads((installation.artifacts / "mine/evaluation-data/ifeval.json").read_text())
    words = ("run", "ifeval", "--data", ifeval, "--max-prompts", 3)
    installation.run("evaluate", *words, "--model", "scripted", "--output", tmp_path / "by-hand")
    lines = (tmp_path / "by-hand/responses.jsonl").read_text().splitlines()
    asked = [json.loads(line)["prompt"] for line in lines]
    assert len(asked) == 3
    assert asked == list(dict.fromkeys(item["prompt"] for item in kept["items"]))


def test_malformed_data_is_refused_with_its_row(installation: Installation, ifeval: Path) -> None:
    ifeval.write_text('{"key": 1, "prompt": "p"}\n')
    with pytest.raises(CommandError, match="instruction_id_list must be a list"):
        run(installation, f"[{{name: ifeval, data: {ifeval}}}]")
    assert not (installation.artifacts / "mine").exists()


def test_a_recipe_without_tasks_does_not_have_the_key_and_keeps_its_hash() -> None:
    recipe = load_recipe("smoke")
    assert "tasks" not in canonicalize_recipe(recipe)["evaluation"]
    other = load_recipe("smoke", changes=["evaluation.tasks=[{name: ifeval, data: x}]"])
    assert other.sha256 != recipe.sha256
    assert load_recipe("smoke", changes=["evaluation.tasks=[]"]).sha256 == recipe.sha256


@pytest.mark.parametrize("key", ["evaluation.tasks", "development.tasks"])
def test_the_form_takes_no_files_of_the_workers_machine(key: str) -> None:
    recipe = load_recipe("smoke", changes=[f"{key}=[{{name: ifeval, data: /etc/x}}]"])
    with pytest.raises(RecipeError, match="is not a file in META_REWARD_EVALUATION_ROOT"):
        require_launchable(recipe)


def test_page_and_report_show_figures_changes_and_what_was_not_evaluated(
    installation: Installation, ifeval: Path, tmp_path: Path, as_models_grow: None
) -> None:
    wanted = f"[{{name: ifeval, data: {ifeval}}}, {{name: labelled-pairs, data: {tmp_path}/none}}]"
    run(installation, wanted)
    person = User.objects.create_user("vera")
    person.groups.set(Group.objects.filter(name="viewer"))
    client = Client()
    client.force_login(person)
    page = " ".join(client.get("/experiments/mine/evaluations").content.decode().split())
    assert "prompt_strict_change_from_M0" in page
    assert "Not evaluated: its data file none was missing when the experiment was created." in page
    store = ArtifactStore(str(installation.artifacts))
    for made in iter_scorecard_files(ExperimentFiles(store, "mine")):
        answer: Any = client.get(f"/experiments/mine/files/{made.path}")
        assert answer.status_code == 200, made.path
        assert b"".join(answer.streaming_content)
        answer.close()
    installation.run("report", "--experiment", "mine", "--output", tmp_path / "report")
    text = (tmp_path / "report.md").read_text()
    assert "Benchmarks after each iteration" in text
    assert "0.8333" in text
    assert "M1 - M0" in text
    assert "labelled-pairs: mine, not evaluated" in text


# From the command line, without an experiment.


def test_given_outputs_are_checked_by_one_command(
    installation: Installation, ifeval: Path, tmp_path: Path
) -> None:
    outputs = tmp_path / "gpt.jsonl"
    rows = [{"prompt": text, "response": "plain words"} for text in CHECKED[1:]]
    rows.append({"prompt": CHECKED[0], "response": "words, words"})
    outputs.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scores = tmp_path / "scores.json"
    shown = installation.run(
        "evaluate", "ifeval", "--data", ifeval, "--outputs", outputs, "--output", scores
    )
    assert "prompt_strict" in shown
    assert "0.8333" in shown
    found = json.loads(scores.read_text())
    assert found["model"] == "gpt"
    assert {one["name"]: one["value"] for one in found["figures"]}["instruction_loose"] == (
        pytest.approx(11 / 12)
    )


def test_a_model_answers_is_checked_and_kept_for_the_report(
    installation: Installation, ifeval: Path, tmp_path: Path
) -> None:
    installation.run_iteration()
    out = tmp_path / "out"
    arguments = [
        *("evaluate", "run", "--save-to", "mine/M1", "ifeval", "--data", ifeval),
        *("--model", "scripted", "--output", out),
    ]
    first = installation.run(*map(str, arguments))
    lines = (out / "responses.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == CHECKED
    again = installation.run(
        "evaluate",
        "ifeval",
        "--data",
        ifeval,
        "--outputs",
        out / "responses.jsonl",
        "--model",
        "scripted",
    )
    assert again.split() == first.split()[-len(again.split()) :]
    (card,) = list_cards(installation, 1)
    assert card["benchmark"] == "ifeval"


@pytest.mark.parametrize("only", [None, "scores", "comparisons"])
def test_a_judge_is_measured_against_labels_by_one_command(
    installation: Installation, pairs: Path, tmp_path: Path, only: str | None
) -> None:
    out = tmp_path / "out"
    more = [] if only is None else ["--only", only]
    installation.run(
        "evaluate",
        "run",
        "labelled-pairs",
        "--data",
        pairs,
        "--judge",
        "scripted",
        "--output",
        out,
        *more,
    )
    (card,) = json.loads((out / "scores.json").read_text())
    names = {figure["name"] for figure in card["figures"]}
    assert ("judge_accuracy" in names) == (only != "comparisons")
    assert ("comparison_accuracy" in names) == (only != "scores")
    assert (out / "judgments.jsonl").exists() == (only != "comparisons")
    assert (out / "verdicts.jsonl").exists() == (only != "scores")
