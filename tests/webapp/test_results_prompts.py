"""The list of an iteration's prompts, and the page of one."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from meta_reward_core.experiment import Experiment as OnDisk
from tests.core import scripted_world
from tests.webapp.conftest import make_person
from tests.webapp.results_fixtures import (
    HOSTILE,
    hostile_experiment,
    record,
    scripted_experiment,
    sloppy_reply,
)
from webapp.experiments.models import Experiment
from webapp.results import prompt_index, views

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}
LIST = "/experiments/scripted/iterations/1/prompts"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    return scripted_experiment(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


@pytest.fixture
def row(on_disk: OnDisk, alice: User, settings: Settings, pieces: Path) -> Experiment:
    settings.META_REWARD_SCRATCH_ROOT = str(pieces)
    return record(on_disk, alice)


def rows_of(on_disk: OnDisk, table: str, number: int = 1) -> list[dict[str, Any]]:
    folder = Path(on_disk.store.root) / on_disk.name / f"iteration-{number}" / table
    parts = sorted(folder.glob("part-*.parquet"))
    return [found for part in parts for found in pq.read_table(part).to_pylist()]


def listed(client: Client, query: str = "") -> list[str]:
    """Ids of the prompts on a page, in order."""
    answer = client.get(f"{LIST}{query}")
    assert answer.status_code == 200
    return [prompt.prompt_id for prompt in answer.context["prompts"]]


def test_the_list_shows_every_prompt_as_it_was_drawn(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    drawn = [found["prompt_id"] for found in rows_of(on_disk, "prompts")]
    assert listed(client) == drawn
    assert len(drawn) == 20


def test_figures_in_the_list_are_those_of_the_files(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    scores = rows_of(on_disk, "scores")
    judgments = rows_of(on_disk, "judgments")
    for prompt in client.get(LIST).context["prompts"]:
        own = [s for s in scores if s["prompt_id"] == prompt.prompt_id]
        means = [s["mean"] for s in own if s["mean"] is not None]
        assert prompt.gap == pytest.approx(max(means) - min(means))
        assert prompt.mean == pytest.approx(sum(means) / len(means))
        assert prompt.variance == pytest.approx(max(s["variance"] for s in own))
        assert prompt.length == pytest.approx(sum(s["length_chars"] for s in own) / len(own))
        unscored = [
            j for j in judgments if j["prompt_id"] == prompt.prompt_id and j["score"] is None
        ]
        assert prompt.unscored == len(unscored)


@pytest.mark.parametrize("figure", ["gap", "variance", "mean", "length"])
def test_the_list_sorts_both_ways(client: Client, row: Experiment, figure: str) -> None:
    falling = [getattr(p, figure) for p in client.get(f"{LIST}?sort={figure}").context["prompts"]]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) > 1
    rising = [getattr(p, figure) for p in client.get(f"{LIST}?sort=-{figure}").context["prompts"]]
    assert rising == sorted(rising)


def test_search_finds_text_in_any_capitals_and_nothing_else(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    wanted = rows_of(on_disk, "prompts")[3]
    assert listed(client, f"?q={wanted['text'].upper().replace('?', '%3F')}") == [
        wanted["prompt_id"]
    ]
    assert "No prompts match these filters" in client.get(f"{LIST}?q=.*").content.decode()


@pytest.mark.parametrize("kind", ["actor", "judge"])
def test_filters_by_outcome_are_what_the_files_say(
    client: Client, row: Experiment, on_disk: OnDisk, kind: str
) -> None:
    pairs = {found["prompt_id"] for found in rows_of(on_disk, f"{kind}_pairs")}
    dropped = [found for found in rows_of(on_disk, "dropped") if found["kind"] == kind]
    assert set(listed(client, f"?{kind}=pair")) == pairs
    assert set(listed(client, f"?{kind}=dropped")) == {found["prompt_id"] for found in dropped}
    for reason in {found["reason"] for found in dropped}:
        expected = {found["prompt_id"] for found in dropped if found["reason"] == reason}
        assert set(listed(client, f"?{kind}={reason}")) == expected
    assert pairs
    assert dropped


def test_prompts_with_unscored_judgments_can_be_picked_out(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    expected = {j["prompt_id"] for j in rows_of(on_disk, "judgments") if j["score"] is None}
    assert set(listed(client, "?unscored=on")) == expected


def test_prompts_whose_orders_disagree_can_be_picked_out(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    """Both orders are readable, and they do not name the same judgment."""
    won = {
        (b["first_judgment_id"], b["second_judgment_id"]): (
            b["first_judgment_id"] if b["verdict"] == "A" else b["second_judgment_id"],
            b["prompt_id"],
        )
        for b in rows_of(on_disk, "battles")
        if b["verdict"] is not None
    }
    expected = {
        prompt_id
        for (first, second), (winner, prompt_id) in won.items()
        if (second, first) in won and won[second, first][0] != winner
    }
    assert set(listed(client, "?inconsistent=on")) == expected
    assert expected


@pytest.mark.parametrize("figure", ["gap", "variance"])
def test_prompts_that_reach_a_figure_can_be_picked_out(
    client: Client, row: Experiment, figure: str
) -> None:
    """A prompt whose figure is exactly the least one that was asked for is listed, too."""
    known = {p.prompt_id: getattr(p, figure) for p in client.get(LIST).context["prompts"]}
    least = sorted(known.values())[len(known) // 2]
    expected = {prompt_id for prompt_id, found in known.items() if found >= least}
    assert set(listed(client, f"?{figure}_at_least={least!r}")) == expected
    assert 0 < len(expected) < len(known)


@pytest.mark.parametrize("name", ["gap_at_least", "variance_at_least"])
@pytest.mark.parametrize("wrong", ["-1", "nan", "much", "inf"])
def test_a_least_figure_that_is_none_is_said_and_lists_nothing(
    client: Client, row: Experiment, name: str, wrong: str
) -> None:
    answer = client.get(f"{LIST}?{name}={wrong}", headers=HTMX)
    assert answer.context["form"].errors[name]
    assert answer.context["prompts"] == []
    assert "Invalid filters" in answer.content.decode()


def test_a_prompt_without_a_figure_reaches_none(
    client: Client, alice: User, settings: Settings, tmp_path: Path
) -> None:
    """Before judging nothing is scored, and no least figure, not even 0, is reached."""
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    begun = scripted_world.begin(tmp_path / "root", prompts=60, sample={"prompts": 20})
    draw = scripted_world.stages_before_training()[0]
    draw.run_shard(
        begun.build_context(1), 0, scripted_world.make_scripted_resources(tmp_path / "root")
    )
    record(begun, alice)
    assert listed(client)
    assert listed(client, "?gap_at_least=0") == []
    assert listed(client, "?variance_at_least=0") == []


def test_filters_add_up(client: Client, row: Experiment) -> None:
    both = set(listed(client, "?actor=pair&judge=dropped"))
    assert both == set(listed(client, "?actor=pair")) & set(listed(client, "?judge=dropped"))


def test_a_filter_that_there_is_not_is_said_and_lists_nothing(
    client: Client, row: Experiment
) -> None:
    answer = client.get(f"{LIST}?sort=zebra&q={'x' * 501}")
    assert answer.status_code == 200
    page = answer.content.decode()
    assert "zebra is not one of the available choices" in page
    assert "at most 500 characters" in page
    assert answer.context["prompts"] == []


def test_pages_keep_the_filters(
    client: Client, row: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_PROMPTS_ON_A_PAGE", 3)
    whole = listed(client, "?sort=gap&page=1") + listed(client, "?sort=gap&page=2")
    assert len(whole) == 6
    page = client.get(f"{LIST}?sort=gap&page=2").content.decode()
    assert f'href="{LIST}?sort=gap&amp;page=3"' in page
    assert f'href="{LIST}?sort=gap&amp;page=1"' in page
    assert "page 2 of 7" in page


def test_the_region_alone_is_sent_to_htmx_but_not_when_it_restores_history(
    client: Client, row: Experiment
) -> None:
    region = client.get(LIST, headers=HTMX).content.decode()
    assert region.lstrip().startswith('<section id="prompt-list"')
    assert "<html" not in region
    restored = client.get(LIST, headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in restored.content.decode()


def prompt_path(on_disk: OnDisk, place: int = 0) -> str:
    return f"{LIST}/{rows_of(on_disk, 'prompts')[place]['prompt_id']}"


def test_the_page_of_a_prompt_shows_all_that_was_said(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    page = client.get(prompt_path(on_disk)).context["prompt"]
    own = [r for r in rows_of(on_disk, "responses") if r["prompt_id"] == page.prompt_id]
    assert [r.passage.text for r in page.responses] == [r["text"] for r in own]
    for shown in page.responses:
        judgments = [
            j for j in rows_of(on_disk, "judgments") if j["response_id"] == shown.response_id
        ]
        assert [j.passage.text for j in shown.judgments] == [j["text"] for j in judgments]
        assert [j.score for j in shown.judgments] == [j["score"] for j in judgments]
        (score,) = [s for s in rows_of(on_disk, "scores") if s["response_id"] == shown.response_id]
        assert (shown.mean, shown.variance) == (score["mean"], score["variance"])


def test_the_page_marks_the_pairs_and_says_why(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    pair = rows_of(on_disk, "actor_pairs")[0]
    answer = client.get(f"{LIST}/{pair['prompt_id']}")
    roles = {r.response_id: r.role for r in answer.context["prompt"].responses if r.role}
    assert roles == {
        pair["chosen_response_id"]: "chosen",
        pair["rejected_response_id"]: "rejected",
    }
    page = answer.content.decode()
    assert "With rho 0.3, the top tier is" in page
    assert "the shortest response of the top tier" in page
    chosen, rejected = (
        next(r for r in answer.context["prompt"].responses if r.role == role).role_reason
        for role in ("chosen", "rejected")
    )
    assert chosen.startswith("shortest complete response of the top tier (≥ ")
    assert rejected.startswith("longest response of the bottom tier (≤ ")
    judged = rows_of(on_disk, "judge_pairs")[0]
    shown = client.get(f"{LIST}/{judged['prompt_id']}").context["prompt"]
    roles = {j.judgment_id: j.role for r in shown.responses for j in r.judgments if j.role}
    assert roles == {
        judged["chosen_judgment_id"]: "chosen",
        judged["rejected_judgment_id"]: "rejected",
    }


def test_a_dropped_prompt_says_why(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    dropped = next(found for found in rows_of(on_disk, "dropped") if found["kind"] == "judge")
    page = client.get(f"{LIST}/{dropped['prompt_id']}").content.decode()
    assert dropped["reason"].replace("_", " ") in page


def test_both_orders_of_every_battle_are_in_the_heat_map(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    battle = rows_of(on_disk, "battles")[0]
    prompt = client.get(f"{LIST}/{battle['prompt_id']}").context["prompt"]
    fought = [b for b in rows_of(on_disk, "battles") if b["prompt_id"] == battle["prompt_id"]]
    assert len(prompt.battles.boxes) == len(fought)
    by_name = {box.name: box for box in prompt.battles.boxes}
    for one in fought:
        first, second = (one[f"{side}_judgment_id"].split(".")[-1] for side in ("first", "second"))
        expected = {"A": first, "B": second, "tie": "tie", None: "?"}[one["verdict"]]
        assert by_name[f"{first}, {second}"].label.text == expected
    wins = Counter(
        one[f"{side}_judgment_id"].split(".")[-1]
        for one in fought
        for side, verdict in (("first", "A"), ("second", "B"))
        if one["verdict"] == verdict
    )
    assert {record.name: record.wins for record in prompt.records if record.wins} == wins
    ratings = [record.elo for record in prompt.records]
    assert ratings == sorted(ratings, reverse=True)


def test_responses_are_sorted_by_mean_and_missing_judgments_are_explained(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    battle = rows_of(on_disk, "battles")[0]
    answer = client.get(f"{LIST}/{battle['prompt_id']}")
    prompt = answer.context["prompt"]
    means = [response.mean for response in prompt.by_mean]
    assert means == sorted(means, reverse=True)
    judgments = [
        j for j in rows_of(on_disk, "judgments") if j["response_id"] == battle["response_id"]
    ]
    fought = {record.name for record in prompt.records}
    missing = {f"j{j['sample']}" for j in judgments} - fought
    explained = {
        name for line in prompt.not_compared for name in line.partition(":")[0].split(", ")
    }
    assert explained == missing
    assert [r.response_id for r in prompt.responses if r.is_compared] == [battle["response_id"]]
    page = answer.content.decode()
    assert "judgments compared" in page
    assert "largest variance" in page
    names = [f"j{sample}" for sample in range(6)]
    assert prompt.judgment_names == names
    scores = {j["sample"]: j["score"] for j in judgments}
    compared = next(r for r in prompt.responses if r.is_compared)
    assert compared.scores == [
        "–" if scores[at] is None else f"{scores[at]:g}" for at in range(len(names))
    ]
    assert [swatch.tone for swatch in prompt.battles.swatches] == ["up-3", "down-3"]
    assert "row won (shown first)" in page
    assert all(
        record.elo_text[0] in "+−–" or record.elo_text == "0.00" for record in prompt.records
    )


def test_what_the_meta_judge_wrote_can_be_read_in_both_orders(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    battles = rows_of(on_disk, "battles")
    one = next(battle for battle in battles if battle["verdict"] == "A")
    ids = (one["first_judgment_id"], one["second_judgment_id"])
    first, second = (name.split(".j")[-1] for name in ids)
    other = next(b for b in battles if (b["second_judgment_id"], b["first_judgment_id"]) == ids)
    address = f"{LIST}/{one['prompt_id']}/battle?first={first}&second={second}"
    shown = client.get(address).context["battle"]
    assert [order.passage.text for order in shown.orders] == [one["text"], other["text"]]
    assert shown.orders[0].winner == int(first)
    assert [judgment.sample for judgment in shown.compared] == [int(first), int(second)]
    part = client.get(address, headers=HTMX).content.decode()
    assert part.lstrip().startswith("<section")
    against_itself = f"{LIST}/{one['prompt_id']}/battle?first={first}&second={first}"
    assert "were not compared" in client.get(against_itself).content.decode()
    for wrong in ("", "?first=x&second=1", f"?first={first}"):
        assert client.get(f"{LIST}/{one['prompt_id']}/battle{wrong}").status_code == 404
    assert client.get(f"{LIST}/{'0' * 64}/battle?first=0&second=1").status_code == 404


def test_elo_ratings_are_those_of_the_files(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    rating = rows_of(on_disk, "ratings")[0]
    prompt = client.get(f"{LIST}/{rating['prompt_id']}").context["prompt"]
    elo = {j.judgment_id: j.elo for r in prompt.responses for j in r.judgments}
    assert elo[rating["judgment_id"]] == rating["elo"]


def test_pages_cost_the_same_few_queries_however_much_they_show(
    client: Client,
    row: Experiment,
    on_disk: OnDisk,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for path in (LIST, prompt_path(on_disk), f"{LIST}?sort=gap&unscored=on"):
        with django_assert_max_num_queries(6):
            client.get(path)


@pytest.mark.parametrize("rest", ["", "/0123", "/x' OR 1=1"])
def test_what_there_is_not_is_404(client: Client, row: Experiment, rest: str) -> None:
    assert client.get(f"/experiments/scripted/iterations/2/prompts{rest}").status_code == 404
    assert client.get(f"/experiments/other/iterations/1/prompts{rest}").status_code == 404
    if rest:
        assert client.get(f"{LIST}{rest}").status_code == 404


def test_pages_show_and_take_no_post(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    for path in (LIST, prompt_path(on_disk)):
        assert client.post(path).status_code == 405


def test_pages_are_for_those_who_signed_in_and_may_see(row: Experiment, on_disk: OnDisk) -> None:
    somebody = Client()
    for path in (LIST, prompt_path(on_disk)):
        assert somebody.get(path)["Location"].startswith("/account/login")
    somebody.force_login(make_person("dora", "auditor"))
    for path in (LIST, prompt_path(on_disk)):
        assert somebody.get(path).status_code == 403


def test_a_strangers_private_experiment_is_404(row: Experiment, on_disk: OnDisk) -> None:
    bob = Client()
    bob.force_login(make_person("bob", "viewer"))
    assert bob.get(LIST).status_code == 200
    Experiment.objects.update(is_private=True)
    for path in (LIST, prompt_path(on_disk)):
        assert bob.get(path).status_code == 404


def test_an_iteration_that_is_not_finished_shows_what_is_there(
    client: Client, alice: User, tmp_path: Path, settings: Settings
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    begun = scripted_world.begin(tmp_path)
    record(begun, alice)
    assert "No prompts have been sampled yet" in client.get(LIST).content.decode()
    context, resources = (
        begun.build_context(1),
        scripted_world.make_scripted_resources(tmp_path, sloppy_reply),
    )
    stages = {stage.name: stage for stage in scripted_world.stages_before_training()}
    stages["sample"].run_shard(context, 0, resources)
    assert len(listed(client)) == 20
    stages["generate"].run_shard(context, 0, resources)
    first = f"{LIST}/{listed(client)[0]}"
    page = client.get(first).content.decode()
    assert "not judged yet" in page
    assert "not chosen yet" in page
    stages["judge"].run_shard(context, 0, resources)
    assert client.get(first).context["prompt"].responses[0].mean is not None
    last = client.get(f"{LIST}/{listed(client)[-1]}").content.decode()
    assert "There are no responses yet" in last


def test_a_first_visit_reads_part_by_part_and_says_how_far_it_is(
    client: Client, row: Experiment, settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path)
    prompt_index._whole.clear()
    monkeypatch.setattr(prompt_index.find_index, "__kwdefaults__", {"budget_seconds": 0.0})
    first = client.get(LIST, headers=HTMX)
    page = first.content.decode()
    assert "1 of 3 parts" in page
    assert 'hx-trigger="every 1s"' in page
    assert len(first.context["prompts"]) == 8
    unread = client.get(f"{LIST}/{'0' * 64}").content.decode()
    assert "2 of 3 parts" in unread
    last = client.get(LIST)
    assert "every 1s" not in last.content.decode()
    assert len(last.context["prompts"]) == 20


def test_a_piece_that_was_damaged_is_made_again(
    client: Client, row: Experiment, settings: Settings, tmp_path: Path
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path)
    prompt_index._whole.clear()
    expected = listed(client)
    (piece, *_) = tmp_path.rglob("part-00000.*.arrow")
    piece.write_bytes(b"no arrow")
    prompt_index._whole.clear()
    assert listed(client) == expected
    assert piece.read_bytes() != b"no arrow"


def test_a_damaged_file_is_said_and_never_shown_as_if_it_were_whole(
    client: Client, alice: User, tmp_path: Path, settings: Settings
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    made = scripted_experiment(tmp_path)
    record(made, alice)
    prompt_id = listed(client)[0]
    part = tmp_path / "scripted/iteration-1/judgments/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    answer = client.get(f"{LIST}/{prompt_id}")
    assert answer.status_code == 503
    assert "missing or damaged" in answer.content.decode()
    assert str(tmp_path) not in answer.content.decode()


def test_an_outside_judge_is_named_wherever_points_are_shown(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    prompt_id = rows_of(on_disk, "prompts")[0]["prompt_id"]
    base = "/experiments/scripted"
    pages = [
        *("/", base, f"{base}/iterations/1", LIST, f"{LIST}/{prompt_id}"),
        *(f"{base}/prompts/{prompt_id}", f"{base}/iterations/1/what-if", "/experiments/compare"),
    ]
    for named in (False, True):
        for page in pages:
            shown = client.get(page).content.decode()
            words = (
                "This experiment uses an external judge",
                "· external judge",
                "by the endpoint big",
            )
            assert any(word in shown for word in words) is named, page
        recipe = row.recipe | {"judge": row.recipe["judge"] | {"endpoint": "big"}}
        Experiment.objects.update(recipe=recipe)


def test_a_policy_on_reasoning_is_named_where_texts_are_shown(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    prompt_id = rows_of(on_disk, "prompts")[0]["prompt_id"]
    base = "/experiments/scripted"
    pages = (base, f"{base}/iterations/1", LIST, f"{LIST}/{prompt_id}")
    for policy in (None, "strip"):
        if policy is not None:
            recipe = row.recipe | {"actor": row.recipe["actor"] | {"reasoning": policy}}
            Experiment.objects.update(recipe=recipe)
        for page in pages:
            shown = client.get(page).content.decode()
            assert ("responses <code>strip</code>" in shown) is (policy is not None), page


def test_what_models_and_people_write_is_text_and_never_markup(
    client: Client, alice: User, tmp_path: Path, settings: Settings
) -> None:
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path / "scratch")
    made = hostile_experiment(tmp_path)
    record(made, alice)
    base = "/experiments/scripted/iterations/1/prompts"
    pages = [client.get(base)]
    prompt_id = pages[0].context["prompts"][0].prompt_id
    pages += [
        client.get(f"{base}/{prompt_id}"),
        client.get(f"/experiments/scripted/prompts/{prompt_id}"),
        client.get("/experiments/scripted/iterations/1/what-if?rho=0.4&min_valid_judgments=1"),
        client.get(base, {"q": HOSTILE}),
        client.get(f"{base}/{prompt_id}/battle?first=0&second=1"),
    ]
    for answer in pages:
        page = answer.content.decode()
        assert "<script>alert" not in page
        assert "<img" not in page
        assert 'hx-get="/admin/"' not in page
        assert len(page) < 1_500_000, "a text of a megabyte is cut"
    whole = pages[1].content.decode()
    assert "&lt;script&gt;alert(1)" in whole
    assert "{{ 7|add:7 }}" in whole
    assert "more characters are not shown" in whole
