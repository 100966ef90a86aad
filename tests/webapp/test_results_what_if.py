"""Other rules over what is on disk: shown at once, without a new generation."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.experiment import Experiment as OnDisk
from meta_reward_core.method.what_if import get_rules
from tests.core import scripted_world
from tests.webapp.conftest import make_person
from tests.webapp.results_fixtures import record, scripted_experiment, sloppy_reply
from tests.webapp.test_results_prompts import HTMX, rows_of
from webapp.experiments.models import Experiment
from webapp.results import index_parts, iteration_reader, prompt_index
from webapp.results.iteration_reader import OpenIteration, open_iteration
from webapp.results.prompt_index import IterationIndex, find_index
from webapp.results.what_if_page import WhatIf, compute_what_if

pytestmark = pytest.mark.django_db
PAGE = "/experiments/scripted/iterations/1/what-if"
AS_IT_WAS = {
    "rho": "0.3",
    "max_chosen_chars": "70",
    "max_chosen_judgment_chars": "60",
    "min_valid_judgments": "1",
}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    return scripted_experiment(tmp_path_factory.mktemp("what-if"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


@pytest.fixture
def row(on_disk: OnDisk, alice: User, settings: Settings, pieces: Path) -> Experiment:
    settings.META_REWARD_SCRATCH_ROOT = str(pieces)
    return record(on_disk, alice)


def ask(client: Client, **changes: object) -> WhatIf:
    answer = client.get(PAGE, AS_IT_WAS | {name: str(value) for name, value in changes.items()})
    assert answer.status_code == 200
    made: WhatIf = answer.context["made"]
    return made


def opened(row: Experiment) -> tuple[OpenIteration, IterationIndex]:
    iteration = open_iteration(row, 1)
    return iteration, find_index(iteration, budget_seconds=60.0)[0]


def test_an_iteration_is_opened_once_until_its_row_changes(
    row: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration_reader, "_SETTLED_SECONDS", -1.0)
    first = open_iteration(row, 1)
    assert open_iteration(row, 1) is first
    changed = Experiment.objects.get(pk=row.pk)
    changed.recipe = changed.recipe | {"description": "another"}
    assert open_iteration(changed, 1) is not first


def test_unchanged_rules_make_exactly_the_pairs_on_disk(row: Experiment, on_disk: OnDisk) -> None:
    iteration, index = opened(row)
    made = compute_what_if(iteration, index, get_rules(iteration.recipe, 1)).made
    grid_ids = index.rows["response_id"].to_pylist()
    remade = {
        prompt_id: (
            grid_ids[at][made["actor"].chosen[at]],
            grid_ids[at][made["actor"].rejected[at]],
        )
        for at, prompt_id in enumerate(index.prompt_ids)
        if made["actor"].paired[at]
    }
    assert remade == {
        pair["prompt_id"]: (pair["chosen_response_id"], pair["rejected_response_id"])
        for pair in rows_of(on_disk, "actor_pairs")
    }
    judged = {index.prompt_ids[at] for at in made["judge"].paired.nonzero()[0]}
    assert judged == {pair["prompt_id"] for pair in rows_of(on_disk, "judge_pairs")}
    for kind in ("actor", "judge"):
        dropped = [d["reason"] for d in rows_of(on_disk, "dropped") if d["kind"] == kind]
        assert made[kind].count_drops() == {reason: dropped.count(reason) for reason in dropped}


def test_unchanged_rules_choose_no_judgment_that_was_cut_off(
    client: Client, alice: User, settings: Settings, tmp_path: Path
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    meta_judge = {"max_judgments": None, "max_chosen_judgment_chars": None}
    on_disk = scripted_world.begin(tmp_path, meta_judge=meta_judge)
    resources = scripted_world.make_scripted_resources(tmp_path, scripted_world.long_winded_reply)
    scripted_world.run_before_training(on_disk.build_context(1), resources)
    iteration, index = opened(record(on_disk, alice))
    made = compute_what_if(iteration, index, get_rules(iteration.recipe, 1)).made["judge"]
    judged = {index.prompt_ids[at] for at in made.paired.nonzero()[0]}
    assert judged == {pair["prompt_id"] for pair in rows_of(on_disk, "judge_pairs")}
    dropped = [d for d in rows_of(on_disk, "dropped") if d["kind"] == "judge"]
    reasons = [d["reason"] for d in dropped]
    assert made.count_drops() == {reason: reasons.count(reason) for reason in reasons}
    assert 0 < reasons.count("best_judgment_cut_off") < 20 > len(judged) > 0
    ends = {j["judgment_id"]: j["finish_reason"] for j in rows_of(on_disk, "judgments")}
    chosen = [ends[pair["chosen_judgment_id"]] for pair in rows_of(on_disk, "judge_pairs")]
    rejected = [ends[pair["rejected_judgment_id"]] for pair in rows_of(on_disk, "judge_pairs")]
    assert set(chosen) == {"stop"}
    assert "length" in rejected
    left_out = next(d for d in dropped if d["reason"] == "best_judgment_cut_off")
    page = client.get(f"/experiments/scripted/iterations/1/prompts/{left_out['prompt_id']}")
    shown = page.content.decode()
    assert "Every top-rated judgment was cut off by the token limit." in shown
    assert "can be rejected but never chosen" in shown
    assert "of 5 · cut off by the token limit" in shown


def test_the_page_begins_as_it_was(client: Client, row: Experiment) -> None:
    answer = client.get(PAGE)
    assert answer.context["made"].as_it_was
    assert answer.context["made"].changed == []
    assert "These are the rules of the recipe" in answer.content.decode().replace("&#x27;", "'")


@pytest.mark.parametrize(
    "changes",
    [
        {"rho": 0.0},
        {"rho": 0.5},
        {"max_chosen_chars": ""},
        {"max_chosen_chars": 30},
        {"max_chosen_judgment_chars": ""},
        {"max_chosen_judgment_chars": 30},
        {"min_valid_judgments": 5},
        {"min_valid_judgments": 6, "rho": 0.1},
    ],
)
def test_moved_rules_make_what_an_iteration_under_them_makes(
    client: Client, row: Experiment, on_disk: OnDisk, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The same scripted iteration is run under the moved recipe; replies do not depend on it."""
    values = {name: changes.get(name, AS_IT_WAS[name]) for name in AS_IT_WAS}
    recipe = {
        "pairing": {
            "rho": float(values["rho"]),
            "max_chosen_chars": int(values["max_chosen_chars"] or 0) or None,
        },
        "judge": {"samples": 6, "min_valid_judgments": int(values["min_valid_judgments"])},
        "meta_judge": {
            "max_chosen_judgment_chars": int(values["max_chosen_judgment_chars"] or 0) or None
        },
    }
    again = scripted_experiment(tmp_path, recipe)
    made = ask(client, **changes)
    index = opened(row)[1]
    for kind in ("actor", "judge"):
        pairs = made.made[kind]
        known = {at: index.prompt_ids[at] for at in (~pairs.unknown).nonzero()[0].tolist()}
        expected = {pair["prompt_id"] for pair in rows_of(again, f"{kind}_pairs")}
        got = {prompt_id for at, prompt_id in known.items() if pairs.paired[at]}
        if kind == "actor" or "min_valid_judgments" not in changes:
            assert got == expected & set(known.values())
    before = {pair["prompt_id"]: pair for pair in rows_of(on_disk, "actor_pairs")}
    after = {pair["prompt_id"]: pair for pair in rows_of(again, "actor_pairs")}
    names = ("chosen_response_id", "rejected_response_id")
    differing = {
        prompt_id
        for prompt_id in index.prompt_ids
        if [before.get(prompt_id, {}).get(name) for name in names]
        != [after.get(prompt_id, {}).get(name) for name in names]
    }
    changed = {index.prompt_ids[at] for kind, at in made.changed if kind == "actor"}
    assert changed == differing


def test_lengths_and_counts_are_shown_before_and_after(client: Client, row: Experiment) -> None:
    made = ask(client, rho=0.0, max_chosen_chars="")
    actor = next(kind for kind in made.kinds if kind.kind == "actor")
    rows = {row.name: row for row in actor.rows}
    assert int(rows["Pairs"].before) < int(rows["Pairs"].after)
    longer = rows["Length of chosen"]
    assert int(longer.before) < int(longer.after), "without length control they are longer"
    drops = [row for row in actor.rows if row.name.startswith("Prompts without a pair")]
    assert [int(row.before) > int(row.after) for row in drops] == [True]
    gained = int(rows["Pairs"].after) - int(rows["Pairs"].before)
    assert rows["Pairs"].change.startswith(f"+{gained} (+")
    assert drops[0].change.startswith(f"−{gained} (−")
    assert actor.verdict.startswith(f"{rows['Pairs'].after} actor pairs instead of ")
    assert not actor.is_large_loss


def test_the_loss_of_a_quarter_of_the_pairs_is_a_warning(client: Client, row: Experiment) -> None:
    for limit in range(75, 0, -5):
        actor = ask(client, max_chosen_chars=limit).kinds[0]
        before, after = int(actor.rows[0].before), int(actor.rows[0].after)
        assert actor.is_large_loss == ((before - after) / before >= 0.25), (before, after)
    assert after == 0
    assert actor.verdict == f"100% of the actor pairs are lost: 0 of {before} remain."
    page = client.get(PAGE, AS_IT_WAS | {"max_chosen_chars": "5"}).content.decode()
    assert f'<li class="warns"><b>Warning:</b> {actor.verdict}</li>' in page
    assert "<p>Unchanged (" in page, "the table of unchanged judge pairs is left out"


def test_score_differences_are_those_of_the_stored_scores(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    actor, judge = ask(client).kinds
    for kind, name in ((actor, "Score difference"), (judge, "Elo difference")):
        pairs = rows_of(on_disk, f"{kind.kind}_pairs")
        mean = sum(p["score_chosen"] - p["score_rejected"] for p in pairs) / len(pairs)
        found = next(one for one in kind.rows if one.name == name)
        assert found.before == found.after == f"{mean:.2f}"


def test_pairs_are_compared_with_the_ground_truth_if_there_is_one(
    client: Client,
    row: Experiment,
    on_disk: OnDisk,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """The ground truth of this test is the length, so that longer responses are better."""
    assert not any("truth" in one.name for one in ask(client).kinds[0].rows)

    class Longer:
        def measure(self, request: object) -> tuple[()]:
            return ()

        def grade_response(self, prompt: str, response: str) -> float:
            return float(len(response))

    monkeypatch.setattr(index_parts, "find_response_grader", lambda recipe: Longer())
    monkeypatch.setattr(index_parts, "_describe_grading", lambda recipe: ["longer", 1])
    monkeypatch.setattr(prompt_index, "_whole", OrderedDict())
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path)
    lengths = {one["response_id"]: len(one["text"]) for one in rows_of(on_disk, "responses")}
    differences = [
        lengths[pair["chosen_response_id"]] - lengths[pair["rejected_response_id"]]
        for pair in rows_of(on_disk, "actor_pairs")
    ]
    right = sum(one > 0 for one in differences)
    interval = compute_wilson_interval(right / len(differences), len(differences))
    rows = {one.name: one for one in ask(client, rho=0.0).kinds[0].rows}
    assert rows["Chosen better by ground truth"].before == (
        f"{right / len(differences):.0%} ({interval.low:.0%}–{interval.high:.0%})"
    )
    mean = sum(differences) / len(differences)
    assert rows["True quality difference"].before == f"{mean:.2f}".replace("-", "−")
    assert rows["Chosen better by ground truth"].change.endswith(" points")
    assert "no rule uses it" in client.get(PAGE).content.decode()


def test_changed_rules_lead_to_a_new_experiment_and_to_a_fork_that_keeps_most(
    client: Client, row: Experiment
) -> None:
    page = client.get(PAGE, AS_IT_WAS | {"rho": "0.1"}).content.decode()
    query = "recipe.pairing.rho=0.1"
    assert f'href="/experiments/scripted/duplicate?{query}"' in page
    kept = re.search(r'href="/experiments/scripted/fork\?from=1%3A(\w+)&amp;' + query, page)
    assert kept is not None
    assert kept[1] == "judge", "the responses and judgments do not depend on rho"
    fork = client.get(f"/experiments/scripted/fork?from=1%3Ajudge&{query}")
    [change] = fork.context["state"].differences
    assert (change.key, change.before, change.after) == ("pairing.rho", "0.3", "0.1")
    duplicate = client.get(f"/experiments/scripted/duplicate?{query}").context["state"]
    assert [(one.key, one.after) for one in duplicate.draft.differences] == [("pairing.rho", "0.1")]
    page = client.get(PAGE, AS_IT_WAS | {"max_chosen_judgment_chars": ""}).content.decode()
    assert "recipe.meta_judge.max_chosen_judgment_chars=none" in page
    assert "New experiment with" not in client.get(PAGE).content.decode()
    viewer = Client()
    viewer.force_login(make_person("bob", "viewer"))
    assert "New experiment with" not in viewer.get(PAGE, AS_IT_WAS | {"rho": "0"}).content.decode()


def test_only_what_changes_is_emphasised(client: Client, row: Experiment) -> None:
    as_it_was = client.get(PAGE, AS_IT_WAS).content.decode()
    table = as_it_was.partition('<section id="what-if"')[2]
    assert "<strong>" not in table
    answer = client.get(PAGE, AS_IT_WAS | {"rho": "0"})
    changed, rows = answer.content.decode(), answer.context["made"].kinds[0].rows
    assert any(one.is_changed for one in rows)
    for one in rows:
        after = f"<strong>{one.after}</strong>" if one.is_changed else one.after
        assert f'<td class="number" data-label="What if">{after}</td>' in changed


def test_changed_prompts_are_linked_in_words(client: Client, row: Experiment) -> None:
    answer = client.get(PAGE, AS_IT_WAS | {"rho": "0"})
    change = answer.context["changed"][0]
    page = answer.content.decode()
    assert f"/experiments/scripted/iterations/1/prompts/{change.prompt_id}" in page
    assert change.before in page.replace("&#x27;", "'")


def test_what_only_battles_would_tell_is_said_to_be_unknown(
    client: Client, row: Experiment
) -> None:
    for least in (5, 6):
        answer = client.get(PAGE, AS_IT_WAS | {"min_valid_judgments": str(least)})
        judge = next(kind for kind in answer.context["made"].kinds if kind.kind == "judge")
        if judge.unknown:
            break
    assert judge.calls >= 2 * judge.unknown > 0
    page = answer.content.decode()
    assert f"would take {judge.calls} meta-judge calls" in page
    assert "is unknown" in page


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rho", "1.5", "less than or equal to 1"),
        ("rho", "nan", "Enter a number"),
        ("rho", "", "required"),
        ("max_chosen_chars", "0", "greater than or equal to 1"),
        ("max_chosen_judgment_chars", "many", "Enter a whole number"),
        ("min_valid_judgments", "<b>", "Enter a whole number"),
        ("min_valid_judgments", "99", "less than or equal to 6"),
    ],
)
def test_impossible_rules_are_said_in_place(
    client: Client, row: Experiment, field: str, value: str, said: str
) -> None:
    answer = client.get(PAGE, AS_IT_WAS | {field: value}, headers=HTMX)
    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert "<b>" not in answer.content.decode()


def test_region_history_and_methods(client: Client, row: Experiment) -> None:
    assert client.get(PAGE, headers=HTMX).content.decode().lstrip().startswith("<section")
    restored = client.get(PAGE, headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in restored.content.decode()
    assert client.post(PAGE).status_code == 405


def test_who_may_not_see_is_turned_away(row: Experiment) -> None:
    somebody = Client()
    assert somebody.get(PAGE)["Location"].startswith("/account/login")
    somebody.force_login(make_person("dora", "auditor"))
    assert somebody.get(PAGE).status_code == 403
    somebody.force_login(make_person("bob", "viewer"))
    Experiment.objects.update(is_private=True)
    assert somebody.get(PAGE).status_code == 404


def test_few_queries(
    client: Client, row: Experiment, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(6):
        client.get(PAGE, AS_IT_WAS | {"rho": "0"})


def test_an_iteration_without_pairs_yet_says_so(
    client: Client, alice: User, tmp_path: Path, settings: Settings
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    begun = scripted_world.begin(tmp_path)
    record(begun, alice)
    assert "No prompts have been sampled yet" in client.get(PAGE).content.decode()
    resources = scripted_world.make_scripted_resources(tmp_path, sloppy_reply)
    for stage in scripted_world.stages_before_training()[:2]:
        for shard in range(stage.plan_shards(begun.build_context(1))):
            stage.run_shard(begun.build_context(1), shard, resources)
    assert "No pairs have been selected yet" in client.get(PAGE).content.decode()


def test_an_address_with_one_rule_takes_the_others_from_the_recipe(
    client: Client, row: Experiment
) -> None:
    page = client.get(f"{PAGE}?rho=0.5")
    assert page.context["form"].is_valid()
    assert page.context["made"].rules.rho == 0.5
    expected = get_rules(opened(row)[0].recipe, 1)
    assert page.context["made"].rules.min_valid_judgments == expected.min_valid_judgments
    assert page.context["made"].rules.max_chosen_chars == expected.max_chosen_chars


def test_each_rule_has_a_number_field_with_the_value_of_the_recipe(
    client: Client, row: Experiment
) -> None:
    page = client.get(f"{PAGE}?rho=0.35").content.decode()
    assert '<input type="number" name="rho" value="0.35" step="0.01" data-slider="" min="0"' in page
    assert page.count("Recipe: ") == 4
    assert "Recipe: 0.3. " in page
    assert "Recipe: 70. " in page
